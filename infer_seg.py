"""Segment images with the trained DeepLab.

    python infer_seg.py --split val                       a split of the data set, to exp/<run>/results/<split>/<id>.png
    python infer_seg.py --run my --images photos/ a.tif   any images: files, folders, patterns
    python infer_seg.py --checkpoint model.pth --images photos/ --out masks      needs only this file
    python infer_seg.py --run my --images photos/ --export coco yolo             also writes formats of other tools

Reads exp/<run>/seg/model.pth, which describes its own network and classes; writes label PNGs with the VOC palette, at
the size of each image. With --images it also writes overlays/<id>.jpg, the labels over the image with the names of the
classes; images are rotated as their EXIF tag says, and large ones are segmented at a smaller size (--max-side).
"""
import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lib.data.datasets import InferSet
from lib.data.files import FileSet, find_images
from lib.data.labelio import write_probs
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.fileio import refuse_inputs, replacing
from lib.files.imageio import read_image, write_label_png
from lib.inference import ImageTask, TrainedNetwork, add_crf_flag, infer_images, inference_parser
from lib.mask_formats import FORMATS, Labelled, check_export, export
from lib.net.backbone import Backbone
from lib.net.deeplab import DeepLab
from lib.predict import LONG_SIDE, SCALES, finished, infer_probs, overlay
from lib.process import ranks
from lib.process.cli import integer, number
from lib.process.ending import run_script
from lib.run.options import NOTHING, resolve
from lib.run.origin import Digests, stage_origin
from lib.run.outputs import Output, refuse_unknown
from tool.imutils import Norm


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = inference_parser(__doc__, 'seg', 'validation')
    group = parser.add_argument_group('segmentation')
    group.add_argument('--images', nargs='+', metavar='FILE', help='segment these instead of a split: files, folders '
                       'or patterns; the classes are those of the trained network').affects = NOTHING
    group.add_argument('--max-side', type=integer(32, 16384), metavar='PIXELS', help='with --images: segment larger '
                       f'images at this long side; the default is that of the training set, or {LONG_SIDE}')
    group.add_argument('--overlays', action=argparse.BooleanOptionalAction, help='also write the labels drawn over '
                       'the images; the default with --images').affects = NOTHING
    group.add_argument('--probs', action='store_true', help='also write the probabilities, to '
                       'probs/<id>.npz').affects = NOTHING
    group.add_argument('--export-voc', type=Path, metavar='DIR', help='also write the PNGs in the layout of the VOC '
                       'server, to DIR/results/VOC2012/Segmentation/comp6_<split>_cls').affects = NOTHING
    group.add_argument('--export', nargs='+', choices=FORMATS, default=(), help='also write the labels in these '
                       'formats, each to a folder of its name beside the PNGs').affects = NOTHING
    group.add_argument('--out', type=Path, metavar='DIR',
                       help='folder of the PNGs; the default is exp/<run>/results/<split>, with --images '
                       'exp/<run>/results/images').affects = NOTHING
    group.add_argument('--scales', type=number(0.05, 8), nargs='+', default=SCALES, help='test-time scales')
    group.add_argument('--flip', action=argparse.BooleanOptionalAction, default=True,
                       help='add the horizontal flip at each scale')
    group.add_argument('--fast', action=Fast, nargs=0, dest='scales', default=argparse.SUPPRESS,
                       help='short for --scales 1 --no-flip: many times faster, a little less accurate')
    group.add_argument('--crf', action=argparse.BooleanOptionalAction, default=True, help='refine with the dense CRF')
    add_crf_flag(group)
    # For a published network, whose file does not hold them.
    group.add_argument('--dilation', type=integer(1, 256), default=12, help=argparse.SUPPRESS).affects = NOTHING
    group.add_argument('--fov-channels', type=integer(1, 8192), default=512, help=argparse.SUPPRESS).affects = NOTHING
    return parser


