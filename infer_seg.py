"""Segment images with the trained DeepLab.

    python infer_seg.py --split val                       a split of the data set, to exp/<run>/results/<split>/<id>.png
    python infer_seg.py --run my --images photos/ a.tif   any images: files, folders, patterns
    python infer_seg.py --checkpoint model.pth --images photos/ --out masks      with this file alone

Reads exp/<run>/seg/model.pth, which says by itself what network and classes it is of; writes label PNGs with the VOC
palette, at the size of each image. With --images also overlays/<id>.jpg, the labels over the image with the names of
the classes; images are turned as their EXIF tag says, and large ones are segmented at a smaller size (--max-side).
"""
import argparse
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Subset

from lib.data.datasets import InferSet
from lib.data.files import FileSet, find_images
from lib.data.labelio import write_probs
from lib.data.loading import single_images
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.fileio import replacing
from lib.files.imageio import voc_palette, write_label_png
from lib.files.outpaths import refuse_inputs
from lib.inference import Inference
from lib.multiscale import multi_scale
from lib.net.backbones import check_network, trained_backbone
from lib.net.deeplab import DeepLab
from lib.net.weights import load_network
from lib.process import ranks
from lib.process.ending import run_script
from lib.process.progress import progress
from lib.process.ranges import integer, number
from lib.process.workers import Background
from lib.run import device as devices
from lib.run.digests import Digests
from lib.run.options import NOTHING, add_device_flags, add_fresh_flag, base_parser, resolve
from lib.run.origin import stage_origin
from lib.run.outputs import Output, Work, refuse_unknown, unfinished
from tool.crfutils import FINAL_CRF, dense_crf
from tool.drawing import blend, legend, stacked
from tool.imutils import Norm, enlarged_label, fitting_size, normalise, resize_cubic, resize_nearest, scaled_size


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = base_parser(__doc__)
    add_device_flags(parser)
    group = parser.add_argument_group('inference')
    group.add_argument('--split', help='list of images; the default is the data set\'s validation '
                       'split').affects = NOTHING
    group.add_argument('--images', nargs='+', metavar='FILE', help='segment these instead of a split: files, folders '
                       'or patterns; the classes are those of the trained network').affects = NOTHING
    group.add_argument('--max-side', type=integer(32, 16384), metavar='PIXELS', help='with --images: larger ones are '
                       'segmented at this long side; the default is that of the training set, or 500')
    group.add_argument('--overlays', action=argparse.BooleanOptionalAction, help='write the labels over the images '
                       'too; the default is to do so with --images').affects = NOTHING
    group.add_argument('--probs', action='store_true', help='write the probabilities too, to '
                       'probs/<id>.npz').affects = NOTHING
    group.add_argument('--export-voc', type=Path, metavar='DIR', help='write the PNGs a second time as the VOC server '
                       'wants them, to DIR/results/VOC2012/Segmentation/comp6_<split>_cls').affects = NOTHING
    group.add_argument('--out', type=Path, metavar='DIR',
                       help='folder of the PNGs; the default is exp/<run>/results/<split>, for '
                       '--images results/images').affects = NOTHING
    group.add_argument('--checkpoint', type=Path, metavar='FILE',
                       help='trained network; the default is exp/<run>/seg/model.pth').affects = NOTHING
    add_fresh_flag(group)
    group.add_argument('--scales', type=number(0.05, 8), nargs='+', default=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
                       help='image sizes, each run with its mirror')
    group.add_argument('--crf', action=argparse.BooleanOptionalAction, default=True, help='sharpen with the final CRF')
    group.add_argument('--dilation', type=integer(1, 256), default=12, help='of the head, as trained').affects = NOTHING
    group.add_argument('--fov-channels', type=integer(1, 8192), default=512, help='channels of the '
                       'head, as trained').affects = NOTHING
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
    normalised = normalise(image, norm).transpose(1, 2, 0)
    for scale in scales:
        size = fitting_size(*scaled_size(*image.shape[:2], scale), size_step)
        yield np.ascontiguousarray(resize_cubic(normalised, *size).transpose(2, 0, 1))


def infer_probs(image: np.ndarray, scales: Sequence[float], norm: Norm, size_step: int | None, device: torch.device,
                network: Callable) -> np.ndarray:
    """Class probabilities float32 [C, H, W] of one image: the mean of the logits at all scales."""
    views = make_views(image, scales, norm, size_step)
    maps = torch.cat(list(multi_scale(views, image.shape[:2], network, device, align_corners=True)))
    return maps.mean(0).softmax(0).cpu().numpy()


