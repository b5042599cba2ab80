"""Pairs of prediction and ground truth for evaluation."""
from pathlib import Path
from typing import NamedTuple

from lib.data.corrupt import check_made
from lib.files.dataspec import DatasetSpec


class LabelPair(NamedTuple):
    """Files to compare for one image."""

    name: str
    prediction: Path
    ground_truth: Path


def label_pairs(spec: DatasetSpec, split: str, labels_dir: Path, suffix: str = '.png',
                limit: int | None = None, remedy: str = 'check the folder',
                masked_only: bool = False) -> list[LabelPair]:
    """Files to compare, in list order: <labels_dir>/<name><suffix> and the ground truth of the list.

    With masked_only, images without ground truth are left out. Raises FileNotFoundError if a mask or a prediction is
    missing, naming the first and how many.
    """
    samples = spec.samples(split, limit)
    if masked_only and any(sample.mask for sample in samples):
        samples = [sample for sample in samples if sample.mask]
    else:
        spec.check(split, need_masks=True)
    files = [(sample, Path(labels_dir) / f'{sample.name}{suffix}') for sample in samples]
    check_made(spec, files, f'{split} lacks predictions', remedy)
    return [LabelPair(sample.name, path, sample.mask) for sample, path in files]