class Fast(argparse.Action):
    """Sets scales and flip."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.scales, namespace.flip = (1.0,), False


def make_outputs(args: argparse.Namespace, spec: DatasetSpec, folder: Path, network: str) -> list[Output]:
    """The folders that this run fills: label PNGs first, then overlays and probabilities if requested."""
    origin = stage_origin(args, spec, network=network)
    kinds = (folder, '.png', True), (folder / 'overlays', '.jpg', args.overlays), (folder / 'probs', '.npz', args.probs)
    return [Output(path, suffix, origin) for path, suffix, wanted in kinds if wanted]


def write_result(files: Sequence[tuple[Path, str]], image: np.ndarray, probs: np.ndarray, crf: str | None,
                 size: tuple[int, int] | None = None, classes: Sequence[str] = (), full: Path | None = None) -> None:
    """Write the files of one image [H, W, 3], at `size` if given, from its class probabilities [C, H, W].

    `files` are paths and origins in the order of make_outputs(); `crf` is the backend that refines the probabilities;
    `classes` are names by label; `full` is the file of the image if it may be larger.
    """
    (path, origin), *extras = files
    probs, label = finished(image, probs, crf, size)
    write_label_png(path, label, origin)
    for path, origin in extras:
        if path.suffix == '.npz':
            write_probs(path, probs, classes, origin)
            continue
        sheet = overlay(read_image(full, upright=True) if full else image, label, classes)
        with replacing(path) as temporary:
            Image.fromarray(sheet).save(temporary, format='JPEG', quality=92, comment=origin.encode())


def make_task(args: argparse.Namespace, spec: DatasetSpec, trained: TrainedNetwork, backbone: Backbone) -> ImageTask:
    """Infer the probabilities of an image, and write its label PNG and the other requested outputs."""
    norm = Norm(*trained.meta['norm']) if 'norm' in trained.meta else backbone.norm
    on_gpu = trained.device.type == 'cuda' and args.crf_backend == 'torch'      # else worker processes run the CRF

    def compute(sample: Mapping, network: Callable) -> tuple:
        probs = infer_probs(sample['image'], network, args.scales, norm, backbone.size_step, trained.device,
                            flip=args.flip, crf=args.crf and on_gpu)
        crf = args.crf_backend if args.crf and not on_gpu else None
        return sample['image'], probs, crf, sample.get('size'), spec.class_names, sample.get('path')

    return ImageTask(compute, write_result)


def read_settings(argv: list[str] | None) -> tuple[argparse.Namespace, DatasetSpec, TrainedNetwork]:
    """Settings, data set and trained network; with --images, its file determines classes and preset, not --dataset."""
    args, spec = resolve(make_parser(), argv, 'infer_seg', get_spec)
    trained = TrainedNetwork(args, 'seg', 'deeplab')
    if args.images:
        meta, checkpoint = trained.meta, trained.path
        spec = DatasetSpec(meta.get('dataset', spec.name), tuple(meta.get('classes', spec.classes)), Path(), Path(),
                           '{}', preset=meta.get('preset', spec.preset), max_side=meta.get('max_side') or LONG_SIDE)
        args, spec = resolve(make_parser(), argv, 'infer_seg', lambda *_: spec)
        args.checkpoint = checkpoint        # that of the run, which may be named after --dataset
        trained = TrainedNetwork(args, 'seg', 'deeplab')
    args.max_side = args.max_side or spec.max_side
    args.overlays = bool(args.images) if args.overlays is None else args.overlays
    return args, spec, trained


def main(argv=None):
    """Segment one split, or the files given."""
    args, spec, trained = read_settings(argv)
    split = args.split or spec.val_split
    if args.images:
        dataset = FileSet(find_images(args.images)[:args.limit], args.max_side, args.on_corrupt)
        dataset.check()
    else:
        dataset = InferSet(spec, split, args.limit, with_labels=False)

    # Where the results go; they must not overwrite an input.
    folder = args.out or args.folder / 'results' / ('images' if args.images else split)
    server = f'results/VOC2012/Segmentation/comp6_{"test" if args.images else split}_cls'
    copies = {args.export_voc / server / f'{name}.png': folder / f'{name}.png'
              for name in dataset.names if args.export_voc}
    digests = Digests(args.folder / '.digests.json' if args.folder.is_dir() else None)
    outputs = make_outputs(args, spec, folder, network=digests(trained.path))
    refuse_inputs([folder, *(output.path(name) for output in outputs for name in dataset.names), *copies],
                  [trained.path, *dataset.paths, *map(Path, args.images or ())])
    refuse_unknown(copies)
    check_export(folder, args.export)
    ranks.print_rank0(f'Segmentation of {len(dataset)} images to {folder}')

    # Infer what is not up to date.
    sources = [{'image': path} for path in dataset.paths]
    make_head = partial(DeepLab, num_classes=spec.num_classes, dilation=trained.meta.get('dilation', args.dilation),
                        fov_channels=trained.meta.get('fov_channels', args.fov_channels))
    load = partial(trained.load, spec.classes, make_head)
    infer_images(args, dataset, outputs, sources, digests, load,
                 make_task=partial(make_task, args, spec, trained))
    if args.dry_run:
        return

    # Copies and other formats.
    labelled = [Labelled(name, path, outputs[0].path(name), upright=bool(args.images) or spec.upright)
                for name, path in zip(dataset.names, dataset.paths)]
    export(folder, args.export, labelled, spec.classes)
    for target, path in copies.items():
        if path.exists():
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)


if __name__ == '__main__':
    run_script(main)
