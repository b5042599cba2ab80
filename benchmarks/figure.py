"""Draw the figure of the README from a finished demo: rows of images with the output of each stage.

    ./run_demo.sh
    python -m benchmarks.figure --images 8 12 38 57 --out docs/demo.png
"""
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lib.data.labelio import read_maps
from lib.data.registry import get_spec
from lib.files.imageio import IGNORED, read_image, read_mask
from lib.process.cli import Parser, integer
from tool.camutils import cam_label

COLUMNS = ('image', 'CAM', 'CAM label', 'random walk', 'segmentation', 'ground truth')
COLOURS = {1: (230, 60, 50), 2: (255, 150, 22), 3: (250, 220, 40), 4: (60, 190, 82), 5: (60, 130, 240),
           6: (190, 82, 220), IGNORED: (255, 255, 255)}
CELL, GAP, TEXT = 200, 6, 18


def faded(image):
    """The image in grey, as a quiet background of colours."""
    return np.repeat(image.mean(2, keepdims=True) * 0.55 + 90, 3, axis=2)


def with_labels(image, label):
    """Labels uint8 [H, W] in bright colours over the faded image."""
    palette = np.zeros((256, 3))
    palette[list(COLOURS)] = list(COLOURS.values())
    return np.where((label == 0)[..., None], faded(image), 0.15 * image + 0.85 * palette[label])


def with_heat(image, cam):
    """A CAM in [0, 1] as colours over the faded image."""
    colours = cv2.applyColorMap((cam * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return 0.35 * faded(image) + 0.65 * colours


def row_of(name, spec, run, threshold):
    """The cells of one validation image, and the labels in them."""
    image = read_image(spec.root / 'images' / f'{name}.jpg')
    classes, cams = read_maps(run / 'labels/val/cam' / f'{name}.npz', spec.num_fg)
    labels = [cam_label(classes, cams, threshold),
              *(read_mask(path / f'{name}.png', spec.num_classes)
                for path in (run / 'labels/val/walk', run / 'results/val', spec.root / 'masks'))]
    height = round(CELL * image.shape[0] / image.shape[1])
    cells = [image, with_heat(image, cams.max(0)), *(with_labels(image, label) for label in labels)]
    return [cv2.resize(cell.clip(0, 255).astype(np.uint8), (CELL, height), interpolation=cv2.INTER_CUBIC)
            for cell in cells], set(np.unique(labels[-1]).tolist()) - {0}


def main(argv=None):
    """Draw it."""
    parser = Parser(__doc__)
    parser.add_argument('--dataset', default='data/toy/dataset.json')
    parser.add_argument('--run', type=Path, default=Path('exp/toy-0'))
    parser.add_argument('--images', type=integer(0, 10 ** 6), nargs='+', required=True,
                        help='indices of validation images, landscape')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args(argv)
    spec = get_spec(args.dataset, None, None)
    threshold = next(result['threshold'] for record in json.loads((args.run / 'scores.json').read_text())
                     if (record['what'], record['split']) == ('cam', 'val')
                     for result in record['results'] if result.get('best'))
    samples = spec.samples('val')
    rows, shown = zip(*(row_of(samples[number].name, spec, args.run, threshold) for number in args.images))

    # Titles, rows, legend.
    font = ImageFont.load_default(TEXT)
    top = TEXT + 12
    heights = [len(row[0]) for row in rows]
    size = len(COLUMNS) * (CELL + GAP) - GAP, top + sum(heights) + GAP * len(rows) + TEXT + 14
    sheet = Image.new('RGB', size, 'white')
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(COLUMNS):
        pen.text((column * (CELL + GAP) + CELL / 2, top / 2), title, 'black', font, anchor='mm')
    for row, height in zip(rows, heights):
        for column, cell in enumerate(row):
            sheet.paste(Image.fromarray(cell), (column * (CELL + GAP), top))
        top += height + GAP
    left = 0
    for label in sorted(set().union(*shown)):
        name = 'ignored' if label == IGNORED else spec.class_names[label]
        pen.rectangle((left, top + 8, left + TEXT, top + 8 + TEXT), COLOURS[label], 'black')
        pen.text((left + TEXT + 8, top + 8 + TEXT / 2), name, 'black', font, anchor='lm')
        left += TEXT + 8 + round(pen.textlength(name, font)) + 28
    # Half the bytes of full colour; a palette that is given is dithered.
    sheet.quantize(256, palette=sheet.quantize(256)).save(args.out, optimize=True)


if __name__ == '__main__':
    main()
