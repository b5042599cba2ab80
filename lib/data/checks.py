"""Checks of a stage's inputs on disk before it starts: images, masks, and outputs of earlier stages."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.files.dataspec import DatasetSpec, Sample, check_files, shortened
from lib.files.imageio import Corrupt, check_intact, read_image, read_mask
from lib.process.ranks import print_rank0


def read_ground_truth(spec: DatasetSpec, mask: Path | None) -> np.ndarray | None:
    """A ground-truth mask; None if there is none, or a corrupt one that is skipped."""
    try:
        return read_mask(mask, spec.num_classes, spec.max_side) if mask and mask.is_file() else None
    except Corrupt:
        if spec.on_corrupt != 'skip':
            raise
        return None


def check_images(source: str, images: Sequence[Path], left_out: Sequence[str],
                 remedy: str = 'check --data-root, or correct the list') -> None:
    """Check that the images of a split exist and have an intact beginning and end; prints the names of skipped ones."""
    if left_out:
        print_rank0(f'skipped {len(left_out)} images of {source} as corrupt: {shortened(left_out, 10)}')
    check_files(images, f'{source} lists images that do not exist', remedy)
    for image in images:
        check_intact(image)


def check_made(spec: DatasetSpec, files: Sequence[tuple[Sample, Path]], problem: str, remedy: str) -> None:
    """Check that the outputs of an earlier stage for some images exist; FileNotFoundError, or Corrupt if the
    image of a missing one is corrupt."""
    if missing := [(sample, path) for sample, path in files if not path.is_file()]:
        if missing[0][0].image.is_file():
            read_image(missing[0][0].image, **spec.reading)
        check_files([path for _, path in missing], problem, remedy)


def label_pairs(spec: DatasetSpec, split: str, labels_dir: Path, suffix: str = '.png', limit: int | None = None,
                remedy: str = 'check the folder', masked_only: bool = False) -> list[tuple[Sample, Path]]:
    """Samples with their predictions, <labels_dir>/<name><suffix>, in list order; all must exist.

    With masked_only, images without ground truth are skipped.
    """
    samples = spec.samples(split, limit)
    if masked_only and any(sample.mask for sample in samples):
        samples = [sample for sample in samples if sample.mask]
    else:
        spec.check(split, need_masks=True)
    files = [(sample, Path(labels_dir) / f'{sample.name}{suffix}') for sample in samples]
    check_made(spec, files, f'{split} lacks predictions', remedy)
    return files
