"""Compare the dense CRF with pydensecrf, on photos and on random scores for images of odd sizes.

    python -m benchmarks.crf_agreement data/VOCdevkit/VOC2012/JPEGImages --photos 20

Photos are resized to a width of 500 pixels. Each gets smooth random CAMs of one to three classes with background at
both strengths, as for the seeds, and smooth probabilities of the classes of VOC, as for the final CRF. With --exact,
`exact` is the largest difference between pydensecrf and this CRF in float64, the effect of rounding alone. Exits with 1
if the two disagree.
"""
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import torch

from lib.data.registry import get_spec
from lib.process.cli import Parser, integer
from lib.process.ending import run_script
from tool import densecrf
from tool.camutils import with_background
from tool.crfutils import crf_scores
from tool.densecrf import FINAL_CRF, SEED_CRF, CrfSettings

TOLERANCE, SHARE = 1e-4, 0.9999
WIDTH = 500
VOC, COCO = (get_spec(name).num_classes for name in ('voc12', 'coco'))
# Height, width, classes.
RANDOM = [(1, 1, 2), (1, 1, COCO), (1, 200, 3), (200, 1, VOC), (3, 3, COCO), (1, 3, 2), (120, 160, 2), (120, 160, 3),
          (120, 160, VOC), (120, 160, COCO), (2000, 500, 2), (500, 2000, VOC)]


def in_float64() -> types.ModuleType:
    """tool/densecrf.py with float64 in place of float32."""
    text = Path(densecrf.__file__).read_text()
    for old, new in (('torch.float32', 'torch.float64'), ('.float()', '.double()'),
                     ('.T / settings', '.T.double() / settings')):
        assert old in text
        text = text.replace(old, new)
    module = types.ModuleType('densecrf64')
    sys.modules[module.__name__] = module
    exec(compile(text, module.__name__, 'exec'), module.__dict__)
    return module


def smooth_maps(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Maps float32 [count, H, W] in [0, 1] of a dozen blobs each."""
    coarse = rng.random((count, 12, 12)).astype(np.float32)
    return np.stack([cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in coarse]).clip(0, 1)


class Report:
    """Differences of all comparisons, printed one by one."""

    def __init__(self, exact: bool):
        self.exact = in_float64() if exact else None
        self.pixels = self.other = self.beyond = 0
        self.largest, self.lowest = 0.0, 1.0

    def add(self, name: str, image: np.ndarray, probs: np.ndarray, settings: CrfSettings) -> None:
        """Compare both on one image and one score map [L, H, W]."""
        found, expected = (crf_scores(image, probs, settings, backend).numpy() for backend in ('torch', 'pydensecrf'))
        difference, other = np.abs(found - expected).max(0), found.argmax(0) != expected.argmax(0)
        line = f'{name}: difference {difference.max():.1e}, arg-max differs on {other.sum()} of {other.size} pixels'
        if other.any():
            top = np.sort(expected[:, other], axis=0)[-2:]
            line += f' (whose two highest are {(top[1] - top[0]).max():.1e} apart)'
        if self.exact and difference.max() > TOLERANCE / 4:
            exact = self.exact.dense_crf(torch.from_numpy(image), torch.from_numpy(probs).double(), settings).numpy()
            line += f', exact {np.abs(exact - expected).max():.1e}'
        print(line, flush=True)
        self.pixels, self.other = self.pixels + other.size, self.other + int(other.sum())
        self.beyond += int((difference > TOLERANCE).sum())
        self.largest, self.lowest = max(self.largest, float(difference.max())), min(self.lowest, 1 - other.mean())


def main(argv: list[str] | None = None) -> int:
    """Compare; 1 if they disagree."""
    parser = Parser(__doc__, prog='python -m benchmarks.crf_agreement')
    parser.add_argument('folder', type=Path, help='photos (.jpg)')
    parser.add_argument('--photos', type=integer(1, 100_000), default=10,
                        help='number of photos, evenly spaced over the folder')
    parser.add_argument('--exact', action='store_true', help='compare larger differences with float64 too (slow)')
    args = parser.parse_args(argv)
    paths = sorted(args.folder.glob('*.jpg'))
    if len(paths) < args.photos:
        raise ValueError(f'{args.folder} has {len(paths)} .jpg files, {args.photos} are needed')
    report = Report(args.exact)
    for number, path in enumerate(paths[::len(paths) // args.photos][:args.photos]):
        rng, image = np.random.default_rng(number), cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        size = WIDTH, round(image.shape[0] * WIDTH / image.shape[1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        cam = smooth_maps(rng, 1 + number % 3, *image.shape[:2])
        for alpha in (1, 24):
            report.add(f'{path.stem}, seeds, alpha {alpha}', image, with_background(cam, alpha), SEED_CRF)
        probs = smooth_maps(rng, VOC, *image.shape[:2]) ** 4 + 1e-3
        report.add(f'{path.stem}, final', image, probs / probs.sum(0), FINAL_CRF)
    for height, width, classes in RANDOM:
        rng = np.random.default_rng((height, width, classes))
        coarse = rng.integers(0, 256, (-(-height // 9), -(-width // 9), 3)).astype(np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        probs = rng.random((classes, height, width)).astype(np.float32)
        for name, settings in (('seeds', SEED_CRF), ('final', FINAL_CRF)):
            report.add(f'random {height}x{width}, {classes} classes, {name}', image, probs / probs.sum(0), settings)
    print(f'all: arg-max equal on {100 * (1 - report.other / report.pixels):.5f} % of {report.pixels} pixels, at least '
          f'{100 * report.lowest:.4f} % of an image; largest difference {report.largest:.1e}; above {TOLERANCE:g} on '
          f'{report.beyond} pixels')
    return int(report.lowest < SHARE or report.largest > TOLERANCE)


if __name__ == '__main__':
    run_script(main)
