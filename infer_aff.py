"""Refine CAMs with the affinity network's random walk: pseudo-label PNGs.

    python infer_aff.py --split train_aug

Reads exp/<run>/aff/model.pth, the images of the split and exp/<run>/labels/<split>/cam; writes
exp/<run>/labels/<split>/walk/<id>.png, labels 0 (background) to the number of classes, with the VOC palette.
"""
import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from shlex import quote

import numpy as np
import torch
from torch.utils.data import Subset

from lib.data.corrupt import check_made
from lib.data.datasets import InferSet
from lib.data.loading import single_images
from lib.data.npyio import label_source, read_any_maps
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import write_label_png
from lib.inference import Inference
from lib.net.aff import AffinityNet
from lib.net.backbones import check_network, trained_backbone
from lib.net.weights import load_network
from lib.process import ranks
from lib.process.ending import run_script
from lib.process.progress import progress
from lib.process.ranges import integer, number
from lib.process.workers import Background
from lib.run import device as devices
from lib.run.digests import Digests
from lib.run.options import NOTHING, add_device_flags, add_fresh_flag, base_parser, resolve
from lib.run.origin import check_labels, stage_origin
from lib.run.outputs import Output, Work, unfinished
from tool.affutils import pair_affinity, pool_cams, random_walk, walk_label
from tool.imutils import normalise, pad_to_multiple, resize_bicubic, resize_linear, resize_nearest, scaled_size


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = base_parser(__doc__)
    add_device_flags(parser)
    group = parser.add_argument_group('random walk')
    group.add_argument('--split', help='list of images; the default is the data set\'s training '
                       'split').affects = NOTHING
    group.add_argument('--checkpoint', type=Path, metavar='FILE',
                       help='trained network, ours or a published one; the default is '
                       'exp/<run>/aff/model.pth').affects = NOTHING
    group.add_argument('--cams', type=Path, metavar='DIR',
                       help='CAM files; the default is exp/<run>/labels/<split>/cam').affects = NOTHING
    group.add_argument('--unpickle', action='store_true',
                       help='the folder holds pickled .npy files, as the reference and infer_cam.py '
                       '--export-npy write').affects = NOTHING
    add_fresh_flag(group)
    group.add_argument('--scale', type=number(0.05, 8), default=1.0,
                       help='size of the image that the network sees and the walk runs on; above 1 for small images')
    group.add_argument('--alpha', type=number(0, 1000, above=True), default=6.0,
                       help='power of the background score: larger gives less background')
    group.add_argument('--beta', type=number(0, 1000, above=True), default=8.0,
                       help='power of the affinities: larger keeps scores closer to edges')
    group.add_argument('--log-steps', type=integer(0, 12), default=6, help='the walk takes 2 to this power steps')
    group.add_argument('--radius', type=integer(2, 32), default=5,
                       help='steps are shorter than this, in feature pixels')
    return parser


def infer_affinity(view: torch.Tensor, radius: int, network: Callable) -> tuple[np.ndarray, tuple[int, int]]:
    """Affinities of the pairs of one image's features, see tool/affutils.pair_affinity, and the size of these."""
    features = network(view)
    return pair_affinity(features, radius)[0].cpu().numpy(), tuple(features.shape[-2:])


def write_walk(path: Path, origin: str, cam_file: Path, affinity: np.ndarray, size: tuple[int, int],
               args: argparse.Namespace, image_size: tuple[int, int], stride: int, num_fg: int) -> None:
    """Walk on one image's CAMs and write its label PNG."""
    present, cam = read_any_maps(cam_file, image_size, num_fg)
    if cam.shape[1:] != image_size:
        raise ValueError(f'{cam_file} is of {cam.shape[1]}x{cam.shape[2]}, its image of '
                         f'{image_size[0]}x{image_size[1]}; make the CAMs again with infer_cam.py')
    seen_size = scaled_size(*image_size, args.scale)
    pooled = pool_cams(resize_linear(cam, *seen_size), args.alpha, stride)
    walked = random_walk(affinity, size, pooled, args.beta, args.log_steps, args.radius)
    write_label_png(path, resize_nearest(walk_label(walked, present, seen_size, stride), *image_size), origin)


def main(argv=None):
    """Infer one split."""
    args, spec = resolve(make_parser(), argv, 'infer_aff', get_spec)
    split = args.split or spec.train_split
    checkpoint = args.checkpoint or args.folder / 'aff' / 'model.pth'
    dataset = InferSet(spec, split, args.limit, with_labels=False)
    folder, suffix = label_source(args.cams, args.folder / 'labels' / split / 'cam', args.unpickle, '--cams')
    check_network(checkpoint, 'aff', args.backbone)
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)

    # The CAMs: there, of these classes, and of the images as they are now.
    digests = Digests(args.folder / '.digests.json')
    cams = {sample.name: folder / f'{sample.name}{suffix}' for sample in dataset.samples}
    remedy = (f'make them with python infer_cam.py --dataset {quote(args.dataset)} --run {quote(args.run)} '
              f'--split {split}{" --export-npy" if args.unpickle else ""}')
    left_out = check_made(spec, [(sample, cams[sample.name]) for sample in dataset.samples],
                          f'{folder} lacks CAMs of {split}', remedy)
    kept = [sample for sample in dataset.samples if sample.name not in left_out]
    check_labels([cams[sample.name] for sample in kept], spec, digests.of(sample.image for sample in kept), remedy)

    # What each file is made from.
    output = Output(args.folder / 'labels' / split / 'walk', '.png',
                    stage_origin(args, spec, network=digests(checkpoint)))
    sources = [{'image': sample.image, 'cam': cams[sample.name]} for sample in dataset.samples]
    ranks.print_rank0(f'Random walk on {len(dataset)} images ({spec.name} {split}) to {output.folder}')

    # Infer what is not up to date.
    with unfinished(args, dataset.names, [output], sources, digests, device) as work:
        if work.todo:
            dataset.check()
            infer(args, spec, dataset, checkpoint, cams, device, work)


@torch.inference_mode()
def infer(args: argparse.Namespace, spec: DatasetSpec, dataset: InferSet, checkpoint: Path, cams: Mapping[str, Path],
          device: torch.device, work: Work) -> None:
    """Write the files of the images that are left to do."""
    def trained_network() -> AffinityNet:
        network = AffinityNet(trained_backbone(checkpoint, args.width))
        load_network(network, checkpoint, {'classes': spec.classes})
        return network

    inference = Inference(trained_network, device, devices.pick_amp(args.amp, device), checkpoint)
    if args.dry_run:
        return
    stride, norm = inference.network.backbone.stride, inference.network.backbone.norm
    images = single_images(Subset(dataset, work.todo), min(args.workers, 1), on_corrupt=args.on_corrupt)
    with Background(args.workers) as background:
        for sample in work.watch(progress(images, 'infer_aff')):
            image, name = sample['image'], sample['name']
            seen = resize_bicubic(image, *scaled_size(*image.shape[:2], args.scale))
            view = torch.from_numpy(pad_to_multiple(normalise(seen, norm), stride))[None].to(device)
            affinity, grid = inference(name, partial(infer_affinity, view, args.radius))
            background.submit(write_walk, *work.files(name)[0], cams[name], affinity, grid, args, image.shape[:2],
                              stride, spec.num_fg)


if __name__ == '__main__':
    run_script(main)
