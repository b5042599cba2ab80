"""Body of the two CAM training scripts: SEAM with the importance-sampling and the feature-similarity loss."""
import argparse
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from lib.data.datasets import CamTrainSet, steps_of
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import voc_palette
from lib.net.freeze import FREEZE, set_train_mode
from lib.net.seam import Seam
from lib.process import ranks
from lib.process.cli import LowHigh, integer, number
from lib.process.ranks import batch_rows
from lib.run import device as devices
from lib.run.options import resolve
from lib.training import Stage, add_epoch_flags, pretrained_backbone, training_parser, validation_samples
from tool.camloss import cam_objective, second_view
from tool.camutils import cam_label
from tool.drawing import blend, heat
from tool.imutils import Norm, normalise, resize_bicubic, scaled_size
from tool.seamutils import fuse_scales

LENGTH = number(0, 1000, above=True)


def make_parser(doc: str, dataset: str) -> argparse.ArgumentParser:
    """Flags of CAM training; the defaults reproduce the paper on VOC."""
    # The published runs passed weight decay in momentum's place, so their SGD has momentum 0.0005.
    parser = training_parser(doc, batch_size=8, lr=0.01, momentum=5e-4, freeze=tuple(FREEZE))
    parser.set_defaults(dataset=dataset)
    add_epoch_flags(parser)
    group = parser.add_argument_group('CAM objective')
    group.add_argument('--empty-classes', choices=('refuse', 'allow'), default='refuse',
                       help='whether to stop (refuse) or continue (allow) if a class is in no training image')
    group.add_argument('--long-side', type=integer(8, 8192), action=LowHigh, default=(448, 768),
                       metavar=('LOW', 'HIGH'),
                       help='range of the random long side of training images, pixels')
    group.add_argument('--view2-scale', type=number(0.05, 2), default=0.3,
                       help='size of the second view relative to the first')
    group.add_argument('--isl-weight', type=number(0, 1), default=0.2, metavar='LAMBDA',
                       help='weight of the importance-sampling loss; the classification loss of the first view gets '
                       '1 - LAMBDA; 0 turns it off')
    group.add_argument('--isl-samples', type=integer(1, 100_000), default=10,
                       help='pixels sampled per image and class')
    group.add_argument('--loss-weight', dest='isl_weight', type=one_weight, default=argparse.SUPPRESS,
                       help=argparse.SUPPRESS)
    group.add_argument('--fsl', action=argparse.BooleanOptionalAction, default=True, help='feature-similarity loss')
    group.add_argument('--fsl-weight', type=number(0, 1000), default=1.0,
                       help='weight of the feature-similarity loss')
    group.add_argument('--fsl-mu', type=number(0, 1000), default=2.5,
                       help='the larger, the smaller the colour difference at which two pixels count as different')
    group.add_argument('--fsl-sigma', type=sigma, default=5.0,
                       help='width of the Gaussian window of the feature-similarity loss, in pixels of the class '
                       'maps; none for no window')
    return parser


def one_weight(word: str) -> None:
    """Value of --loss-weight, a flag of the reference that does not say which loss it means."""
    raise argparse.ArgumentTypeError('say of which loss: --isl-weight or --fsl-weight')


def sigma(word: str) -> float | None:
    """Value of --fsl-sigma: a length above 0, or none."""
    return None if word == 'none' else LENGTH(word)


def make_network(args: argparse.Namespace, spec: DatasetSpec) -> Seam:
    """SEAM with ImageNet weights; batch norm and what --freeze names are not trained."""
    network = Seam(pretrained_backbone(args), spec.num_classes, dropout=0.5 if args.dropout else 0)
    FREEZE[args.freeze](network)
    set_train_mode(network, batch_norm='running')
    return network


def make_step(args: argparse.Namespace, network: Callable, norm: Norm) -> Callable:
    """The training step: two views of a batch -> every term of the objective by name."""
    fsl_weight = args.fsl_weight if args.fsl else 0

    def step(batch: Mapping) -> dict[str, torch.Tensor]:
        images = batch['image']
        view1 = network(images)
        view2 = network(second_view(images, args.view2_scale))
        return cam_objective(view1, view2, images, batch['image_labels'], norm=norm,
                             isl_weight=args.isl_weight, isl_samples=args.isl_samples, fsl_weight=fsl_weight,
                             fsl_mu=args.fsl_mu, fsl_sigma=args.fsl_sigma, batch_rows=batch_rows(len(images)))

    return step


def draw_row(args: argparse.Namespace, network: Seam, device: torch.device, sample: Mapping) -> list[np.ndarray]:
    """For TensorBoard: a validation image, its strongest class map, and the labels at 0.25."""
    image, present = sample['image'], np.flatnonzero(sample['image_labels'])
    factor = args.crop_size / max(image.shape[:2])
    image = resize_bicubic(image, *scaled_size(*image.shape[:2], factor))
    view = torch.from_numpy(normalise(image, network.backbone.norm))[None].to(device)
    cam = fuse_scales(network(view).refined[:, 1:][:, present]).cpu().numpy()
    label = cam_label(present, cam, 0.25)
    return [image, heat(image, cam.max(0, initial=0)), blend(image, label, voc_palette())]


def train_cam(doc: str, dataset: str, argv: list[str] | None) -> None:
    """Train on the data set's training split: the part that both scripts share."""
    args, spec = resolve(make_parser(doc, dataset), argv, 'train_cam', get_spec)
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)

    # Data and network.
    network = make_network(args, spec)
    norm = network.backbone.norm
    data = CamTrainSet(spec, spec.train_split, norm, args.crop_size, tuple(args.long_side), seed=args.seed,
                       limit=args.limit)
    data.check()
    if warning := spec.check_image_labels(spec.train_split, args.empty_classes == 'allow'):
        ranks.print_rank0(warning)
    samples = [sample for _, sample in validation_samples(args, spec, with_labels=True)]
    steps = steps_of(len(data), args.batch_size, args.epochs, args.max_steps, spec.train_split, args.min_steps)
    stage = Stage('cam', args, spec, device, data, steps)
    if args.dry_run:
        return

    # What the result depends on: it must be the same in a resumed run.
    origin = stage.origin(data.labels)

    # Train.
    step = make_step(args, stage.forward(network), norm)
    pictures = 'cam', samples, partial(draw_row, args, network, device)
    stage.train(network, 'seam', step, origin, pictures=pictures)
