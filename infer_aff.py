"""Refine CAMs with the affinity network's random walk: pseudo-label PNGs.

    python infer_aff.py --split train_aug

Reads exp/<run>/aff/model.pth, the images of the split and exp/<run>/labels/<split>/cam; writes
exp/<run>/labels/<split>/walk/<id>.png, labels 0 (background) to the number of classes, with the VOC palette. With --crf
the dense CRF refines the scores of the walk first.
"""
import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote

import numpy as np
import torch

from lib.data.checks import check_made
from lib.data.datasets import InferSet
from lib.data.npyio import label_source, read_any_maps
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import write_label_png
from lib.inference import ImageTask, TrainedNetwork, add_crf_flag, infer_images, inference_parser
from lib.net.aff import AffinityNet
from lib.net.backbone import Backbone
from lib.process import ranks
from lib.process.cli import integer, number, or_auto
from lib.process.ending import run_script
from lib.run.chosen import fill_in
from lib.run.options import NOTHING, resolve
from lib.run.origin import Digests, check_labels, stage_origin
from lib.run.outputs import Output
from tool.affutils import pair_affinity, pool_cams, random_walk, walk_label
from tool.imutils import normalise, pad_to_multiple, resize_bicubic, resize_linear, resize_nearest, scaled_size


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = inference_parser(__doc__, 'aff', 'training')
    group = parser.add_argument_group('random walk')
    group.add_argument('--cams', type=Path, metavar='DIR',
                       help='folder of the CAM files; the default is exp/<run>/labels/<split>/cam').affects = NOTHING
    group.add_argument('--unpickle', action='store_true',
                       help='read pickled .npy files from --cams, as written by the reference and by infer_cam.py '
                       '--export-npy').affects = NOTHING
    group.add_argument('--scale', type=number(0.05, 8), default=1.0,
                       help='scale of the image for network and walk; use more than 1 for small images')
    group.add_argument('--alpha', type=or_auto(number(0, 1000, above=True)), default=6.0,
                       help='exponent of the background score: larger gives less background; auto: as chosen by '
                       'python -m lib.choose')
    group.add_argument('--beta', type=number(0, 1000, above=True), default=8.0,
                       help='exponent of the affinities: larger values make the walk respect edges more')
    group.add_argument('--walk-log2-steps', type=integer(0, 12), default=6, metavar='N',
                       help='the walk takes 2^N steps')
    group.add_argument('--crf', action=argparse.BooleanOptionalAction, default=False,
                       help='refine the scores with the dense CRF, with the settings of the seeds').affects = ('crf',)
    add_crf_flag(group, affects=('crf',))
    group.add_argument('--radius', type=integer(2, 32), default=5,
                       help='steps of the walk are shorter than this, in pixels of the feature maps')
    return parser


def check_cams(args: argparse.Namespace, spec: DatasetSpec, dataset: InferSet, cams: Mapping[str, Path],
               digests: Digests) -> None:
    """Make sure that the CAM files, by image name, were made for these classes and from the images as they are now.

    FileNotFoundError or ValueError if not; says how to make them.
    """
    split, folder = dataset.split, next(iter(cams.values())).parent
    remedy = (f'make them with python infer_cam.py --dataset {quote(args.dataset)} --run {quote(args.run)} '
              f'--split {split}{" --export-npy" if args.unpickle else ""}')
    files = [(sample, cams[sample.name]) for sample in dataset.samples]
    check_made(spec, files, f'{folder} lacks CAMs of {split}', remedy)
    check_labels([path for _, path in files], spec, digests.of(dataset.paths), remedy)


@torch.inference_mode()
def infer_affinity(image: np.ndarray, network: Callable, args: argparse.Namespace, backbone: Backbone,
                   device: torch.device) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """An image, the affinities [offsets, positions] of pairs of its features, and the size of the feature map.

    See tool/affutils.pair_affinity.
    """
    seen = resize_bicubic(image, *scaled_size(*image.shape[:2], args.scale))
    view = torch.from_numpy(pad_to_multiple(normalise(seen, backbone.norm), backbone.stride))
    features = network(view[None].to(device, non_blocking=True))
    return image, pair_affinity(features, args.radius)[0].cpu().numpy(), tuple(features.shape[-2:])


def write_walk(files: Sequence[tuple[Path, str]], cam_file: Path, image: np.ndarray, affinity: np.ndarray,
               grid: tuple[int, int], args: argparse.Namespace, stride: int, num_fg: int) -> None:
    """Run the random walk on one image's CAMs and write its label PNG."""
    size = image.shape[:2]
    present, cam = read_any_maps(cam_file, size, num_fg)
    if cam.shape[1:] != size:
        raise ValueError(f'{cam_file} is {cam.shape[1]}x{cam.shape[2]}, its image {size[0]}x{size[1]} (height x '
                         'width); regenerate the CAMs with infer_cam.py')
    seen_size = scaled_size(*size, args.scale)
    pooled = pool_cams(resize_linear(cam, *seen_size), args.alpha, stride)
    walked = random_walk(affinity, grid, pooled, args.beta, args.walk_log2_steps, args.radius)
    seen = resize_bicubic(image, *seen_size) if args.crf else None
    label = walk_label(walked, present, seen_size, stride, seen, args.crf_backend)
    (path, origin), = files
    write_label_png(path, resize_nearest(label, *size), origin)


def make_task(args: argparse.Namespace, spec: DatasetSpec, cams: Mapping[str, Path], device: torch.device,
              backbone: Backbone) -> ImageTask:
    """Compute the affinities of an image, and write the label PNG of the walk; `cams` are CAM files by image name."""

    def compute(sample: Mapping, network: Callable) -> tuple:
        return cams[sample['name']], *infer_affinity(sample['image'], network, args, backbone, device)

    return ImageTask(compute, partial(write_walk, args=args, stride=backbone.stride, num_fg=spec.num_fg))


def main(argv=None):
    """Infer the pseudo-labels of one split."""
    args, spec = resolve(make_parser(), argv, 'infer_aff', get_spec)
    split = args.split or spec.train_split
    dataset = InferSet(spec, split, args.limit, with_labels=False)
    folder, suffix = label_source(args.cams, args.folder / 'labels' / split / 'cam', args.unpickle, '--cams')
    cams = {name: folder / f'{name}{suffix}' for name in dataset.names}
    trained = TrainedNetwork(args, 'aff', 'aff')

    # What each file is made from.
    digests = Digests(args.folder / '.digests.json')
    fill_in(args, digests, needed=['alpha'])
    check_cams(args, spec, dataset, cams, digests)
    origin = stage_origin(args, spec, 'crf' if args.crf else None, network=digests(trained.path))
    output = Output(args.folder / 'labels' / split / 'walk', '.png', origin)
    sources = [{'image': sample.image, 'cam': cams[sample.name]} for sample in dataset.samples]
    ranks.print_rank0(f'Random walk on {len(dataset)} images ({spec.name} {split}) to {output.folder}')

    # Infer what is not up to date.
    load = partial(trained.load, spec.classes, AffinityNet)
    infer_images(args, dataset, [output], sources, digests, load,
                 make_task=partial(make_task, args, spec, cams, trained.device))


if __name__ == '__main__':
    run_script(main)
