"""Body of the two CAM training scripts: SEAM with the importance-sampling and the feature-similarity loss."""
import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from lib.data.datasets import CamTrainSet, InferSet
from lib.data.loading import steps_of, training_batches
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import voc_palette
from lib.net.backbones import make_backbone
from lib.net.freeze import FREEZE, set_train_mode
from lib.net.optimizer import make_optimizer
from lib.net.seam import Seam
from lib.net.weights import load_imagenet, save_network
from lib.process import ranks
from lib.process.batchpart import batch_rows
from lib.process.ranges import COUNT, LowHigh, integer, number
from lib.run import device as devices
from lib.run.digests import Digests
from lib.run.loop import train
from lib.run.options import (
    add_device_flags,
    add_training_flags,
    base_parser,
    resolve,
)
from lib.run.origin import training_origin, weights_digest
from tool.camloss import cam_objective, second_view
from tool.camutils import cam_label, fuse_scales
from tool.drawing import blend, heat, side_by_side, stacked
from tool.imutils import normalise, resize_bicubic, scaled_size
from tool.torchutils import poly_factor

LENGTH = number(0, 1000, above=True)


def make_parser(doc: str, dataset: str) -> argparse.ArgumentParser:
    """Flags of CAM training; the defaults reproduce the paper on VOC."""
    parser = base_parser(doc)
    parser.set_defaults(dataset=dataset)
    add_device_flags(parser, backbone='resnet38d')
    # The published runs passed weight decay in momentum's place, so their SGD has momentum 0.0005.
    add_training_flags(parser, batch_size=8, lr=0.01, momentum=5e-4)
    group = parser.add_argument_group('CAM objective')
    group.add_argument('--epochs', type=integer(1, 100_000), default=8, help='passes over the training split')
    group.add_argument('--min-steps', type=integer(0, COUNT), default=0, metavar='N',
                       help='pass over a small split more often than --epochs says, until N steps are done')
    group.add_argument('--empty-classes', choices=('refuse', 'allow'), default='refuse',
                       help='what to do about a class that no training image shows')
    group.add_argument('--crop-size', type=integer(8, 8192), default=448, help='side of the training crop, pixels')
    group.add_argument('--long-side', type=integer(8, 8192), action=LowHigh, default=(448, 768),
                       metavar=('LOW', 'HIGH'),
                       help='range from which the long side of a training image is drawn, pixels')
    group.add_argument('--view2-scale', type=number(0.05, 2), default=0.3,
                       help='size of the second view over the first')
    group.add_argument('--dropout', action=argparse.BooleanOptionalAction, default=True, help='dropout in the network')
    group.add_argument('--freeze', choices=tuple(FREEZE), default='early',
                       help='what keeps its ImageNet weights: the first layers, or the whole backbone')
    group.add_argument('--isl-weight', type=number(0, 1), default=0.2, metavar='LAMBDA',
                       help='share of the importance-sampling loss in the first view\'s classification loss; 0 is off')
    group.add_argument('--isl-samples', type=integer(1, 100_000), default=10,
                       help='pixels drawn for an image and class')
    group.add_argument('--fsl', action=argparse.BooleanOptionalAction, default=True, help='feature-similarity loss')
    group.add_argument('--fsl-weight', type=number(0, 1000), default=1.0,
                       help='weight of the feature-similarity loss')
    group.add_argument('--fsl-mu', type=number(0, 1000), default=2.5,
                       help='colour difference at which similarity changes sign: larger is less tolerant')
    group.add_argument('--fsl-sigma', type=sigma, default=5.0,
                       help='reach of the feature-similarity loss in pixels of the logits; none is unlimited')
    return parser


def sigma(word: str) -> float | None:
    """Value of --fsl-sigma: a length above 0, or none."""
    return None if word == 'none' else LENGTH(word)


