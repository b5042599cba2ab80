"""Checks of a data set that is set up: lists are official, images decode, masks fit them and hold only classes."""
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lib.files.dataspec import DatasetSpec, Sample, list_sha256
from lib.files.imageio import read_image, read_mask, read_size
from lib.process.cli import progress
from lib.process.workers import map_in_workers


def print_lists(splits: Mapping[str, Sequence[str]], official: Mapping[str, tuple[int, str]]) -> list[str]:
    """Print the length of each list of image names, and whether it is the official one; returns those that are not.

    `official`: number of images and SHA-256 of the names by split; '' if it is not known.
    """
    others = [split for split, (size, sha256) in official.items()
              if len(splits[split]) != size or sha256 not in ('', list_sha256(splits[split]))]
    for split, names in splits.items():
        note = ', NOT the official list (a part of it, or another order)' if split in others else ', the official list'
        print(f'{split}: {len(names)} images{note if split in official else ""}', flush=True)
    return others


def check_samples(spec: DatasetSpec, splits: Iterable[str], workers: int, decode: bool = True) -> tuple[int, int]:
    """Read every image and every mask of some lists once, in worker processes; 0 reads in this one.

    With `decode` images are decoded completely, else only their headers are read.

    Returns:
        Numbers of images and of masks.

    Raises:
        ValueError: naming the first faulty file and the number of others, with the remedy.
    """
    samples = list({sample.name: sample for split in splits for sample in spec.samples(split)}.values())
    results = map_in_workers(partial(find_fault, num_classes=spec.num_classes, decode=decode), samples, workers, 32)
    faults = [fault for fault in progress(results, 'verify', 'file', len(samples)) if fault]
    if faults:
        more = f' (and {len(faults) - 1} more files)' if len(faults) > 1 else ''
        raise ValueError(f'{faults[0]}{more}; delete what is faulty, then run the same command again')
    return len(samples), sum(sample.mask is not None for sample in samples)


def find_fault(sample: Sample, num_classes: int, decode: bool) -> str:
    """What is wrong with the files of one sample; '' if nothing is."""
    try:
        size = read_image(sample.image).shape[:2] if decode else read_size(sample.image)
        shape = read_mask(sample.mask, num_classes).shape if sample.mask else size
    except (FileNotFoundError, ValueError) as error:
        return str(error).partition(';')[0]
    return '' if shape == size else \
        f'{sample.mask} has {shape[0]}x{shape[1]} pixels, its image {size[0]}x{size[1]}'


def count_files(folder: Path) -> int:
    """Number of files in a folder, without hidden ones; 0 if it does not exist."""
    return sum(path.is_file() and not path.name.startswith('.') for path in folder.iterdir()) if folder.is_dir() else 0
