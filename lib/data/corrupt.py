"""Images that are there and cannot be decoded: an error, or left out by every stage (--on-corrupt skip)."""
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from lib.files.dataspec import DatasetSpec, Sample, check_files
from lib.files.imageio import Corrupt, check_whole, read_image, read_mask

T = TypeVar('T')


def unless_corrupt(on_corrupt: str, read: Callable[..., T], *words, **settings) -> T | None:
    """What a function reads; None for a corrupt image or mask where on_corrupt is 'skip'.

    Raises:
        Corrupt: where it is 'error'.
    """
    try:
        return read(*words, **settings)
    except Corrupt:
        if on_corrupt != 'skip':
            raise
        return None


def first_readable(reads: Iterable[Callable[[], T]], count: int | None, on_corrupt: str) -> list[T]:
    """What the first functions read that meet no corrupt image.

    Raises:
        Corrupt: if one does and it is not to be left out, or all do.
    """
    found = (unless_corrupt(on_corrupt, read) for read in reads)
    found = list(islice((value for value in found if value is not None), count))
    if not found:
        raise Corrupt('all images of the split are corrupt; restore them')
    return found


def read_truth(spec: DatasetSpec, sample: Sample) -> np.ndarray | None:
    """The exact mask of a sample; None where it has none, or a corrupt one that is to be left out."""
    if not (sample.mask and sample.mask.is_file()):
        return None
    return unless_corrupt(spec.on_corrupt, read_mask, sample.mask, spec.num_classes, spec.max_side)


def can_be_read(spec: DatasetSpec, sample: Sample) -> bool:
    """Whether an image is sound, to its end; a corrupt one raises Corrupt unless such are left out."""
    return unless_corrupt(spec.on_corrupt, read_image, sample.image, **spec.reading) is not None


def keep_readable(spec: DatasetSpec, samples: Iterable[Sample]) -> list[Sample]:
    """The samples whose images are sound; raises Corrupt as first_readable does."""
    return first_readable((partial(_itself, spec, sample) for sample in samples), None, spec.on_corrupt)


def check_images(spec: DatasetSpec, split: str, samples: Sequence[Sample]) -> set[str]:
    """Make sure that all images are there and, as far as a look at both ends tells, whole.

    Returns:
        Names of corrupt images, where they are left out.

    Raises:
        FileNotFoundError: if one is not there.
        Corrupt: if one is corrupt, or all are where corrupt ones are left out.
    """
    check_files([sample.image for sample in samples], f'{split} lists images that are not there',
                'check --data-root, or correct the list')
    corrupt = {sample.name for sample in samples
               if not unless_corrupt(spec.on_corrupt, _is_whole, sample.image)}
    if len(corrupt) == len(samples):
        raise Corrupt(f'all {len(samples)} images of {split} are corrupt, {samples[0].image} the first; restore them')
    return corrupt


def check_made(spec: DatasetSpec, files: Sequence[tuple[Sample, Path]], problem: str, remedy: str) -> set[str]:
    """Make sure that the files which an earlier stage made from some images are there.

    Returns:
        Names of the images whose files are missing because the image is corrupt, where such are left out.

    Raises:
        FileNotFoundError: if the file of a sound image is missing.
        Corrupt: if that of a corrupt image is, and it is not to be left out; or if all images are corrupt.
    """
    left_out, missing = set(), [(sample, path) for sample, path in files if not path.is_file()]
    for number, (sample, _) in enumerate(missing):
        if sample.name not in left_out:
            if not sample.image.is_file() or can_be_read(spec, sample):
                check_files([path for _, path in missing[number:]], problem, remedy)
            left_out.add(sample.name)
    if files and len(left_out) == len({sample.name for sample, _ in files}):
        raise Corrupt(f'{problem}: all images are corrupt, {files[0][0].image} the first; restore them')
    return left_out


def _itself(spec: DatasetSpec, sample: Sample) -> Sample:
    read_image(sample.image, **spec.reading)
    return sample


def _is_whole(path: Path) -> bool:
    check_whole(path)
    return True