def make_network(args: argparse.Namespace, spec: DatasetSpec) -> Seam:
    """SEAM with ImageNet weights; batch norm and what --freeze names stay as they are there."""
    torch.manual_seed(args.seed)
    dropouts = (0.3, 0.5) if args.dropout else (0, 0)
    backbone = make_backbone(args.backbone, args.width, args.output_stride, dropouts)
    load_imagenet(backbone, args.weights)
    network = Seam(backbone, spec.num_classes, dropout=0.5 if args.dropout else 0)
    FREEZE[args.freeze](network)
    set_train_mode(network, batch_norm='running')
    return network


def make_step(args: argparse.Namespace, network: Callable, norm) -> Callable:
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


def make_pictures(args: argparse.Namespace, spec: DatasetSpec, network: Seam, device: torch.device) -> Callable:
    """Function that draws, for some validation images: the image, its strongest class map, and the labels at 0.25."""
    try:
        samples = InferSet(spec, spec.val_split).first(4)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f'{error}; --picture-every 0 needs no {spec.val_split} images') from error
    norm = network.backbone.norm

    def draw() -> dict[str, np.ndarray]:
        network.eval()
        rows = []
        for _, sample in samples:
            image, present = sample['image'], np.flatnonzero(sample['image_labels'])
            factor = args.crop_size / max(image.shape[:2])
            image = resize_bicubic(image, *scaled_size(*image.shape[:2], factor))
            view = torch.from_numpy(normalise(image, norm))[None].to(device)
            with torch.inference_mode():
                cam = fuse_scales(network(view).refined[:, 1:][:, present]).cpu().numpy()
            label = cam_label(present, cam, 0.25)
            rows.append(side_by_side([image, heat(image, cam.max(0, initial=0)), blend(image, label, voc_palette())]))
        set_train_mode(network, batch_norm='running')
        return {'cam': stacked(rows)}

    return draw


def train_cam(doc: str, dataset: str, argv: list[str] | None) -> None:
    """Train on the data set's training split; what the two scripts share."""
    args, spec = resolve(make_parser(doc, dataset), argv, 'train_cam', get_spec)
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)

    # Data and network.
    network = make_network(args, spec)
    data = CamTrainSet(spec, spec.train_split, network.backbone.norm, args.crop_size, tuple(args.long_side),
                       seed=args.seed, limit=args.limit)
    data.check()
    if warning := spec.check_labels(spec.train_split, args.empty_classes == 'allow'):
        ranks.print_rank0(warning)
    pictures = make_pictures(args, spec, network, device) if args.picture_every else None
    steps = steps_of(len(data), args.batch_size, args.epochs, args.max_steps, spec.train_split, args.min_steps)
    part = ranks.shares(args.batch_size, args.accumulate)
    folder = args.folder / 'cam'
    ranks.print_rank0(f'CAM network: {steps} steps of {args.batch_size} images ({spec.name} {spec.train_split}) to '
                      f'{folder}')
    if args.dry_run:
        return

    # What the network is made from.
    digests = Digests(args.folder / '.digests.json')
    origin = training_origin(args, spec, digests, data.samples, data.labels,
                             weights=weights_digest(args.weights, digests))

    def save(path: Path, origin: Mapping) -> None:
        save_network(path, network, {'network': 'seam', 'backbone': args.backbone, 'width': args.width,
                                     'output_stride': args.output_stride, 'classes': list(spec.classes),
                                     'origin': origin})

    # Train.
    amp = devices.pick_amp(args.amp, device)
    network = devices.place(network, device, amp)
    step = make_step(args, devices.parallel(network, device, amp=amp, compiled=args.compile), network.backbone.norm)
    train(args, folder, network, make_optimizer(network, args.lr, args.momentum, args.weight_decay, args.head_lr), step,
          training_batches(data, args.batch_size, steps, args.seed, args.workers, part, args.on_corrupt),
          lambda step: poly_factor(step, steps, args.poly_power), steps, device, pictures, origin=origin, save=save)
