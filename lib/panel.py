"""Draw what a run made of some images: a row an image, a column a stage.

    python -m lib.panel --dataset voc12 --run voc12 --split val --out panel.png
    python -m lib.panel --dataset toy --run toy --split val --out panel.png --count 4 --thin-out

Reads the images of a split, whatever the run holds for them (CAMs, seeds, random walk, segmentation) and the masks of
the data set. The images are spread evenly over the list. CAM labels are cut at --background-score; without it at the
best threshold that eval.py found for the split, and at 0.25 where it has found none, as without masks. Pale yellow is
ignored: unsure in the seeds, void in the truth.
"""
import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lib.data.corrupt import keep_readable, read_truth
from lib.data.labelio import read_maps, read_seeds
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.fileio import replacing
from lib.files.imageio import IGNORED, read_image, read_mask, voc_palette
from lib.files.outpaths import image_mark, refuse_foreign
from lib.process.ending import run_script
from lib.process.ranges import integer, number
from lib.run.options import base_parser, resolve
from lib.run.record import read_scores
from tool.camutils import cam_label, labels_of
from tool.drawing import blend, boxed, heat, legend, side_by_side, stacked, titled

DEFAULT_THRESHOLD, MAKER = 0.25, 'lib.panel'
COLUMNS = ('image', 'CAM', 'CAM label', 'seeds', 'random walk', 'segmentation', 'truth')
THINNED_OUT = ('CAM', 'seeds')          # what --thin-out leaves out


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = base_parser(__doc__)
    group = parser.add_argument_group('panel')
    group.add_argument('--split', help='list of images; the default is the data set\'s validation split')
    group.add_argument('--out', type=Path, required=True, metavar='FILE', help='picture to write: .png or .jpg')
    group.add_argument('--count', type=integer(1, 1000), default=6, help='images, spread evenly over the list')
    group.add_argument('--background-score', type=number(0, 1, above=True), metavar='SCORE',
                       help='CAMs above it are labelled; the default is the best that eval.py found, else 0.25')
    group.add_argument('--cell', type=integer(16, 2048), default=160, help='long side of every picture, pixels')
    group.add_argument('--thin-out', action='store_true', help=f'leave out the columns {" and ".join(THINNED_OUT)}')
    return parser


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, evenly spaced over the list."""
    count = min(count, len(samples))
    return [samples[(2 * place + 1) * len(samples) // (2 * count)] for place in range(count)]


def best_threshold(scores: Sequence[Mapping], split: str) -> float:
    """Best threshold in the newest evaluation of the split's CAMs; the constant one where there is no evaluation."""
    records = [record for record in scores if (record['what'], record['split']) == ('cam', split)]
    found = [result['threshold'] for record in records for result in record['results'] if result.get('best')]
    return found[-1] if found else DEFAULT_THRESHOLD


def seeds_label(path: Path, num_fg: int) -> np.ndarray:
    """What the two seeds of a file are sure of, uint8 [H, W]: objects by the low one, background by the high one."""
    keys, scores = read_seeds(path, num_fg)
    label = labels_of(keys)[scores[min(scores)].argmax(0)]
    label[label == 0] = IGNORED
    label[scores[max(scores)].argmax(0) == 0] = 0
    return label


def read_outputs(sample: Sample, spec: DatasetSpec, split: str, folder: Path,
                 threshold: float) -> dict[str, np.ndarray]:
    """All that there is for one image by column: labels uint8 [H, W], and for CAMs the strongest, float32 [H, W]."""
    labels = folder / 'labels' / spec.label_split(split)
    cams, seeds = labels / 'cam' / f'{sample.name}.npz', labels / 'seeds' / f'{sample.name}.npz'
    found = {}
    if cams.is_file():
        keys, cam = read_maps(cams, spec.num_fg)
        found = {'CAM': cam.max(0, initial=0), 'CAM label': cam_label(keys, cam, threshold)}
    if seeds.is_file():
        found['seeds'] = seeds_label(seeds, spec.num_fg)
    masks = {'random walk': labels / 'walk' / f'{sample.name}.png',
             'segmentation': folder / 'results' / split / f'{sample.name}.png'}
    found |= {column: read_mask(path, spec.num_classes) for column, path in masks.items() if path.is_file()}
    truth = read_truth(spec, sample)
    return found if truth is None else found | {'truth': truth}


def draw_row(sample: Sample, outputs: Mapping[str, np.ndarray], spec: DatasetSpec) -> dict[str, np.ndarray]:
    """Pictures uint8 [H, W, 3] of one image by column.

    Raises:
        ValueError: if an output is of another size than the image.
    """
    image = read_image(sample.image, **spec.reading)
    pictures = {'image': image}
    for column, values in outputs.items():
        if values.shape != image.shape[:2]:
            raise ValueError(f'{column} of {sample.name} is {values.shape[0]}x{values.shape[1]}, the image '
                             f'{image.shape[0]}x{image.shape[1]}; make it again from this image')
        pictures[column] = blend(image, values, voc_palette()) if values.dtype == np.uint8 else heat(image, values)
    return pictures


def arrange(rows: Sequence[Mapping[str, np.ndarray]], titles: Mapping[str, str], cell: int) -> np.ndarray:
    """Put rows of pictures below one another and titles above the columns; a missing picture leaves a gap."""
    nothing = np.full((1, 1, 3), 255, np.uint8)
    heights = [round(cell * min(1, row['image'].shape[0] / row['image'].shape[1])) for row in rows]
    columns = [titled(stacked([boxed(row.get(column, nothing), height, cell) for row, height in zip(rows, heights)]),
                      title) for column, title in titles.items()]
    return side_by_side(columns)


def main(argv: list[str] | None = None) -> None:
    """Draw some images of one split."""
    args, spec = resolve(make_parser(), argv, '', get_spec)
    split = args.split or spec.val_split
    if args.out.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise ValueError(f'--out {args.out} must end in .png or .jpg')
    refuse_foreign(args.out, MAKER)
    threshold = args.background_score or best_threshold(read_scores(args.folder / 'scores.json'), split)
    samples = keep_readable(spec, spread(spec.samples(split)[:args.limit], args.count))
    outputs = [read_outputs(sample, spec, split, args.folder, threshold) for sample in samples]
    shown = [column for column in COLUMNS if column == 'image' or any(column in found for found in outputs)
             and not (args.thin_out and column in THINNED_OUT)]
    if set(shown) <= {'image', 'truth'}:
        raise ValueError(f'{args.folder} holds nothing for {spec.name} {split}; name the run with --run and --exp, or '
                         'make CAMs with infer_cam.py')
    print(f'{len(samples)} images of {spec.name} {split} to {args.out}: {", ".join(shown)}')
    if args.dry_run:
        return
    labels = set().union(*(np.unique(values).tolist() for found in outputs for column, values in found.items()
                           if column in shown and values.dtype == np.uint8))
    names = {**dict(enumerate(spec.class_names)), IGNORED: 'ignored'}
    titles = {column: f'CAM at {threshold:.2f}' if column == 'CAM label' else column for column in shown}
    sheet = arrange([draw_row(*pair, spec) for pair in zip(samples, outputs)], titles, args.cell)
    colours = {names[label]: voc_palette()[label] for label in sorted(labels - {0})}
    with replacing(args.out) as temporary:
        Image.fromarray(stacked([sheet, legend(colours, sheet.shape[1])], gap=8)).save(
            temporary, format='PNG' if args.out.suffix.lower() == '.png' else 'JPEG', **image_mark(MAKER))


if __name__ == '__main__':
    run_script(main)
