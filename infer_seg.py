"""Segment images with the trained DeepLab.

    python infer_seg.py --split val                       a split of the data set, to exp/<run>/results/<split>/<id>.png
    python infer_seg.py --run my --images photos/ a.tif   any images: files, folders, patterns
    python infer_seg.py --checkpoint model.pth --images photos/ --out masks      with this file alone

Reads exp/<run>/seg/model.pth, which describes its network and classes itself; writes label PNGs with the VOC palette,
at the size of each image. With --images also overlays/<id>.jpg, the labels over the image with the names of the
classes; images are rotated by their EXIF tag, and large ones are segmented at a smaller size (--max-side).
"""
import argparse
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from lib.data.datasets import InferSet
from lib.data.files import FileSet, find_images
from lib.data.labelio import write_probs
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.fileio import replacing
from lib.files.imageio import voc_palette, write_label_png
from lib.files.outpaths import refuse_inputs
from lib.inference import ImageTask, TrainedNetwork, infer_images, inference_parser
from lib.multiscale import multi_scale
from lib.net.backbone import Backbone
from lib.net.deeplab import DeepLab
from lib.process import ranks
from lib.process.cli import integer, number
from lib.process.ending import run_script
from lib.run.options import NOTHING, resolve
from lib.run.origin import Digests, stage_origin
from lib.run.outputs import Output, refuse_unknown
from tool.crfutils import FINAL_CRF, dense_crf
from tool.drawing import blend, legend, stacked
from tool.imutils import Norm, enlarged_label, fitting_size, normalise, rescale, resize_nearest, scaled_size

LONG_SIDE = 500         # pixels; at most, of --images, where neither --max-side nor the network's file says otherwise


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = inference_parser(__doc__, 'seg', 'validation')
    group = parser.add_argument_group('segmentation')
    group.add_argument('--images', nargs='+', metavar='FILE', help='segment these instead of a split: files, folders '
                       'or patterns; the classes are those of the trained network').affects = NOTHING
    group.add_argument('--max-side', type=integer(32, 16384), metavar='PIXELS', help='with --images: larger ones are '
                       f'segmented at this long side; the default is that of the training set, or {LONG_SIDE}')
    group.add_argument('--overlays', action=argparse.BooleanOptionalAction, help='write the labels over the images '
                       'too; the default is to do so with --images').affects = NOTHING
    group.add_argument('--probs', action='store_true', help='write the probabilities too, to '
                       'probs/<id>.npz').affects = NOTHING
    group.add_argument('--export-voc', type=Path, metavar='DIR', help='write the PNGs a second time as the VOC server '
                       'wants them, to DIR/results/VOC2012/Segmentation/comp6_<split>_cls').affects = NOTHING
    group.add_argument('--out', type=Path, metavar='DIR',
                       help='folder of the PNGs; the default is exp/<run>/results/<split>, for '
                       '--images results/images').affects = NOTHING
    group.add_argument('--scales', type=number(0.05, 8), nargs='+', default=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
                       help='test-time scales, each with a horizontal flip')
    group.add_argument('--crf', action=argparse.BooleanOptionalAction, default=True, help='refine with the dense CRF')
    # For a published network, whose file does not say them.
    group.add_argument('--dilation', type=integer(1, 256), default=12, help=argparse.SUPPRESS).affects = NOTHING
    group.add_argument('--fov-channels', type=integer(1, 8192), default=512, help=argparse.SUPPRESS).affects = NOTHING
    return parser


class Extras(NamedTuple):
    """What is written beside the label PNG of an image."""

    classes: tuple[str, ...]            # names by label
    overlays: bool
    probs: bool


NO_EXTRAS = Extras((), False, False)


def make_outputs(args: argparse.Namespace, spec: DatasetSpec, folder: Path, network: str) -> list[Output]:
    """The folders that this run fills, in the order in which write_result() takes them."""
    origin = stage_origin(args, spec, network=network)
    outputs = [Output(folder, '.png', origin)]
    if args.overlays:
        outputs.append(Output(folder / 'overlays', '.jpg', origin))
    if args.probs:
        outputs.append(Output(folder / 'probs', '.npz', origin))
    return outputs


def make_views(image: np.ndarray, scales: Sequence[float], norm: Norm, size_step: int | None) -> Iterator[np.ndarray]:
    """Yield an image, normalised, at every scale: float32 [3, h, w] each. `size_step`: see lib/net/backbone.py."""
    normalised, (height, width) = normalise(image, norm).transpose(1, 2, 0), image.shape[:2]
    for scale in scales:
        factors = scale, scale
        if size_step:
            fitting = fitting_size(*scaled_size(height, width, scale), size_step)
            factors = fitting[0] / height, fitting[1] / width
        yield np.ascontiguousarray(rescale(normalised, factors).transpose(2, 0, 1))


def infer_probs(image: np.ndarray, network: Callable, scales: Sequence[float], norm: Norm, size_step: int | None,
                device: torch.device) -> np.ndarray:
    """Class probabilities float32 [C, H, W] of one image: the mean of the logits at all scales."""
    views = make_views(image, scales, norm, size_step)
    maps = torch.cat(list(multi_scale(views, image.shape[:2], network, device, align_corners=True)))
    return maps.mean(0).softmax(0).cpu().numpy()


