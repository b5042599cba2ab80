"""Infer class activation maps and CRF seeds with the trained CAM network.

    python infer_cam.py --split train_aug                CAMs for the random walk, seeds for the affinity stage
    python infer_cam.py --split val --no-crf-seeds       only CAMs

Reads exp/<run>/cam/model.pth, the images of the split and their image-level labels, which mask the maps (on val too);
writes the scores of the classes present to exp/<run>/labels/<split>/cam/<id>.npz and labels/<split>/seeds/<id>.npz.
--out-cam-pred also writes the labels of the CAMs at a background score, to labels/<split>/cam_pred/<id>.png.
--export-npy also writes CAMs and seeds in the reference's format, pickled, to exp/<run>/plabels/<split>/cam/<id>.npy
and plabels/<split>/crf/alpha_<strength>/<id>.npy.
"""
import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lib.data.datasets import InferSet
from lib.data.labelio import write_maps, write_seeds
from lib.data.npyio import write_npy_maps, write_npy_scores
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import write_label_png
from lib.inference import ImageTask, TrainedNetwork, add_crf_flag, infer_images, inference_parser
from lib.multiscale import add_views, infer_cams
from lib.net.backbone import Backbone
from lib.net.seam import Seam
from lib.process import ranks
from lib.process.cli import LowHigh, number, or_auto
from lib.process.ending import run_script
from lib.run.chosen import fill_in
from lib.run.options import NOTHING, resolve
from lib.run.origin import Digests, stage_origin
from lib.run.outputs import Output
from tool.camutils import cam_label
from tool.crfutils import seed_scores


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = inference_parser(__doc__, 'cam', 'training')
    group = parser.add_argument_group('CAMs and seeds')
    group.add_argument('--scales', type=number(0.05, 8), nargs='+', default=(0.5, 1.0, 1.5, 2.0),
                       help='test-time scales, each with a horizontal flip')
    group.add_argument('--crf-seeds', action=argparse.BooleanOptionalAction, default=True,
                       help='also run the CRF and write seeds').affects = NOTHING
    group.add_argument('--seed-alphas', type=or_auto(number(0, 1000, above=True)), action=LowHigh,
                       strict=True, default=(1.0, 24.0), metavar=('LOW', 'HIGH'),
                       help='exponents of the background score for the two seeds, the one with more background '
                       'first; auto: as chosen by python -m lib.choose').affects = ('seeds',)
    add_crf_flag(group, affects=('seeds',))
    group.add_argument('--out-cam-pred', nargs='?', const=True, type=Path, metavar='DIR',
                       help='also write label PNGs of the CAMs; the default folder is '
                       'exp/<run>/labels/<split>/cam_pred').affects = NOTHING
    group.add_argument('--background-score', type=or_auto(number(0, 1)), default=0.25,
                       help='background score for --out-cam-pred; auto: as chosen by python -m lib.choose'
                       ).affects = ('cam_pred',)
    group.add_argument('--export-npy', action='store_true',
                       help='also write pickled .npy files to exp/<run>/plabels/<split>, for other '
                       'codebases').affects = NOTHING
    return parser


def make_outputs(args: argparse.Namespace, spec: DatasetSpec, split: str, network: str) -> list[Output]:
    """The folders that this run fills, in the order that write_labels() expects."""
    cams, seeds = (stage_origin(args, spec, kind, network=network) for kind in ('cam', 'seeds'))
    labels, export = args.folder / 'labels' / split, args.folder / 'plabels' / split
    outputs = [Output(labels / 'cam', '.npz', cams)]
    if args.crf_seeds:
        outputs.append(Output(labels / 'seeds', '.npz', seeds))
    if args.out_cam_pred:
        folder = labels / 'cam_pred' if args.out_cam_pred is True else args.out_cam_pred
        outputs.append(Output(folder, '.png', stage_origin(args, spec, 'cam_pred', network=network)))
    if args.export_npy:
        outputs.append(Output(export / 'cam', '.npy', cams))
        outputs += [Output(export / 'crf' / f'alpha_{alpha}', '.npy', seeds)
                    for alpha in args.seed_alphas if args.crf_seeds]
    return outputs


def write_labels(files: Sequence[tuple[Path, str]], image: np.ndarray, present: np.ndarray, cam: np.ndarray,
                 probs: np.ndarray, seeds: dict[float, np.ndarray], alphas: tuple[float, ...], export: bool,
                 threshold: float | None = None, backend: str = 'torch') -> None:
    """Write the CAMs of one image and its seeds, given or made for the alphas; with `export` also as .npy files.

    With a threshold, also its label PNG at this background score. `files` are paths and origins in the order of
    make_outputs().
    """
    seeds = seeds or (seed_scores(image, cam, alphas, backend) if alphas else {})
    contents = [(partial(write_maps, probs=probs), cam)]
    if seeds:
        contents.append((write_seeds, seeds))
    if threshold is not None:
        label = cam_label(present, cam, threshold)
        contents.append((lambda path, _, label, origin: write_label_png(path, label, origin), label))
    if export:
        contents += [(write_npy_maps, cam), *((write_npy_scores, scores) for scores in seeds.values())]
    for (path, origin), (write, values) in zip(files, contents, strict=True):
        write(path, present, values, origin)


def make_task(args: argparse.Namespace, device: torch.device, backbone: Backbone) -> ImageTask:
    """Make the views of an image, infer their maps, and write the files of CAMs and seeds."""
    prepare = partial(add_views, scales=args.scales, norm=backbone.norm, size_step=backbone.size_step)
    alphas = tuple(args.seed_alphas) if args.crf_seeds else ()
    on_gpu = device.type == 'cuda' and args.crf_backend == 'torch'          # else worker processes run the CRF
    write = partial(write_labels, alphas=alphas, export=args.export_npy, backend=args.crf_backend,
                    threshold=args.background_score if args.out_cam_pred else None)
    return ImageTask(partial(infer_cams, device=device, alphas=alphas if on_gpu else ()), write, prepare)


def main(argv=None):
    """Infer CAMs and seeds of one split."""
    args, spec = resolve(make_parser(), argv, 'infer_cam', get_spec)
    split = args.split or spec.train_split
    dataset = InferSet(spec, split, args.limit)
    trained = TrainedNetwork(args, 'cam', 'seam')

    # What each file is made from.
    digests = Digests(args.folder / '.digests.json')
    fill_in(args, digests, needed=[*(['seed_alphas'] if args.crf_seeds else []),
                                   *(['background_score'] if args.out_cam_pred else [])], network=trained.path)
    outputs = make_outputs(args, spec, split, network=digests(trained.path))
    labels = [[spec.classes[index] for index in np.flatnonzero(row)] for row in dataset.labels]
    sources = [{'image': sample.image, 'image_labels': names} for sample, names in zip(dataset.samples, labels)]
    ranks.print_rank0(f'CAMs{" and seeds" if args.crf_seeds else ""} of {len(dataset)} images ({spec.name} {split}) to '
                      f'{args.folder / "labels" / split}')

    # Infer what is not up to date.
    make_head = partial(Seam, num_classes=spec.num_classes)
    load = partial(trained.load, spec.classes, make_head)
    infer_images(args, dataset, outputs, sources, digests, load,
                 make_task=partial(make_task, args, trained.device))


if __name__ == '__main__':
    run_script(main)
