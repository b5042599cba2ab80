"""Images that exist but cannot be decoded: an error, or left out by every stage (--on-corrupt skip)."""
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from lib.files.dataspec import DatasetSpec, Sample, check_files
from lib.files.imageio import Corrupt, check_intact, read_image, read_mask

T = TypeVar('T')


def unless_corrupt(on_corrupt: str, read: Callable[..., T], *args, **kwargs) -> T | None:
    """The result of read(*args, **kwargs); None for a corrupt image or mask, unless on_corrupt is 'error'."""
    try:
        return read(*args, **kwargs)
    except Corrupt:
        if on_corrupt != 'skip':
            raise
        return None


def first_readable(reads: Iterable[Callable[[], T]], count: int | None, on_corrupt: str) -> list[T]:
    """Results of the first `count` functions that meet no corrupt image; None for all.

    Raises Corrupt if all of them meet one, or one does and on_corrupt is 'error'.
    """
    results = (unless_corrupt(on_corrupt, read) for read in reads)
    results = list(islice((result for result in results if result is not None), count))
    if not results:
        raise Corrupt('all images of the split are corrupt; restore them')
    return results


def keep_readable(spec: DatasetSpec, samples: Iterable[Sample]) -> list[tuple[Sample, np.ndarray]]:
    """The samples that are not corrupt, with their images; raises Corrupt as first_readable does."""
    return first_readable((lambda sample=sample: (sample, read_image(sample.image, **spec.reading))
                           for sample in samples), None, spec.on_corrupt)


def read_ground_truth(spec: DatasetSpec, sample: Sample) -> np.ndarray | None:
    """The ground-truth mask of a sample; None if it has none, or a corrupt one that is left out."""
    if not (sample.mask and sample.mask.is_file()):
        return None
    return unless_corrupt(spec.on_corrupt, read_mask, sample.mask, spec.num_classes, spec.max_side)


def check_images(spec: DatasetSpec, split: str, samples: Sequence[Sample]) -> set[str]:
    """Check that all images exist and have an intact beginning and end; names of those that have not and are left out.

    Raises FileNotFoundError or Corrupt if one is missing or corrupt; if all are corrupt, even where such are left out.
    """
    check_files([sample.image for sample in samples], f'{split} lists images that do not exist',
                'check --data-root, or correct the list')
    corrupt = {sample.name for sample in samples if not unless_corrupt(spec.on_corrupt, check_intact, sample.image)}
    if len(corrupt) == len(samples):
        raise Corrupt(f'all {len(samples)} images of {split} are corrupt, {samples[0].image} the first; restore them')
    return corrupt


def check_made(spec: DatasetSpec, files: Sequence[tuple[Sample, Path]], problem: str, remedy: str) -> set[str]:
    """Check that the files which an earlier stage made from some images exist.

    Returns the names of the images whose files are missing because the image is corrupt, where such are left out;
    raises FileNotFoundError or Corrupt if any other file is missing, or if all images are corrupt.
    """
    left_out, missing = set(), [(sample, path) for sample, path in files if not path.is_file()]
    for number, (sample, _) in enumerate(missing):
        read = partial(unless_corrupt, spec.on_corrupt, read_image, sample.image, **spec.reading)
        if sample.name not in left_out and (not sample.image.is_file() or read() is not None):
            check_files([path for _, path in missing[number:]], problem, remedy)
        left_out.add(sample.name)
    if files and len(left_out) == len({sample.name for sample, _ in files}):
        raise Corrupt(f'{problem}: all images are corrupt, {files[0][0].image} the first; restore them')
    return left_out
