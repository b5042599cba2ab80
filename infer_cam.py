"""Infer class activation maps and CRF seeds with the trained CAM network.

    python infer_cam.py --split train_aug            what the affinity stage and the random walk read
    python infer_cam.py --split val --no-seeds       CAMs alone

Reads exp/<run>/cam/model.pth, the images of the split and their image-level labels, which mask the maps (on val too);
writes exp/<run>/labels/<split>/cam/<id>.npz and labels/<split>/seeds/<id>.npz, scores of the classes present.
--export-npy writes them a second time as the reference does: pickled, in exp/<run>/plabels/<split>/cam/<id>.npy and
plabels/<split>/crf/alpha_<strength>/<id>.npy.
"""
import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lib.data.datasets import InferSet
from lib.data.labelio import write_maps, write_seeds
from lib.data.loading import single_images
from lib.data.npyio import write_npy_maps, write_npy_scores
from lib.data.registry import get_spec
from lib.multiscale import multi_scale
from lib.net.backbones import trained_backbone
from lib.net.seam import Seam
from lib.net.weights import load_network
from lib.run import device as devices
from lib.run.options import add_device_flags, base_parser, positive_float, resolve, run_script
from lib.run.pool import Background
from lib.run.progress import progress
from lib.run.record import made_by
from tool.camutils import fuse_scales
from tool.crfutils import seed_scores
from tool.imutils import fitting_size, normalise, resize_bicubic

PRESETS = {
    'voc12': {},
    'coco': {},
    'toy': {'width': 0.125, 'scales': (0.5, 1.0, 1.5), 'seed_alphas': (1.0, 5.0), 'amp': 'auto'},
    'own': {'amp': 'auto'},
}


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = base_parser(__doc__)
    add_device_flags(parser)
    group = parser.add_argument_group('inference')
    group.add_argument('--split', help='list of images; the default is the data set\'s training split')
    group.add_argument('--checkpoint', type=Path, metavar='FILE',
                       help='trained network, ours or a published one; the default is exp/<run>/cam/model.pth')
    group.add_argument('--scales', type=positive_float, nargs='+', default=(0.5, 1.0, 1.5, 2.0),
                       help='image sizes, each run with its mirror')
    group.add_argument('--seeds', action=argparse.BooleanOptionalAction, default=True,
                       help='run the CRF too and write seeds')
    group.add_argument('--seed-alphas', type=positive_float, nargs=2, default=(1.0, 24.0), metavar=('LOW', 'HIGH'),
                       help='powers of the background score of the two seeds: much background, little background')
    group.add_argument('--export-npy', action='store_true',
                       help='write pickled .npy files to exp/<run>/plabels/<split> too, for related codes')
    return parser


def infer_cams(image: np.ndarray, present: np.ndarray, forward: Callable, scales: list[float], norm,
               device: torch.device, size_step: int | None = None) -> np.ndarray:
    """CAMs of one image.

    Args:
        image: uint8 [H, W, 3].
        present: foreground class indices [k] of the image's labels.
        forward: batch of views -> refined foreground maps [2, K, h, w].
        size_step: see lib/net/backbone.py.

    Returns:
        float32 [k, H, W] in [0, 1].
    """
    if not len(present):
        return np.zeros((0, *image.shape[:2]), np.float32)
    index = torch.from_numpy(present).to(device)

    def view(image: np.ndarray, height: int, width: int) -> np.ndarray:
        return normalise(resize_bicubic(image, *fitting_size(height, width, size_step)), norm)

    maps = multi_scale(image, scales, view, lambda views: forward(views)[:, index], device, align_corners=False)
    return fuse_scales(torch.cat(list(maps))).cpu().numpy()


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
    dataset.check()
    device = devices.pick_device(args.device)
    amp = devices.pick_amp(args.amp, device)
    checkpoint = args.checkpoint or args.folder / 'cam' / 'model.pth'
    network = Seam(trained_backbone(checkpoint, args.backbone, args.width), spec.num_classes)
    load_network(network, checkpoint)
    network = devices.place(network, device, amp).eval()
    folder = args.folder / 'labels' / split
    export = args.folder / 'plabels' / split if args.export_npy else None
    alphas = tuple(args.seed_alphas) if args.seeds else ()
    print(f'CAMs{" and seeds" if args.seeds else ""} of {len(dataset)} images ({spec.name} {split}) to {folder}')
    if args.dry_run:
        return

    def forward(views: torch.Tensor) -> torch.Tensor:
        with devices.autocast(device, amp):
            return network(views).refined[:, 1:]

    for kind in ('cam', 'seeds')[:1 + args.seeds]:
        made_by(folder / kind, args, device)
    if export:
        made_by(export, args, device)
    with Background(args.workers) as background:
        for sample in progress(single_images(dataset, min(args.workers, 1)), 'infer_cam'):
            present = np.flatnonzero(sample['image_labels'])
            cam = infer_cams(sample['image'], present, forward, args.scales, network.backbone.norm, device,
                             network.backbone.size_step)
            background.submit(write_labels, folder, sample['name'], sample['image'], present, cam,
                              alphas, export)


if __name__ == '__main__':
    run_script(main)
