"""Checks of a run without masks: how well the classifier predicts the image-level labels, how much of each image is
labelled, and what to try if that looks wrong.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.data.labelio import read_image_probs
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import read_mask
from lib.run.table import aligned

MOST = 2000                     # maximum number of images to read
CHANCE = 1.25                   # an average precision below this multiple of the class's frequency says little
FLOODED, EMPTY = 0.9, 0.01      # fractions of an image, on average


class ClassCheck(NamedTuple):
    """One class on one split; fractions in [0, 1], None if unknown."""

    name: str
    frequency: float            # fraction of the images that show the class
    precision: float | None     # average precision of the classifier's probabilities
    f1: float | None            # of probabilities above 0.5
    covered: float | None       # mean fraction labelled of the images that show the class


def check_classes(spec: DatasetSpec, split: str, folder: Path) -> list[ClassCheck]:
    """Check the classes on a split, from a run's CAM files and the label PNGs of its last stage; `folder` is exp/<run>.

    The image-level labels are taken as correct.
    """
    names = [sample.name for sample in spec.samples(split)][:MOST]
    labels = spec.image_labels(names).astype(bool)
    cams = [folder / 'labels' / spec.label_split(split) / 'cam' / f'{name}.npz' for name in names]
    probs = [read_image_probs(path, spec.num_fg) if path.is_file() else None for path in cams]
    known = [row for row, values in enumerate(probs) if values is not None]
    scores, truth = np.array([probs[row] for row in known]), labels[known]
    covered = covered_fractions(spec, split, folder, names)
    checks = []
    for index, name in enumerate(spec.classes):
        shares = covered[labels[:, index], index]
        shares = shares[np.isfinite(shares)]
        told = known and truth[:, index].any()
        checks.append(ClassCheck(name, float(labels[:, index].mean()),
                                 average_precision(scores[:, index], truth[:, index]) if told else None,
                                 f1_score(scores[:, index] > 0.5, truth[:, index]) if told else None,
                                 float(shares.mean()) if len(shares) else None))
    return checks


def rows_of(checks: Sequence[ClassCheck]) -> list[list[str | float | None]]:
    """A table in percent, with titles in its first row."""
    return [['class', 'images', 'average precision', 'F1', 'area labelled'],
            *([check.name, *(None if value is None else 100 * value for value in check[1:])] for check in checks)]


def text_of(checks: Sequence[ClassCheck], split: str) -> str:
    """The table and the warnings, for the terminal."""
    head = (f'Without masks, on {split}, in percent: images that show the class; the classifier against the '
            'image-level labels; labelled area of the images that show the class')
    lines = [head, '', *aligned(rows_of(checks)), '', *(f'warning: {line}' for line in warnings_of(checks))]
    return '\n'.join(lines).rstrip()


def covered_fractions(spec: DatasetSpec, split: str, folder: Path, names: Sequence[str]) -> np.ndarray:
    """Fraction of each image that is labelled with each class, [images, K], by the last stage that has label PNGs."""
    for labels in (folder / 'results' / split, folder / 'labels' / spec.label_split(split) / 'walk'):
        if labels.is_dir():
            break
    fractions = np.full((len(names), spec.num_fg), np.nan)
    for row, name in enumerate(names):
        path = labels / f'{name}.png'
        if path.is_file():
            label = read_mask(path, spec.num_classes)
            fractions[row] = np.bincount(label.ravel(), minlength=256)[1:spec.num_classes] / label.size
    return fractions


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean of the precision at each positive, in descending order of scores; tied scores count as the last of them."""
    order = np.argsort(-scores, kind='stable')
    scores, hits = scores[order], np.cumsum(truth[order])
    last = np.searchsorted(-scores, -scores[truth[order]], side='right') - 1
    return float((hits[last] / (last + 1)).mean())


def f1_score(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Harmonic mean of precision and recall; 0 without a true positive."""
    return float(2 * (predicted & truth).sum() / max(1, predicted.sum() + truth.sum()))


def warnings_of(checks: Sequence[ClassCheck]) -> list[str]:
    """What looks wrong, and what to try."""
    weak = [check.name for check in checks if check.precision is not None and check.frequency < 1
            and check.precision < min(CHANCE * check.frequency, (1 + check.frequency) / 2)]
    covered = {check.name: check.covered for check in checks if check.covered is not None}
    flooded = [name for name, value in covered.items() if value > FLOODED]
    empty = [name for name, value in covered.items() if value < EMPTY]
    problems = (
        (weak, 'the classifier hardly predicts which images show it (average precision near its frequency); check the '
         'image-level labels, add images with and without it, or train longer'),
        (flooded, 'labels cover whole images; give infer_aff.py a lower --alpha (a higher background score), and add '
         'images of the same surroundings without it'),
        (empty, 'hardly any pixel is labelled in images that show it; give infer_aff.py a higher --alpha (a lower '
         'background score), or use larger images (--max-side)'))
    return [f'{", ".join(names)}: {problem}' for names, problem in problems if names]
