"""Looking through a data set that is set up: pictures decode, masks fit them and hold only classes."""
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import read_image, read_mask, read_size
from lib.process.progress import progress
from lib.process.workers import map_in_workers


def check_samples(spec: DatasetSpec, splits: Iterable[str], workers: int, decode: bool = True) -> tuple[int, int]:
    """Read every picture and every mask of some splits, each once.

    Args:
        spec: the data set.
        splits: names of lists.
        workers: processes that read; 0 reads in this one.
        decode: decode pictures to their end; else their headers alone.

    Returns:
        Numbers of pictures and of masks.

    Raises:
        FileNotFoundError, ValueError: naming the first faulty file and how many there are, with the remedy.
    """
    samples = list({sample.name: sample for split in splits for sample in spec.samples(split)}.values())
    work = partial(fault, num_classes=spec.num_classes, decode=decode)
    found = map_in_workers(work, samples, workers, chunk=32)
    faults = [text for text in progress(found, 'verify', 'file', len(samples)) if text]
    if faults:
        raise ValueError(f'{faults[0]}{f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""}; '
                         'delete what is faulty, then run the same command again')
    return len(samples), sum(sample.mask is not None for sample in samples)


def fault(sample: Sample, num_classes: int, decode: bool) -> str | None:
    """What is wrong with the files of one sample, None if nothing is."""
    try:
        size = read_image(sample.image).shape[:2] if decode else read_size(sample.image)
        if sample.mask is None:
            return None
        mask = read_mask(sample.mask, num_classes)
    except (FileNotFoundError, ValueError) as error:
        return str(error).partition(';')[0]
    if mask.shape != size:
        return f'{sample.mask} is of {mask.shape[0]}x{mask.shape[1]} pixels, its picture of {size[0]}x{size[1]}'
    return None


def count_files(folder: Path) -> int:
    """Number of plain files in a folder, hidden ones apart; 0 where there is no such folder."""
    return sum(path.is_file() and not path.name.startswith('.') for path in folder.iterdir()) if folder.is_dir() else 0