def write_result(files: Sequence[tuple[Path, str]], image: np.ndarray, probs: np.ndarray, crf: bool,
                 size: tuple[int, int] | None = None, extras: Extras = NO_EXTRAS) -> None:
    """Write the label PNG of one image [H, W, 3], at `size` if given, from its class probabilities [C, H, W].

    `files` are paths and origins in the order of make_outputs().
    """
    (path, origin), *files = files
    if crf:
        probs = dense_crf(image, probs, FINAL_CRF)
    label = enlarged_label(probs, *(size or image.shape[:2]))
    write_label_png(path, label, origin)
    if extras.overlays:
        (path, origin), *files = files
        write_overlay(path, image, resize_nearest(label, *image.shape[:2]), extras.classes, origin)
    if extras.probs:
        (path, origin), = files
        write_probs(path, probs, extras.classes, origin)


def write_overlay(path: Path, image: np.ndarray, label: np.ndarray, classes: Sequence[str], origin: str) -> None:
    """Write a JPEG of an image below its labels, with a legend of the classes in it."""
    colours = {classes[value]: voc_palette()[value] for value in np.unique(label).tolist() if value}
    sheet = stacked([blend(image, label, voc_palette()), legend(colours, image.shape[1])])
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, format='JPEG', quality=92, comment=origin.encode())


def make_task(args: argparse.Namespace, spec: DatasetSpec, trained: TrainedNetwork, backbone: Backbone) -> ImageTask:
    """The probabilities of an image, and its label PNG and what else is asked for."""
    norm = Norm(*trained.meta['norm']) if 'norm' in trained.meta else backbone.norm
    extras = Extras(spec.class_names, args.overlays, args.probs)

    def compute(sample: Mapping, network: Callable) -> tuple:
        probs = infer_probs(sample['image'], network, args.scales, norm, backbone.size_step, trained.device)
        return sample['image'], probs, args.crf, sample.get('size'), extras

    return ImageTask(compute, write_result)


def read_settings(argv: list[str] | None) -> tuple[argparse.Namespace, DatasetSpec, TrainedNetwork]:
    """Settings, data set and the trained network; for --images its file names classes and preset, not --dataset."""
    args, spec = resolve(make_parser(), argv, 'infer_seg', get_spec)
    trained = TrainedNetwork(args, 'seg', 'deeplab')
    if args.images:
        meta, checkpoint = trained.meta, trained.path
        spec = DatasetSpec(meta.get('dataset', spec.name), tuple(meta.get('classes', spec.classes)), Path(), Path(),
                           '{}', preset=meta.get('preset', spec.preset), max_side=meta.get('max_side') or LONG_SIDE)
        args, spec = resolve(make_parser(), argv, 'infer_seg', lambda *_: spec)
        args.checkpoint = checkpoint        # of the run that --dataset names
        trained = TrainedNetwork(args, 'seg', 'deeplab')
    args.max_side = args.max_side or spec.max_side
    args.overlays = bool(args.images) if args.overlays is None else args.overlays
    return args, spec, trained


def exported(args: argparse.Namespace, split: str, folder: Path, names: Sequence[str]) -> dict[Path, Path]:
    """With --export-voc: the label PNGs by their path for the VOC server."""
    if not args.export_voc:
        return {}
    target = args.export_voc / f'results/VOC2012/Segmentation/comp6_{"test" if args.images else split}_cls'
    return {target / f'{name}.png': folder / f'{name}.png' for name in names}


def main(argv=None):
    """Segment one split, or the files given."""
    args, spec, trained = read_settings(argv)
    split = args.split or spec.val_split
    if args.images:
        dataset = FileSet(find_images(args.images)[:args.limit], args.max_side, args.on_corrupt)
        dataset.check()
    else:
        dataset = InferSet(spec, split, args.limit, with_labels=False)

    # Where the results go: never over an input.
    folder = args.out or args.folder / 'results' / ('images' if args.images else split)
    copies = exported(args, split, folder, dataset.names)
    digests = Digests(args.folder / '.digests.json' if args.folder.is_dir() else None)
    outputs = make_outputs(args, spec, folder, network=digests(trained.path))
    refuse_inputs([folder, *(output.path(name) for output in outputs for name in dataset.names), *copies],
                  [trained.path, *dataset.paths, *map(Path, args.images or ())])
    refuse_unknown(copies)
    ranks.print_rank0(f'Segmentation of {len(dataset)} images to {folder}')

    # Infer what is not up to date.
    sources = [{'image': path} for path in dataset.paths]
    make_head = partial(DeepLab, num_classes=spec.num_classes, dilation=trained.meta.get('dilation', args.dilation),
                        fov_channels=trained.meta.get('fov_channels', args.fov_channels))
    load = partial(trained.load, spec.classes, make_head)
    infer_images(args, dataset, outputs, sources, digests, trained.device, load,
                 make_task=partial(make_task, args, spec, trained))
    for target, path in copies.items():
        if path.exists() and not args.dry_run:
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)


if __name__ == '__main__':
    run_script(main)
