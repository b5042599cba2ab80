"""Infer class activation maps and CRF seeds with the trained CAM network.

    python infer_cam.py --split train_aug            what the affinity stage and the random walk read
    python infer_cam.py --split val --no-seeds       CAMs alone

Reads exp/<run>/cam/model.pth, the images of the split and their image-level labels, which mask the maps (on val too);
writes exp/<run>/labels/<split>/cam/<id>.npz and labels/<split>/seeds/<id>.npz, scores of the classes present.
--export-npy writes them a second time as the reference does: pickled, in exp/<run>/plabels/<split>/cam/<id>.npy and
plabels/<split>/crf/alpha_<strength>/<id>.npy.
"""
import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Subset

from lib.data.datasets import InferSet
from lib.data.labelio import write_maps, write_seeds
from lib.data.loading import single_images
from lib.data.npyio import write_npy_maps, write_npy_scores
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.inference import Inference
from lib.multiscale import multi_scale
from lib.net.backbones import check_network, trained_backbone
from lib.net.seam import Seam
from lib.net.weights import load_network
from lib.process import ranks
from lib.process.ending import run_script
from lib.process.progress import progress
from lib.process.ranges import LowHigh, number
from lib.process.workers import Background
from lib.run import device as devices
from lib.run.digests import Digests
from lib.run.options import NOTHING, add_device_flags, add_fresh_flag, base_parser, resolve
from lib.run.origin import stage_origin
from lib.run.outputs import Output, Work, unfinished
from tool.camutils import fuse_scales
from tool.crfutils import seed_scores
from tool.imutils import Norm, fitting_size, normalise, resize_bicubic, scaled_size


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = base_parser(__doc__)
    add_device_flags(parser)
    group = parser.add_argument_group('inference')
    group.add_argument('--split', help='list of images; the default is the data set\'s training '
                       'split').affects = NOTHING
    group.add_argument('--checkpoint', type=Path, metavar='FILE',
                       help='trained network, ours or a published one; the default is '
                       'exp/<run>/cam/model.pth').affects = NOTHING
    group.add_argument('--scales', type=number(0.05, 8), nargs='+', default=(0.5, 1.0, 1.5, 2.0),
                       help='image sizes, each run with its mirror')
    group.add_argument('--seeds', action=argparse.BooleanOptionalAction, default=True,
                       help='run the CRF too and write seeds').affects = NOTHING
    group.add_argument('--seed-alphas', type=number(0, 1000, above=True), action=LowHigh,
                       strict=True, default=(1.0, 24.0), metavar=('LOW', 'HIGH'),
                       help='powers of the background score of the two seeds: much background, little '
                       'background').affects = ('seeds',)
    add_fresh_flag(group)
    group.add_argument('--export-npy', action='store_true',
                       help='write pickled .npy files to exp/<run>/plabels/<split> too, for other '
                       'codebases').affects = NOTHING
    return parser


def make_outputs(args: argparse.Namespace, spec: DatasetSpec, split: str, network: str) -> list[Output]:
    """The folders that this run fills, in the order in which write_labels() takes them."""
    cams, seeds = (stage_origin(args, spec, kind, network=network) for kind in ('cam', 'seeds'))
    labels, export = args.folder / 'labels' / split, args.folder / 'plabels' / split
    outputs = [Output(labels / 'cam', '.npz', cams)]
    if args.seeds:
        outputs.append(Output(labels / 'seeds', '.npz', seeds))
    if args.export_npy:
        outputs.append(Output(export / 'cam', '.npy', cams))
        outputs += [Output(export / 'crf' / f'alpha_{alpha}', '.npy', seeds)
                    for alpha in args.seed_alphas if args.seeds]
    return outputs


def resized(sample: dict, scales: Sequence[float], norm: Norm, size_step: int | None) -> dict:
    """A sample with 'views' besides: the image normalised at every scale, float32 [3, h, w] each.

    `size_step` is the backbone's, see lib/net/backbone.py.
    """
    image = sample['image']
    sizes = [fitting_size(*scaled_size(*image.shape[:2], scale), size_step) for scale in scales]
    return sample | {'views': [normalise(resize_bicubic(image, *size), norm) for size in sizes]}