def write_result(files: Sequence[tuple[Path, str]], image: np.ndarray, probs: np.ndarray, crf: bool,
                 size: tuple[int, int] | None = None, extras: Extras = NO_EXTRAS) -> None:
    """Write the label PNG of one image [H, W, 3], at `size` if given, from its class probabilities [C, H, W].

    `files` are paths and origins in the order of make_outputs().
    """
    files = iter(files)
    if crf:
        probs = dense_crf(image, probs, FINAL_CRF)
    label = enlarged_label(probs, *(size or image.shape[:2]))
    path, origin = next(files)
    write_label_png(path, label, origin)
    if extras.overlays:
        small = resize_nearest(label, *image.shape[:2])
        colours = {extras.classes[value]: voc_palette()[value] for value in np.unique(small).tolist() if value}
        sheet = stacked([blend(image, small, voc_palette()), legend(colours, image.shape[1])])
        path, origin = next(files)
        with replacing(path) as temporary:
            Image.fromarray(sheet).save(temporary, format='JPEG', quality=92, comment=origin.encode())
    if extras.probs:
        path, origin = next(files)
        write_probs(path, probs, extras.classes, origin)


def exported(args: argparse.Namespace, split: str, folder: Path, names: Sequence[str]) -> dict[Path, Path]:
    """With --export-voc: where the VOC server wants each label PNG, and where it is."""
    if not args.export_voc:
        return {}
    target = args.export_voc / f'results/VOC2012/Segmentation/comp6_{"test" if args.images else split}_cls'
    return {target / f'{name}.png': folder / f'{name}.png' for name in names}


def read_settings(argv: list[str] | None) -> tuple[argparse.Namespace, DatasetSpec, Path, dict]:
    """Settings, data set, the network's file and what that says of itself.

    A flag given beats what the file says, and that beats the preset. For --images the file also names the classes.
    """
    args, spec = resolve(make_parser(), argv, 'infer_seg', get_spec)
    checkpoint = args.checkpoint or args.folder / 'seg' / 'model.pth'
    meta = check_network(checkpoint, 'deeplab', args.backbone)
    if args.images:
        spec = DatasetSpec(meta.get('dataset', spec.name), tuple(meta.get('classes', spec.classes)), Path(), Path(),
                           '{}', preset=meta.get('preset', spec.preset), max_side=meta.get('max_side') or 500)
    said = {key: meta[key] for key in ('width', 'fov_channels', 'dilation') if key in meta}
    args, spec = resolve(make_parser(), argv, 'infer_seg', lambda *_: spec, {'max_side': spec.max_side, **said})
    args.overlays = bool(args.images) if args.overlays is None else args.overlays
    return args, spec, checkpoint, meta


def main(argv=None):
    """Segment one split, or the files given."""
    args, spec, checkpoint, meta = read_settings(argv)
    split = args.split or spec.val_split
    if args.images:
        dataset = FileSet(find_images(args.images)[:args.limit], args.max_side, args.on_corrupt)
        dataset.check()
    else:
        dataset = InferSet(spec, split, args.limit, with_labels=False)
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)

    # Where the results go: never over an input.
    folder = args.out or args.folder / 'results' / ('images' if args.images else split)
    copies = exported(args, split, folder, dataset.names)
    digests = Digests(args.folder / '.digests.json' if args.folder.is_dir() else None)
    outputs = make_outputs(args, spec, folder, network=digests(checkpoint))
    refuse_inputs([folder, *(output.path(name) for output in outputs for name in dataset.names), *copies],
                  [checkpoint, *dataset.paths, *map(Path, args.images or ())])
    refuse_unknown(copies)
    ranks.print_rank0(f'Segmentation of {len(dataset)} images to {folder}')

    # Infer what is not up to date.
    sources = [{'image': path} for path in dataset.paths]
    with unfinished(args, dataset.names, outputs, sources, digests, device) as work:
        if work.todo:
            dataset.check()
            infer(args, spec, dataset, checkpoint, meta, device, work)
    if not args.dry_run:
        for target, path in copies.items():
            if path.exists():
                with replacing(target) as temporary:
                    shutil.copyfile(path, temporary)


def infer(args: argparse.Namespace, spec: DatasetSpec, dataset: InferSet | FileSet, checkpoint: Path, meta: dict,
          device: torch.device, work: Work) -> None:
    """Write the files of the images that are left to do."""
    def trained_network() -> DeepLab:
        backbone = trained_backbone(checkpoint, args.width)
        network = DeepLab(backbone, spec.num_classes, args.fov_channels, args.dilation)
        load_network(network, checkpoint, {'classes': spec.classes})
        return network

    inference = Inference(trained_network, device, devices.pick_amp(args.amp, device), checkpoint)
    if args.dry_run:
        return
    backbone = inference.network.backbone
    norm, size_step = Norm(*meta['norm']) if 'norm' in meta else backbone.norm, backbone.size_step
    extras = Extras(spec.class_names, args.overlays, args.probs)
    images = single_images(Subset(dataset, work.todo), min(args.workers, 1), on_corrupt=args.on_corrupt)
    with Background(args.workers) as background:
        for sample in work.watch(progress(images, 'infer_seg')):
            image = sample['image']
            probs = inference(sample['name'], partial(infer_probs, image, args.scales, norm, size_step, device))
            background.submit(write_result, work.files(sample['name']), image, probs, args.crf, sample.get('size'),
                              extras)


if __name__ == '__main__':
    run_script(main)
