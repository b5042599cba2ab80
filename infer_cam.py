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
from lib.run.identity import data_inputs, file_digest
from torch.utils.data import Subset

from lib.data.datasets import InferSet
from lib.data.labelio import read_maps, read_seeds, write_maps, write_seeds
from lib.data.loading import single_images
from lib.data.npyio import read_npy_maps, write_npy_maps, write_npy_scores
from lib.data.registry import get_spec
from lib.inference import Inference
from lib.multiscale import multi_scale
from lib.net.backbones import check_backbone, trained_backbone
from lib.net.seam import Seam
from lib.net.weights import load_network
from lib.run import device as devices
from lib.run.options import add_device_flags, add_fresh_flag, base_parser, resolve, run_script
from lib.run.outputs import Output, all_finished, unfinished
from tool.camutils import fuse_scales
from tool.crfutils import seed_scores
from tool.imutils import Norm, fitting_size, normalise, resize_bicubic, scaled_size
from tool.progress import progress
from tool.ranges import LowHigh, number
from tool.workers import Background

PRESETS = {
    'voc12': {},
    'coco': {},
    'toy': {'width': 0.125, 'scales': (0.5, 1.0, 1.5), 'seed_alphas': (1.0, 5.0), 'amp': 'auto'},
    'own': {'seed_alphas': (2.0, 10.0), 'amp': 'auto'},
}


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = base_parser(__doc__)
    add_device_flags(parser)
    group = parser.add_argument_group('inference')
    group.add_argument('--split', help='list of images; the default is the data set\'s training split')
    group.add_argument('--checkpoint', type=Path, metavar='FILE',
                       help='trained network, ours or a published one; the default is exp/<run>/cam/model.pth')
    group.add_argument('--scales', type=number(0.05, 8), nargs='+', default=(0.5, 1.0, 1.5, 2.0),
                       help='image sizes, each run with its mirror')
    group.add_argument('--seeds', action=argparse.BooleanOptionalAction, default=True,
                       help='run the CRF too and write seeds')
    group.add_argument('--seed-alphas', type=number(0, 1000, above=True), action=LowHigh,
                       strict=True, default=(1.0, 24.0), metavar=('LOW', 'HIGH'),
                       help='powers of the background score of the two seeds: much background, little background')
    add_fresh_flag(group)
    group.add_argument('--export-npy', action='store_true',
                       help='write pickled .npy files to exp/<run>/plabels/<split> too, for related codes')
    return parser


def make_outputs(args: argparse.Namespace, split: str) -> list[Output]:
    """The folders that this run fills. CAMs do not depend on what is asked of the seeds."""
    check_npy = partial(read_npy_maps, size=(1, 1))         # of an image without classes, which tells no size
    labels, export = args.folder / 'labels' / split, args.folder / 'plabels' / split
    about_seeds = ('seeds', 'seed_alphas', 'export_npy')
    outputs = [Output(labels / 'cam', '.npz', read_maps, about_seeds)]
    if args.seeds:
        outputs.append(Output(labels / 'seeds', '.npz', read_seeds, about_seeds[::2]))
    if args.export_npy:
        outputs.append(Output(export / 'cam', '.npy', check_npy, about_seeds))
        outputs += [Output(export / 'crf' / f'alpha_{alpha}', '.npy', check_npy, about_seeds[::2])
                    for alpha in args.seed_alphas if args.seeds]
    return outputs


def resized(sample: dict, scales: Sequence[float], norm: Norm, size_step: int | None) -> dict:
    """A sample with 'views' besides: the image normalised at every scale, float32 [3, h, w] each.

    `size_step` is the backbone's, see lib/net/backbone.py.
    """
    image = sample['image']
    sizes = [fitting_size(*scaled_size(*image.shape[:2], scale), size_step) for scale in scales]
    return sample | {'views': [torch.from_numpy(normalise(resize_bicubic(image, *size), norm)) for size in sizes]}


def infer_cams(views: Sequence[torch.Tensor], size: tuple[int, int], present: np.ndarray, forward: Callable,
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


def write_labels(folder: Path, name: str, image: np.ndarray, present: np.ndarray, cam: np.ndarray,
                 alphas: tuple[float, ...], export: Path | None = None) -> None:
    """Write the CAM file of one image and, for the alphas given, its seeds; to the folder `export` as .npy too."""
    seeds = {alpha: seed_scores(image, cam, alpha) for alpha in alphas}
    write_maps(folder / 'cam' / f'{name}.npz', present, cam)
    if seeds:
        write_seeds(folder / 'seeds' / f'{name}.npz', present, seeds)
    if export:
        write_npy_maps(export / 'cam' / f'{name}.npy', present, cam)
        for alpha, scores in seeds.items():
            write_npy_scores(export / 'crf' / f'alpha_{alpha}' / f'{name}.npy', present, scores)


def main(argv=None):
    """Infer one split."""
    args, spec = resolve(make_parser(), argv, PRESETS, get_spec)
    split = args.split or spec.train_split
    dataset = InferSet(spec, split, args.limit)
    checkpoint = args.checkpoint or args.folder / 'cam' / 'model.pth'
    names = [sample.name for sample in dataset.samples]
    outputs = make_outputs(args, split)
    inputs = data_inputs(spec, split) | {'network': file_digest(checkpoint)}
    check_backbone(checkpoint, args.backbone)
    if not args.dry_run and all_finished(args, names, outputs, inputs):
        return
    dataset.check()
    device = devices.pick_device(args.device)
    amp = devices.pick_amp(args.amp, device)

    def trained_network() -> Seam:
        network = Seam(trained_backbone(checkpoint, args.backbone, args.width), spec.num_classes)
        load_network(network, checkpoint, {'classes': spec.classes})
        return network

    infer = Inference(trained_network, device, amp, checkpoint)
    folder = args.folder / 'labels' / split
    export = args.folder / 'plabels' / split if args.export_npy else None
    alphas = tuple(args.seed_alphas) if args.seeds else ()
    print(f'CAMs{" and seeds" if args.seeds else ""} of {len(dataset)} images ({spec.name} {split}) to {folder}')
    if args.dry_run:
        return
    backbone = infer.network.backbone
    prepare = partial(resized, scales=args.scales, norm=backbone.norm, size_step=backbone.size_step)
    with (unfinished(args, names, outputs, inputs, device) as share, Background(args.workers) as background):
        images = single_images(Subset(dataset, share.left), min(args.workers, 1), prepare, args.on_corrupt)
        for sample in share.watch(progress(images, 'infer_cam')):
            present = np.flatnonzero(sample['image_labels'])
            cam = infer(sample['name'], partial(refined_cams, sample, present, device))
            background.submit(write_labels, folder, sample['name'], sample['image'], present, cam,
                              alphas, export)


if __name__ == '__main__':
    run_script(main)
