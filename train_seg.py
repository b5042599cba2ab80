"""Train DeepLab on the pseudo-labels.

    python train_seg.py                                  one GPU
    torchrun --nproc-per-node 4 -- train_seg.py             four processes that share each batch
    python train_seg.py --labels data/VOCdevkit/VOC2012/SegmentationClassAug --run upper     on true masks

Reads the images, exp/<run>/labels/<train split>/walk and ImageNet weights; writes exp/<run>/seg/: model.pth, last.pth
(from which the same command resumes), args.json, env.json, log.txt, metrics.jsonl and TensorBoard events.
"""
import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from lib.data.corrupt import read_ground_truth
from lib.data.datasets import InferSet, SegTrainSet
from lib.data.loading import steps_of, training_batches
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import IGNORED, voc_palette
from lib.net.backbones import make_backbone
from lib.net.deeplab import DeepLab
from lib.net.freeze import FREEZE_SEG, set_train_mode
from lib.net.optimizer import make_optimizer
from lib.net.syncnorm import share_batch_norm
from lib.net.weights import load_imagenet, save_network, unwrapped
from lib.process import ranks
from lib.process.ending import run_script
from lib.process.ranges import LowHigh, integer, number
from lib.run import device as devices
from lib.run.digests import Digests
from lib.run.labelled import Labelled
from lib.run.loop import train
from lib.run.options import NOTHING, add_device_flags, add_training_flags, base_parser, resolve
from lib.run.origin import check_labels, training_origin, weights_digest
from tool.drawing import blend, side_by_side, stacked
from tool.imutils import normalise
from tool.torchutils import poly_factor


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults reproduce the paper on VOC."""
    parser = base_parser(__doc__)
    add_device_flags(parser, backbone='resnet38d')
    add_training_flags(parser, batch_size=10, lr=0.001, momentum=0.9)
    group = parser.add_argument_group('segmentation')
    group.add_argument('--crop-size', type=integer(8, 8192), default=448, help='side of the training crop, pixels')
    group.add_argument('--scale', type=number(0.05, 8), action=LowHigh, default=(0.5, 1.5), metavar=('LOW', 'HIGH'),
                       help='range from which the size of a training image is drawn')
    group.add_argument('--labels', type=Path, metavar='DIR',
                       help='label PNGs to learn from; the default is '
                       'exp/<run>/labels/<train split>/walk').affects = NOTHING
    group.add_argument('--dilation', type=integer(1, 256), default=12, help='of the 3x3 convolution of the head')
    group.add_argument('--fov-channels', type=integer(1, 8192), default=512, help='channels of the head')
    group.add_argument('--bn-momentum', type=number(0, 1, above=True), default=3e-4,
                       help='share of a new batch in the running statistics')
    group.add_argument('--dropout', action=argparse.BooleanOptionalAction, default=True, help='dropout in the network')
    group.add_argument('--freeze', choices=tuple(FREEZE_SEG), default='norm',
                       help='what keeps its ImageNet weights: scale and shift of batch norm, or the whole backbone, '
                       'statistics included')
    return parser


def make_network(args: argparse.Namespace, num_classes: int) -> DeepLab:
    """DeepLab on ImageNet weights. Batch norm runs on batch statistics, its scale and shift stay; all else learns,
    unless --freeze says otherwise.

    The published code never called .train(): what follows from that is chosen here in so many words.
    """
    torch.manual_seed(args.seed)
    dropouts = (0.3, 0.5) if args.dropout else (0, 0)
    backbone = make_backbone(args.backbone, args.width, args.output_stride, dropouts, args.bn_momentum)
    load_imagenet(backbone, args.weights)
    network = DeepLab(backbone, num_classes, args.fov_channels, args.dilation, 0.5 if args.dropout else 0,
                      args.bn_momentum)
    FREEZE_SEG[args.freeze](network)
    set_seg_mode(network, args.freeze)
    return network


def set_seg_mode(network: DeepLab, freeze: str) -> None:
    """Training mode; a frozen backbone keeps its statistics."""
    set_train_mode(network, batch_norm='batch')
    if freeze == 'backbone':
        set_train_mode(network.backbone, batch_norm='running')


def make_step(network: Callable) -> Callable:
    """The training step: cross-entropy of each labelled pixel."""

    def step(batch: Mapping) -> dict[str, torch.Tensor]:
        logits = network(batch['image'])                                    # [N, C, H, W]
        loss = F.cross_entropy(logits.float(), batch['mask'], ignore_index=IGNORED, reduction='sum')
        return {'loss': loss / batch['counts'].clamp(min=1e-6)}               # 0 where all pixels are ignored

    return step


def count_labelled(batch: Mapping) -> torch.Tensor:
    """Number of pixels that the loss is a mean over."""
    return (batch['mask'] != IGNORED).sum()


def make_pictures(args: argparse.Namespace, spec: DatasetSpec, network: DeepLab, device: torch.device) -> Callable:
    """Function that draws, for some validation images: the image, its segmentation, and the truth if there is any."""
    found = InferSet(spec, spec.val_split, with_labels=False).first(4)
    samples = [(read['image'], read_ground_truth(spec, sample)) for sample, read in found]

    def draw() -> dict[str, np.ndarray]:
        network.eval()
        rows = []
        for image, truth in samples:
            view = torch.from_numpy(normalise(image, network.backbone.norm))[None].to(device)
            with torch.inference_mode():
                masks = [network(view)[0].argmax(0).byte().cpu().numpy()]
            if truth is not None:
                masks.append(truth)
            rows.append(side_by_side([image, *(blend(image, mask, voc_palette()) for mask in masks)]))
        set_seg_mode(network, args.freeze)
        return {'segmentation': stacked(rows)}

    return draw


def main(argv=None):
    """Train on the pseudo-labels of the data set's training split."""
    args, spec = resolve(make_parser(), argv, 'train_seg', get_spec)
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)
    if args.accumulate > 1:
        raise ValueError(f'--accumulate {args.accumulate}: batch norm needs the statistics of the whole batch here, '
                         'which no pass sees; use more GPUs with torchrun, --amp bf16, or a smaller --batch-size')

    # Data and network.
    network = make_network(args, spec.num_classes)
    labels = args.labels or args.folder / 'labels' / spec.train_split / 'walk'
    dataset = SegTrainSet(spec, spec.train_split, network.backbone.norm, args.crop_size, labels, seed=args.seed,
                          scale=args.scale, limit=args.limit)
    dataset.check()
    steps = args.max_steps
    steps_of(len(dataset), args.batch_size, 1, None, spec.train_split)
    part = ranks.shares(args.batch_size)
    folder = args.folder / 'seg'
    ranks.print_rank0(f'DeepLab: {steps} steps of {args.batch_size} images ({spec.name} {spec.train_split}) to '
                      f'{folder}')

    # What the network is made from.
    digests = Digests(args.folder / '.digests.json')
    check_labels(dataset.label_files(), spec, digests.of(dataset.label_images()), dataset.remedy())
    if args.dry_run:
        return
    origin = training_origin(args, spec, digests, dataset.samples, weights=weights_digest(args.weights, digests),
                             pseudo_labels=dataset.label_files())

    def save(path: Path, origin: Mapping) -> None:
        save_network(path, network, {'network': 'deeplab', 'backbone': args.backbone, 'width': args.width,
                                     'output_stride': args.output_stride, 'classes': list(spec.classes),
                                     'fov_channels': args.fov_channels, 'dilation': args.dilation,
                                     'dataset': spec.name, 'preset': spec.preset, 'max_side': spec.max_side,
                                     'norm': unwrapped(network).backbone.norm, 'origin': origin})

    # Train.
    ranks.connect(device)
    amp = devices.pick_amp(args.amp, device)
    network = share_batch_norm(devices.place(network, device, amp), device)
    step = make_step(devices.parallel(network, device, amp=amp, compiled=args.compile))
    counts = Labelled(count_labelled, steps, f'all pixels of the labels in {labels} are {IGNORED}, ignored, in the '
                      'first batches: nothing to learn from; check --labels')
    train(args, folder, network, make_optimizer(network, args.lr, args.momentum, args.weight_decay, args.head_lr), step,
          training_batches(dataset, args.batch_size, steps, args.seed, args.workers, part, args.on_corrupt),
          lambda step: poly_factor(step, steps + 1, args.poly_power), steps, device,
          make_pictures(args, spec, network, device) if args.picture_every else None,
          origin=origin, save=save, counts=counts)


if __name__ == '__main__':
    run_script(main)
