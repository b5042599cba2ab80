"""Shared by the training stages: flags, the pretrained backbone, the origin of the network, and the training run."""
import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lib.data.datasets import InferSet, training_batches
from lib.files.dataspec import DatasetSpec, Sample
from lib.net.backbone import Backbone, make_backbone
from lib.net.freeze import eval_mode, make_optimizer
from lib.net.weights import load_imagenet, save_network
from lib.process import ranks
from lib.process.cli import COUNT, integer
from lib.run import device as devices
from lib.run.loop import Run, train
from lib.run.options import add_device_flags, add_training_flags, base_parser
from lib.run.origin import Digests, check_labels, training_origin
from tool.drawing import side_by_side, stacked
from tool.torchutils import poly_factor

TITLES = {'cam': 'CAM network', 'aff': 'AffinityNet', 'seg': 'DeepLab'}     # by folder in the run


def training_parser(doc: str, *, batch_size: int, lr: float, momentum: float, freeze: Sequence[str]
                    ) -> argparse.ArgumentParser:
    """Parser with the flags of all training stages; `freeze` are the choices of --freeze, the default first."""
    parser = base_parser(doc)
    add_device_flags(parser, backbone='resnet38d')
    add_training_flags(parser, batch_size=batch_size, lr=lr, momentum=momentum)
    group = parser.add_argument_group('training images and network')
    group.add_argument('--crop-size', type=integer(8, 8192), default=448, help='side of the training crop, pixels')
    group.add_argument('--dropout', action=argparse.BooleanOptionalAction, default=True, help='dropout in the network')
    group.add_argument('--freeze', choices=freeze, default=freeze[0],
                       help='what is not trained: early layers and batch norm (early), batch norm only (norm), or the '
                       'whole backbone with its batch-norm statistics (backbone)')
    return parser


def add_epoch_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the stages that train for a number of epochs."""
    group = parser.add_argument_group('training time')
    group.add_argument('--epochs', type=integer(1, 100_000), default=8, help='passes over the training split')
    group.add_argument('--min-steps', type=integer(0, COUNT), default=0, metavar='N',
                       help='train for at least N steps, on a small split for more epochs')


def pretrained_backbone(args: argparse.Namespace, bn_momentum: float = 0.1) -> Backbone:
    """The backbone with its ImageNet weights; args.output_stride becomes its own, if --output-stride was not given.

    Also seeds torch, so that --seed determines the initial weights of a head.
    """
    torch.manual_seed(args.seed)
    dropouts = (0.3, 0.5) if args.dropout else (0, 0)
    backbone = make_backbone(args.backbone, args.width, args.output_stride, dropouts, bn_momentum)
    args.output_stride = backbone.stride
    load_imagenet(backbone, args.weights)
    return backbone


class Stage:
    """A training stage of a run, once its data set has been checked.

    Args:
        name: of its folder in the run: cam, aff or seg.
        args: settings, with --amp resolved.
        spec: the data set.
        device: of this process.
        dataset: what it trains on, as in lib/data/datasets.py.
        steps: number of steps.
    """

    def __init__(self, name: str, args: argparse.Namespace, spec: DatasetSpec, device: torch.device, dataset,
                 steps: int):
        self.args, self.spec, self.device, self.dataset, self.steps = args, spec, device, dataset, steps
        self.folder, self.digests = args.folder / name, Digests(args.folder / '.digests.json')
        self.part = ranks.shares(args.batch_size, args.accumulate)
        ranks.print_rank0(f'{TITLES[name]}: {steps} steps of {args.batch_size} images ({spec.name} {spec.train_split}) '
                          f'to {self.folder}')

    def check_labels(self) -> None:
        """Make sure that the label files were made for this data set's classes and from the images as they are now."""
        samples, files = zip(*self.dataset.labelled())
        images = self.digests.of(sample.image for sample in samples)
        check_labels(files, self.spec, images, self.dataset.remedy())

    def origin(self, image_labels: np.ndarray | None = None, **label_files: Sequence[Path]) -> dict:
        """What the network is trained on, which must be the same in a resumed run."""
        weights = self.digests(self.args.weights) or self.args.weights         # no file: a word such as none
        return training_origin(self.args, self.spec, self.digests, self.dataset.samples, image_labels, weights=weights,
                               **label_files)

    def forward(self, network: nn.Module, whole_batch: bool = False) -> Callable:
        """The network as the step calls it, see lib/run/device.py; it is on the device then."""
        amp = devices.pick_amp(self.args.amp, self.device)
        network = devices.place(network, self.device, amp)
        return devices.parallel(network, self.device, amp=amp, whole_batch=whole_batch)

    def train(self, network: nn.Module, kind: str, step: Callable, origin: Mapping, *,
              pictures: tuple[str, Sequence, Callable], counts: Callable | None = None, no_labels: str = '',
              finish: Callable | None = None, lr_steps: int | None = None, **meta) -> None:
        """Train up to the last step, see lib/run/loop.py; the learning rate reaches 0 after `lr_steps`, if given.

        `finish` is called in all processes after the last step, and may change the network before it is written.
        `kind` and `meta` are what inference needs to know about the network besides its backbone; `pictures` are the
        arguments of draw_pictures(), for TensorBoard.
        """
        args = self.args
        meta = {'network': kind, 'backbone': args.backbone, 'width': args.width, 'output_stride': args.output_stride,
                'classes': list(self.spec.classes), **meta}

        optimizer = make_optimizer(network, args.lr, args.momentum, args.weight_decay, args.head_lr)
        draw = partial(draw_pictures, network, *pictures) if args.picture_every else None
        run = Run(args, self.folder, network, optimizer, self.steps, self.device, origin, finish=finish, counts=counts,
                  no_labels=no_labels, pictures=draw,
                  save=lambda path, origin: save_network(path, network, {**meta, 'origin': origin}))
        batches = training_batches(self.dataset, args.batch_size, self.steps, args.seed, args.workers, self.part)
        lr_factor = partial(poly_factor, total=lr_steps or self.steps, power=args.poly_power)
        train(run, step=step, batches=batches, lr_factor=lr_factor)


def validation_samples(args: argparse.Namespace, spec: DatasetSpec, with_labels: bool) -> list[tuple[Sample, dict]]:
    """The first validation images, to be drawn for TensorBoard; none with --picture-every 0."""
    if not args.picture_every:
        return []
    try:
        dataset = InferSet(spec, spec.val_split, 4, with_labels)
        return [*zip(dataset.samples, (dataset[index] for index in range(len(dataset))))]
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f'{error}; --picture-every 0 needs no {spec.val_split} images') from error


def draw_pictures(network: nn.Module, name: str, samples: Sequence, draw_row: Callable) -> dict[str, np.ndarray]:
    """An image with one row per sample, from the network in eval mode; draw_row(sample) -> images uint8 [H, W, 3]."""
    with eval_mode(network), torch.inference_mode():
        rows = [side_by_side(draw_row(sample)) for sample in samples]
    return {name: stacked(rows)}
