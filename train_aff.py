"""Train AffinityNet: features in which neighbouring pixels of one class are near, from the CRF seeds.

    python train_aff.py                                  one GPU, or several in this process (DataParallel)
    torchrun --nproc-per-node 4 -- train_aff.py             four processes that share each batch

Reads the images, exp/<run>/labels/<train split>/seeds and ImageNet weights; writes exp/<run>/aff/: model.pth, last.pth
(from which the same command resumes), args.json, env.json, log.txt, metrics.jsonl and TensorBoard events.
"""
import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from lib.data.datasets import AffTrainSet
from lib.data.loading import steps_of, training_batches
from lib.data.npyio import label_source
from lib.data.registry import get_spec
from lib.files.imageio import voc_palette
from lib.net.aff import AffinityNet
from lib.net.backbones import make_backbone
from lib.net.freeze import FREEZE, set_train_mode
from lib.net.optimizer import make_optimizer
from lib.net.weights import load_imagenet, save_network
from lib.process import ranks
from lib.process.ending import run_script
from lib.process.ranges import COUNT, integer
from lib.run import device as devices
from lib.run.digests import Digests
from lib.run.labelled import Labelled
from lib.run.loop import train
from lib.run.options import NOTHING, add_device_flags, add_training_flags, base_parser, resolve
from lib.run.origin import check_labels, training_origin, weights_digest
from tool.affutils import affinity_loss, mean_affinity, pair_affinity, pair_counts, pair_labels
from tool.drawing import blend, grey, magnified, side_by_side, stacked
from tool.imutils import denormalise
from tool.torchutils import poly_factor


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults reproduce the paper on VOC."""
    parser = base_parser(__doc__)
    add_device_flags(parser, backbone='resnet38d')
    # As in CAM training, the published runs passed weight decay in momentum's place.
    add_training_flags(parser, batch_size=8, lr=0.01, momentum=5e-4)
    group = parser.add_argument_group('affinity objective')
    group.add_argument('--epochs', type=integer(1, 100_000), default=8, help='passes over the training split')
    group.add_argument('--min-steps', type=integer(0, COUNT), default=0, metavar='N',
                       help='pass over a small split more often than --epochs says, until N steps are done')
    group.add_argument('--crop-size', type=integer(8, 8192), default=448, help='side of the training crop, pixels')
    group.add_argument('--radius', type=integer(2, 32), default=5, help='pairs are nearer than this, in feature pixels')
    group.add_argument('--seed-dir', type=Path, metavar='DIR',
                       help='CRF seeds; the default is exp/<run>/labels/<train split>/seeds').affects = NOTHING
    group.add_argument('--unpickle', action='store_true',
                       help='the folder holds two folders alpha_<strength> of pickled .npy files, as the reference and '
                       'infer_cam.py --export-npy write').affects = NOTHING
    group.add_argument('--dropout', action=argparse.BooleanOptionalAction, default=True, help='dropout in the backbone')
    group.add_argument('--freeze', choices=tuple(FREEZE), default='early',
                       help='what keeps its ImageNet weights: the first layers, or the whole backbone')
    return parser


def make_network(args: argparse.Namespace) -> AffinityNet:
    """AffinityNet on ImageNet weights; batch norm and what --freeze names stay as they are there."""
    torch.manual_seed(args.seed)
    dropouts = (0.3, 0.5) if args.dropout else (0, 0)
    backbone = make_backbone(args.backbone, args.width, args.output_stride, dropouts)
    load_imagenet(backbone, args.weights)
    network = AffinityNet(backbone)
    FREEZE[args.freeze](network)
    set_train_mode(network, batch_norm='running')
    return network


def make_step(args: argparse.Namespace, network: Callable) -> Callable:
    """The training step: affinities of near pixels against the pairs that the seeds are sure of."""

    def step(batch: Mapping) -> dict[str, torch.Tensor]:
        features = network(batch['image'])
        affinity = pair_affinity(features, args.radius)                     # [N, offsets, positions] in (0, 1]
        terms = affinity_loss(affinity, pair_labels(batch['label'], args.radius), batch['counts'])
        terms['loss'] = terms['bg'] / 4 + terms['fg'] / 4 + terms['neg'] / 2
        return terms

    return step


def make_counts(args: argparse.Namespace) -> Callable:
    """Function that counts the pairs of each kind in a batch: what the losses are divided by."""
    return lambda batch: pair_counts(pair_labels(batch['label'], args.radius))


def make_pictures(args: argparse.Namespace, dataset: AffTrainSet, network: AffinityNet,
                  device: torch.device) -> Callable:
    """Function that draws, for some training crops: the image, its label from the two seeds, the mean affinity.

    Affinity to the neighbours is a grey map, dark at the edges that the network sees. Pale yellow is ignored.
    """
    stride, norm = network.backbone.stride, network.backbone.norm
    samples = dataset.first(4)

    def draw() -> dict[str, np.ndarray]:
        network.eval()
        rows = []
        for sample in samples:
            image = (denormalise(sample['image'].numpy(), norm).clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
            with torch.inference_mode():
                features = network(sample['image'][None].to(device))
            size = tuple(features.shape[-2:])
            near = mean_affinity(pair_affinity(features, args.radius)[0].cpu().numpy(), size, args.radius)
            label = blend(image, magnified(sample['label'].numpy(), stride), voc_palette())
            rows.append(side_by_side([image, label, magnified(grey(near), stride)]))
        set_train_mode(network, batch_norm='running')
        return {'affinity': stacked(rows)}

    return draw


def main(argv=None):
    """Train on the data set's training split."""
    args, spec = resolve(make_parser(), argv, 'train_aff', get_spec)
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)

    # Data and network.
    network = make_network(args)
    own_seeds = args.folder / 'labels' / spec.train_split / 'seeds'
    seeds, _ = label_source(args.seed_dir, own_seeds, args.unpickle, '--seed-dir')
    dataset = AffTrainSet(spec, spec.train_split, network.backbone.norm, args.crop_size, seeds,
                          seed=args.seed, limit=args.limit, unpickle=args.unpickle, stride=args.output_stride)
    dataset.check()
    steps = steps_of(len(dataset), args.batch_size, args.epochs, args.max_steps, spec.train_split, args.min_steps)
    part = ranks.shares(args.batch_size, args.accumulate)
    folder = args.folder / 'aff'
    ranks.print_rank0(f'AffinityNet: {steps} steps of {args.batch_size} images ({spec.name} {spec.train_split}) to '
                      f'{folder}')

    # What the network is made from.
    digests = Digests(args.folder / '.digests.json')
    check_labels(dataset.label_files(), spec, digests.of(dataset.label_images()), dataset.remedy())
    if args.dry_run:
        return
    origin = training_origin(args, spec, digests, dataset.samples, weights=weights_digest(args.weights, digests),
                             seeds=dataset.label_files())

    def save(path: Path, origin: Mapping) -> None:
        save_network(path, network, {'network': 'aff', 'backbone': args.backbone, 'width': args.width,
                                     'output_stride': args.output_stride, 'classes': list(spec.classes),
                                     'origin': origin})

    # Train.
    amp = devices.pick_amp(args.amp, device)
    network = devices.place(network, device, amp)
    step = make_step(args, devices.parallel(network, device, amp=amp, compiled=args.compile))
    counts = Labelled(make_counts(args), steps, f'the seeds in {seeds} are sure of no two pixels in the first batches: '
                      'nothing to learn from; give infer_cam.py other --seed-alphas')
    train(args, folder, network, make_optimizer(network, args.lr, args.momentum, args.weight_decay, args.head_lr), step,
          training_batches(dataset, args.batch_size, steps, args.seed, args.workers, part, args.on_corrupt),
          lambda step: poly_factor(step, steps, args.poly_power), steps, device,
          make_pictures(args, dataset, network, device) if args.picture_every else None,
          origin=origin, save=save, counts=counts)


if __name__ == '__main__':
    run_script(main)
