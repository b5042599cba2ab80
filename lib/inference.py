"""Shared by the inference stages: flags, and a trained network that is run on one image after another.

The network runs under autocast; an image for which that fails is computed again in float32.
"""
import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import Dataset, Subset

from lib.data.datasets import single_images
from lib.net.backbone import Backbone, check_network, trained_backbone
from lib.net.weights import load_network
from lib.process import ranks
from lib.process.cli import progress
from lib.process.workers import map_in_workers
from lib.run import device as devices
from lib.run.lock import lock_folder
from lib.run.options import NOTHING, add_device_flags, add_fresh_flag, base_parser
from lib.run.origin import Digests
from lib.run.outputs import Output, Work
from tool.crfutils import BACKENDS, check_backend

# Convolutions whose output only a batch norm reads, and that batch norm, by their names in a block.
FOLDED = {'conv_branch2a': 'bn_branch2b1', 'conv_branch2b1': 'bn_branch2b2', 'conv_fov': 'bn_fov',
          'conv_fov2': 'bn_fov2'}


def inference_parser(doc: str, stage: str, split: str) -> argparse.ArgumentParser:
    """Parser with the flags of all inference stages.

    Args:
        doc: the script's docstring.
        stage: folder of the trained network in the run.
        split: the default of --split in words.
    """
    parser = base_parser(doc)
    add_device_flags(parser)
    group = parser.add_argument_group('images and network')
    group.add_argument('--split', help=f'list of images; the default is the data set\'s {split} split'
                       ).affects = NOTHING
    group.add_argument('--checkpoint', type=Path, metavar='FILE', help='trained network, ours or a published one; the '
                       f'default is exp/<run>/{stage}/model.pth').affects = NOTHING
    add_fresh_flag(group)
    return parser


def add_crf_flag(group: argparse._ActionsContainer, affects: tuple[str, ...] | None = None) -> None:
    """The flag that chooses what computes the dense CRF; `affects` as in lib/run/options.py."""
    def backend(name: str) -> str:
        try:
            return check_backend(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    group.add_argument('--crf-backend', type=backend, default='torch', metavar='|'.join(BACKENDS),
                       help='implementation of the dense CRF, see docs/densecrf.md').affects = affects


class ImageTask(NamedTuple):
    """What a stage does for each image.

    Args:
        compute: (sample, network) -> the arguments of write, on the host; `network` takes batches of images.
        write: (files of the image and their origins, *results of compute); runs in a worker process.
        prepare: sample -> sample; runs in the worker process that reads the image.
    """

    compute: Callable[[Mapping, Callable], Sequence]
    write: Callable[..., None]
    prepare: Callable[[dict], dict] | None = None


class TrainedNetwork:
    """A trained network's file, checked at once but loaded only if there are images to infer.

    Args:
        args: the script's settings; --amp is resolved.
        stage: its folder in the run.
        kind: of network: seam, aff or deeplab.
    """

    def __init__(self, args: argparse.Namespace, stage: str, kind: str):
        self.path = args.checkpoint or args.folder / stage / 'model.pth'
        self.meta = check_network(self.path, kind, args.backbone)
        self.width = args.width
        self.device = devices.pick_device(args.device)
        args.amp = devices.resolve_amp(args.amp, self.device)
        self.amp = devices.pick_amp(args.amp, self.device)

    def load(self, classes: Sequence[str], make_head: Callable[[Backbone], nn.Module]) -> 'Inference':
        """The network, ready to run; make_head(backbone) makes it with random weights. Errors as load_network."""
        network = make_head(trained_backbone(self.path, self.width))
        load_network(network, self.path, classes)
        return Inference(network, self.device, self.amp, self.path)


def infer_images(args: argparse.Namespace, dataset: Dataset, outputs: Sequence[Output],
                 sources: Sequence[Mapping[str, Path | list]], digests: Digests, load: Callable[[], 'Inference'],
                 make_task: Callable[[Backbone], ImageTask]) -> None:
    """Write the files of all images that are not up to date; with --dry-run only check that this is possible.

    Args:
        args: the script's settings.
        dataset: the images, see lib/data/datasets.py.
        outputs, sources, digests: see lib/run/outputs.py.
        load: loads the trained network; not called if nothing is left to do.
        make_task: what to do for each image, given the backbone of the network.
    """
    with ExitStack() as stack:
        for output in outputs if not args.dry_run else ():       # a dry run writes nothing, locks included
            stack.enter_context(lock_folder(output.folder))
        work = Work(args, dataset.names, outputs, sources, digests)
        if not args.dry_run and ranks.is_first():
            work.remove({*dataset.left_out} - {*dataset.names})     # corrupt images: their former results are stale
        if not work.todo:
            return
        dataset.check()
        inference = load()
        if args.dry_run:
            return
        task = make_task(inference.network.backbone)
        images = single_images(Subset(dataset, work.todo), min(args.workers, 1), task.prepare)
        images = progress(images, outputs[0].folder.name, total=len(work.todo))
        work.begin(inference.device)
        computed = ((work.files(sample['name']), *inference(sample['name'], partial(task.compute, sample)))
                    for sample in images)
        for _ in map_in_workers(partial(_write, task.write), computed, args.workers):
            pass


def _write(write: Callable, values: tuple) -> None:
    write(*values)


class Inference:
    """Runs a trained network. An image whose outputs are not finite under autocast is computed again in float32.

    One known cause: convolutions with stride 2 on maps of width 1 give NaN in bfloat16 on CPUs with AMX (torch 2.14).

    Args:
        network: with its weights; afterwards it can be neither trained nor saved.
        device: where it runs.
        amp: autocast dtype; None for full float32.
        file: its file, for messages.
    """

    def __init__(self, network: nn.Module, device: torch.device, amp: torch.dtype | None, file: Path):
        self.device, self.amp, self.file = device, amp, file
        self.network = fold_batch_norms(network.eval().to(device, memory_format=torch.channels_last))

    def __call__(self, name: str, compute: Callable[[Callable], Any]) -> Any:
        """compute(network) of one image; `network` takes batches of images.

        Raises ValueError with the names of image and file if the outputs are not finite in float32 either.
        """
        for amp in (self.amp, None):
            result, finite = self._computed(compute, amp)
            if finite:
                return result
        raise ValueError(f'{name}: the outputs of {self.file} are not finite, in float32 either; check the image, or '
                         'train the network again')

    def _computed(self, compute: Callable[[Callable], Any], amp: torch.dtype | None) -> tuple[Any, bool]:
        """compute(network), and whether all outputs of the network were finite: NaN and infinity survive a sum.

        The sums stay on the device. The host reads them once, after the result, for which it has to wait anyway.
        """
        sums = []

        def network(images: torch.Tensor) -> Any:
            with devices.autocast(self.device, amp):
                output = self.network(images)
            tensors = (output,) if isinstance(output, torch.Tensor) else output
            sums.extend(tensor.sum(dtype=torch.float32) for tensor in tensors)
            return output

        result = compute(network)
        return result, not sums or bool(torch.stack(sums).isfinite().all())


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """The network with batch norms folded into the convolutions before them (ResNet-38d and the head of DeepLab)."""
    for block in list(network.modules()):
        for conv, norm in FOLDED.items():
            if isinstance(getattr(block, norm, None), nn.BatchNorm2d) and hasattr(block, conv):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
    return network
