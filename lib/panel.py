"""Draw the outputs of a run for some images: one row per image, one column per stage.

    python -m lib.panel --dataset voc12 --run voc12 --split val --out panel.png
    python -m lib.panel --dataset toy --run toy --split val --out panel.png --count 4 --thin-out

Reads the images of a split, all outputs that the run has for them (CAMs, seeds, random walk, segmentation) and the
ground truth of the data set. The images are evenly spaced over the list. CAMs become labels at --background-score, see
below. Pale yellow means ignored: uncertain in the seeds, void in the ground truth.
"""
import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lib.data.corrupt import keep_readable
from lib.data.registry import get_spec
from lib.files.fileio import replacing
from lib.files.imageio import IGNORED, voc_palette
from lib.files.outpaths import image_mark, refuse_foreign
from lib.process.cli import integer, number
from lib.process.ending import run_script
from lib.report.examples import COLUMNS, best_threshold, draw_row, evenly_spaced, read_outputs
from lib.run.options import base_parser, resolve
from lib.run.record import read_scores
from tool.drawing import boxed, legend, side_by_side, stacked, titled

MAKER = 'lib.panel'
FORMATS = {'.png': 'PNG', '.jpg': 'JPEG', '.jpeg': 'JPEG'}
THINNED_OUT = ('CAM', 'seeds')          # omitted with --thin-out


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = base_parser(__doc__)
    parser.prog = f'python -m {MAKER}'
    group = parser.add_argument_group('panel')
    group.add_argument('--split', help='list of images; the default is the data set\'s validation split')
    group.add_argument('--out', type=Path, required=True, metavar='FILE', help='image to write: .png or .jpg')
    group.add_argument('--count', type=integer(1, 1000), default=6, help='number of images')
    group.add_argument('--background-score', type=number(0, 1, above=True), metavar='SCORE',
                       help='threshold above which CAMs are labelled; the default is the best that eval.py found, else '
                       'the one chosen by python -m lib.choose, else 0.25')
    group.add_argument('--cell', type=integer(16, 2048), default=160, help='long side of each image, pixels')
    group.add_argument('--thin-out', action='store_true', help=f'omit the columns {" and ".join(THINNED_OUT)}')
    return parser


def arrange(rows: Sequence[Mapping[str, np.ndarray]], columns: Sequence[str], cell: int) -> np.ndarray:
    """Stack rows of images, with titles above the columns; a missing image leaves a gap."""
    nothing = np.full((1, 1, 3), 255, np.uint8)
    heights = [round(cell * min(1, row['image'].shape[0] / row['image'].shape[1])) for row in rows]
    return side_by_side([titled(stacked([boxed(row.get(column, nothing), height, cell)
                                         for row, height in zip(rows, heights)]), column) for column in columns])


def main(argv: list[str] | None = None) -> None:
    """Draw some images of one split."""
    args, spec = resolve(make_parser(), argv, '', get_spec)
    split, suffix = args.split or spec.val_split, args.out.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f'--out {args.out} must end in .png or .jpg')
    refuse_foreign(args.out, MAKER)
    threshold = args.background_score or best_threshold(read_scores(args.folder / 'scores.json'), split, args.folder)
    images = keep_readable(spec, evenly_spaced(spec.samples(split)[:args.limit], args.count))
    outputs = [read_outputs(sample, spec, split, args.folder, [threshold]) for sample, _ in images]
    columns = [column.format(threshold) for column in COLUMNS if not (args.thin_out and column in THINNED_OUT)]
    columns = [column for column in columns if column == 'image' or any(column in output for output in outputs)]
    if set(columns) <= {'image', 'ground truth'}:
        raise ValueError(f'{args.folder} holds nothing for {spec.name} {split}; name the run with --run and --exp, or '
                         'make CAMs with infer_cam.py')
    print(f'{len(images)} images of {spec.name} {split} to {args.out}: {", ".join(columns)}')
    if args.dry_run:
        return
    labels = set().union(*(np.unique(values).tolist() for output in outputs for column, values in output.items()
                           if column in columns and values.dtype == np.uint8))
    names = {**dict(enumerate(spec.class_names)), IGNORED: 'ignored'}
    sheet = arrange([draw_row(*image, output) for image, output in zip(images, outputs)], columns, args.cell)
    colours = {names[label]: voc_palette()[label] for label in sorted(labels - {0})}
    with replacing(args.out) as temporary:
        Image.fromarray(stacked([sheet, legend(colours, sheet.shape[1])], gap=8)).save(
            temporary, format=FORMATS[suffix], **image_mark(MAKER))


if __name__ == '__main__':
    run_script(main)
