"""Synthetic sets that do not resemble photos, with masks, to test choices made from image-level labels alone.

    python -m benchmarks.other_sets defects --out data/defects --seed 0
    python -m lib.own data/defects/images data/defects/labels.csv --masks data/defects/masks \
        --classes patch pits scratch --max-side 200 --out data/defects.json

defects: grey rolled metal with scratches, pits and rough patches; most of each image is background.
cells: dark, blurred, grey images with small bright discs, rings and rods, two or three percent of the area.
"""
import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lib.files.imageio import write_label_png
from lib.process.cli import COUNT, LARGEST_SEED, Parser, integer
from lib.process.ending import run_script

SIDE = 200
DEFECTS = ('patch', 'pits', 'scratch')
CELLS = ('disc', 'ring', 'rod')
Drawn = tuple[np.ndarray, np.ndarray]


def noise(rng: np.random.Generator, cells: tuple[int, int], strength: float) -> np.ndarray:
    """Smooth noise float32 [SIDE, SIDE] with about this many bumps by row and column."""
    return cv2.resize(rng.normal(0, strength, cells).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def defects(rng: np.random.Generator) -> Drawn:
    """An image uint8 [SIDE, SIDE] and its mask, 0 to 3."""
    image = rng.uniform(90, 160) + noise(rng, (3, 3), 14) + noise(rng, (160, 14), 7) + noise(rng, (40, 4), 5)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for label in rng.permutation(3)[:rng.choice((0, 1, 2), p=(0.1, 0.7, 0.2))] + 1:
        region = np.zeros((SIDE, SIDE), np.uint8)
        x, y = rng.integers(40, SIDE - 40, 2)
        if label == 1:
            blob = noise(rng, (9, 9), 0.5) - np.hypot(*(np.mgrid[:SIDE, :SIDE] - [[[y]], [[x]]])) / rng.uniform(35, 65)
            region[blob > -0.9] = 1
            image = np.where(region == 1, image - rng.uniform(22, 45) + noise(rng, (90, 90), 14), image)
        elif label == 2:
            centres = rng.normal((x, y), rng.uniform(15, 40), (rng.integers(25, 60), 2)).clip(3, SIDE - 4).astype(int)
            for centre in centres:
                cv2.circle(image, centre.tolist(), int(rng.integers(2, 4)), float(rng.uniform(22, 60)), -1)
                cv2.circle(region, centre.tolist(), 7, 1, -1)
        else:
            for _ in range(rng.integers(1, 4)):
                angle, length = rng.uniform(0, np.pi), rng.uniform(60, 150)
                shift = rng.integers(-15, 16, 2)
                ends = [(int(x + shift[0] + s * length * np.cos(angle)), int(y + shift[1] + s * length * np.sin(angle)))
                        for s in (-0.5, 0.5)]
                cv2.line(image, *ends, float(rng.uniform(200, 245)), int(rng.integers(1, 3)), cv2.LINE_AA)
                cv2.line(region, *ends, 1, 9)
        mask[region == 1] = label
    return to_image(image + rng.normal(0, 4, image.shape)), mask


def cells(rng: np.random.Generator) -> Drawn:
    """An image uint8 [SIDE, SIDE] and its mask, 0 to 3."""
    image = 45 + np.abs(noise(rng, (4, 4), 25)) + noise(rng, (12, 12), 10)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for label in rng.permutation(3)[:rng.choice((0, 1, 2), p=(0.15, 0.55, 0.3))] + 1:
        for _ in range(rng.integers(1, 4)):
            centre, size = rng.integers(15, SIDE - 15, 2).tolist(), int(rng.integers(9, 17))
            bright = rng.uniform(120, 190)
            shape, angle = np.zeros((SIDE, SIDE), np.uint8), rng.uniform(0, 180)
            if label == 3:
                cv2.ellipse(shape, centre, (size + 5, size // 3), angle, 0, 360, 1, -1)
            else:
                cv2.circle(shape, centre, size, 1, -1)
            region = shape.copy()
            if label == 2:
                cv2.circle(shape, centre, size - 4, 0, -1)
            image = image + shape * (bright - image)
            mask[region == 1] = label
    return to_image(cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.2) + rng.normal(0, 6, image.shape)), mask


def to_image(values: np.ndarray) -> np.ndarray:
    """Grey values as uint8."""
    return values.clip(0, 255).astype(np.uint8)


SETS: dict[str, tuple[Callable[[np.random.Generator], Drawn], tuple[str, ...]]] = {
    'defects': (defects, DEFECTS), 'cells': (cells, CELLS)}


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(__doc__)
    parser.add_argument('kind', choices=tuple(SETS), help='which set')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='new folder')
    parser.add_argument('--seed', type=integer(0, LARGEST_SEED), default=0, help='another seed gives another set')
    parser.add_argument('--train', type=integer(1, COUNT), default=240, help='number of training images')
    parser.add_argument('--val', type=integer(1, COUNT), default=84, help='number of validation images')
    return parser


def main(argv: list[str] | None = None) -> None:
    """Draw a set: images/, masks/ and labels.csv with a column split."""
    args = make_parser().parse_args(argv)
    if args.out.exists():
        raise ValueError(f'{args.out} exists; name a new folder')
    draw, classes = SETS[args.kind]
    for folder in ('images', 'masks'):
        (args.out / folder).mkdir(parents=True)
    lines = ['image,labels,split']
    for index in range(args.train + args.val):
        image, mask = draw(np.random.default_rng((args.seed, index)))
        Image.fromarray(image).save(args.out / f'images/{index:04d}.png')
        write_label_png(args.out / f'masks/{index:04d}.png', mask)
        names = ';'.join(classes[value - 1] for value in np.unique(mask) if value)
        lines.append(f'{index:04d}.png,{names},{"train" if index < args.train else "val"}')
    (args.out / 'labels.csv').write_text('\n'.join(lines) + '\n')
    print(f'{args.out}: {args.train} training and {args.val} validation images of {", ".join(classes)}')


if __name__ == '__main__':
    run_script(main)
