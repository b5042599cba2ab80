"""Train DeepLab on the pseudo-labels.

    python train_seg.py                                  one GPU
    torchrun --nproc-per-node 4 -- train_seg.py          four processes that share each batch
    python train_seg.py --labels data/VOCdevkit/VOC2012/SegmentationClassAug --run upper     on ground truth

Reads the images, exp/<run>/labels/<train split>/walk and ImageNet weights; writes exp/<run>/seg/: model.pth, last.pth
(from which the same command resumes), args.json, env.json, log.txt, metrics.jsonl and TensorBoard events.
"""
import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from lib.areas import match_areas
from lib.data.checks import read_ground_truth
from lib.data.datasets import SegTrainSet, steps_of
from lib.data.registry import get_spec
from lib.files.imageio import IGNORED, voc_palette
from lib.net.deeplab import DeepLab
from lib.net.freeze import FREEZE_SEG, set_train_mode
from lib.net.syncnorm import share_batch_norm
from lib.process.cli import LowHigh, integer, number
from lib.process.ending import run_script
from lib.run import device as devices
from lib.run.options import NOTHING, resolve
from lib.training import Stage, pretrained_backbone, training_parser, validation_samples
from tool.drawing import blend
from tool.imutils import normalise


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults reproduce the paper on VOC."""
    parser = training_parser(__doc__, batch_size=10, lr=0.001, momentum=0.9, freeze=tuple(FREEZE_SEG))
    group = parser.add_argument_group('segmentation')
    group.add_argument('--scale', type=number(0.05, 8), action=LowHigh, default=(0.5, 1.5), metavar=('LOW', 'HIGH'),
                       help='range of the random scale factor of training images')
    group.add_argument('--labels', type=Path, metavar='DIR',
                       help='folder of the label PNGs to train on; the default is '
                       'exp/<run>/labels/<train split>/walk').affects = NOTHING
    group.add_argument('--dilation', type=integer(1, 256), default=12, help='dilation of the head\'s 3x3 convolution')
    group.add_argument('--fov-channels', type=integer(1, 8192), default=512, help='number of channels of the head')
    group.add_argument('--bn-momentum', type=number(0, 1, above=True), default=3e-4,
                       help='weight of a new batch in the running statistics of batch norm')
    group.add_argument('--match-areas', action=argparse.BooleanOptionalAction, default=False,
                       help='after the last step, shift the logits of the classes so that each covers as much of the '
                       'training images as its pseudo-labels do; for short trainings, which predict classes too small')
    return parser


def make_network(args: argparse.Namespace, num_classes: int) -> DeepLab:
    """DeepLab with ImageNet weights. Batch norm uses batch statistics, its scale and shift are not trained; everything
    else is, unless --freeze says otherwise.

    The published code never calls .train(); the consequences are set explicitly here.
    """
    backbone = pretrained_backbone(args, args.bn_momentum)
    network = DeepLab(backbone, num_classes, args.fov_channels, args.dilation, 0.5 if args.dropout else 0,
                      args.bn_momentum)
    FREEZE_SEG[args.freeze](network)
    set_train_mode(network, batch_norm='batch')
    if args.freeze == 'backbone':
        set_train_mode(network.backbone, batch_norm='running')
    return network


def make_step(network: Callable) -> Callable:
    """The training step: mean cross-entropy over the labelled pixels."""

    def step(batch: Mapping) -> dict[str, torch.Tensor]:
        logits = network(batch['image'])                                    # [N, C, H, W]
        loss = F.cross_entropy(logits.float(), batch['mask'], ignore_index=IGNORED, reduction='sum')
        return {'loss': loss / batch['counts'].clamp(min=1e-6)}               # 0 where all pixels are ignored

    return step


def count_labelled(batch: Mapping) -> torch.Tensor:
    """Number of labelled pixels, by which the loss is divided."""
    return (batch['mask'] != IGNORED).sum()


def draw_row(network: DeepLab, device: torch.device, sample: tuple) -> list[np.ndarray]:
    """For TensorBoard: a validation image, its segmentation, and the ground truth if there is any."""
    image, truth = sample
    view = torch.from_numpy(normalise(image, network.backbone.norm))[None].to(device)
    masks = [network(view)[0].argmax(0).byte().cpu().numpy(), *([] if truth is None else [truth])]
    return [image, *(blend(image, mask, voc_palette()) for mask in masks)]


def main(argv=None):
    """Train on the pseudo-labels of the data set's training split."""
    args, spec = resolve(make_parser(), argv, 'train_seg', get_spec)
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)
    if args.accumulate > 1:
        raise ValueError(f'--accumulate {args.accumulate}: batch norm needs the whole batch here, but each pass sees a '
                         'part of it; use more GPUs with torchrun, --amp bf16, or a smaller --batch-size')

    # Data and network.
    network = make_network(args, spec.num_classes)
    labels = args.labels or args.folder / 'labels' / spec.train_split / 'walk'
    dataset = SegTrainSet(spec, spec.train_split, network.backbone.norm, args.crop_size, labels, seed=args.seed,
                          scale=args.scale, limit=args.limit)
    dataset.check()
    steps = args.max_steps
    steps_of(len(dataset), args.batch_size, 1, None, spec.train_split)
    samples = [(read['image'], read_ground_truth(spec, sample.mask))
               for sample, read in validation_samples(args, spec, with_labels=False)]
    stage = Stage('seg', args, spec, device, dataset, steps)
    stage.check_labels()
    if args.dry_run:
        return

    # What the result depends on: it must be the same in a resumed run.
    origin = stage.origin(pseudo_labels=[path for _, path in dataset.labelled()])

    # Train. With several processes, batch norm sees the whole batch.
    devices.connect(device)
    network = share_batch_norm(network.to(device), device)
    step = make_step(stage.forward(network, whole_batch=True))
    finish = partial(match_areas, network, dataset, device) if args.match_areas else None
    no_labels = (f'all pixels of the labels in {dataset.labels_dir} are {IGNORED}, ignored, in the first batches: '
                 'nothing to learn from; check --labels')
    pictures = 'segmentation', samples, partial(draw_row, network, device)
    stage.train(network, 'deeplab', step, origin, pictures=pictures, counts=count_labelled, no_labels=no_labels,
                finish=finish, lr_steps=steps + 1, fov_channels=args.fov_channels, dilation=args.dilation,
                dataset=spec.name, preset=spec.preset, max_side=spec.max_side, norm=network.backbone.norm)


if __name__ == '__main__':
    run_script(main)