def infer_cams(views: Sequence[np.ndarray], size: tuple[int, int], present: np.ndarray, forward: Callable,
               device: torch.device) -> np.ndarray:
    """CAMs of one image.

    Args:
        views: what resized() made of the image.
        size: its height and width, H and W.
        present: foreground class indices [k] of the image's labels.
        forward: batch of a view and its mirror -> refined foreground maps [2, K, h, w].

    Returns:
        float32 [k, H, W] in [0, 1].
    """
    if not len(present):
        return np.zeros((0, *size), np.float32)
    index = torch.from_numpy(present).to(device, non_blocking=True)
    maps = multi_scale(views, size, lambda pair: forward(pair)[:, index], device, align_corners=False)
    return fuse_scales(torch.cat(list(maps))).cpu().numpy()


def refined_cams(sample: dict, present: np.ndarray, device: torch.device, network: Callable) -> np.ndarray:
    """CAMs of a sample of resized(), by the network's refined maps."""
    return infer_cams(sample['views'], sample['image'].shape[:2], present, lambda pair: network(pair).refined[:, 1:],
                      device)


def write_labels(files: Sequence[tuple[Path, str]], image: np.ndarray, present: np.ndarray, cam: np.ndarray,
                 alphas: tuple[float, ...], export: bool) -> None:
    """Write the CAM file of one image and, for the alphas given, its seeds; with `export` as .npy too.

    `files` are paths and origins in the order of make_outputs().
    """
    files = iter(files)
    seeds = {alpha: seed_scores(image, cam, alpha) for alpha in alphas}
    path, origin = next(files)
    write_maps(path, present, cam, origin)
    if seeds:
        path, origin = next(files)
        write_seeds(path, present, seeds, origin)
    if export:
        path, origin = next(files)
        write_npy_maps(path, present, cam, origin)
        for scores in seeds.values():
            path, origin = next(files)
            write_npy_scores(path, present, scores, origin)


def main(argv=None):
    """Infer one split."""
    args, spec = resolve(make_parser(), argv, 'infer_cam', get_spec)
    split = args.split or spec.train_split
    checkpoint = args.checkpoint or args.folder / 'cam' / 'model.pth'
    dataset = InferSet(spec, split, args.limit)
    check_network(checkpoint, 'seam', args.backbone)
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)

    # What each file is made from.
    digests = Digests(args.folder / '.digests.json')
    outputs = make_outputs(args, spec, split, network=digests(checkpoint))
    labels = [[spec.classes[index] for index in np.flatnonzero(row)] for row in dataset.labels]
    sources = [{'image': sample.image, 'image_labels': names} for sample, names in zip(dataset.samples, labels)]
    ranks.print_rank0(f'CAMs{" and seeds" if args.seeds else ""} of {len(dataset)} images ({spec.name} {split}) to '
                      f'{args.folder / "labels" / split}')

    # Infer what is not up to date.
    with unfinished(args, dataset.names, outputs, sources, digests, device) as work:
        if work.todo:
            dataset.check()
            infer(args, spec, dataset, checkpoint, device, work)


def infer(args: argparse.Namespace, spec: DatasetSpec, dataset: InferSet, checkpoint: Path, device: torch.device,
          work: Work) -> None:
    """Write the files of the images that are left to do."""
    def trained_network() -> Seam:
        network = Seam(trained_backbone(checkpoint, args.width), spec.num_classes)
        load_network(network, checkpoint, {'classes': spec.classes})
        return network

    inference = Inference(trained_network, device, devices.pick_amp(args.amp, device), checkpoint)
    if args.dry_run:
        return
    backbone = inference.network.backbone
    prepare = partial(resized, scales=args.scales, norm=backbone.norm, size_step=backbone.size_step)
    alphas = tuple(args.seed_alphas) if args.seeds else ()
    images = single_images(Subset(dataset, work.todo), min(args.workers, 1), prepare, args.on_corrupt)
    with Background(args.workers) as background:
        for sample in work.watch(progress(images, 'infer_cam')):
            present = np.flatnonzero(sample['image_labels'])
            cam = inference(sample['name'], partial(refined_cams, sample, present, device))
            background.submit(write_labels, work.files(sample['name']), sample['image'], present, cam, alphas,
                              args.export_npy)


if __name__ == '__main__':
    run_script(main)
