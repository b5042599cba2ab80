"""Batches for training and single images for inference, read ahead by worker processes."""
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, Dataset

from lib.data.datasets import KeySampler
from tool.imageio import Corrupt
from tool.workers import settle_in


def training_batches(dataset: Dataset, batch_size: int, total_steps: int, seed: int, workers: int,
                     part: tuple[int, int] = (0, 1), on_corrupt: str = 'error') -> Callable[[int], DataLoader]:
    """Function from a first step to the batches from that step on, the same whatever the number of workers.

    Of each batch, `part` = (index, parts) gives the index-th of so many equal parts: one of several processes' own.
    With on_corrupt = 'skip' the next image takes the place of one that cannot be read, and 'skipped' tells its problem.
    """
    source = _Replacing(dataset) if on_corrupt == 'skip' else dataset
    epochs = -(-total_steps // steps_of(len(dataset), batch_size, 1, None, 'the data set'))

    def batches(start_step: int) -> DataLoader:
        sampler = KeySampler(len(dataset), batch_size, epochs, seed, start_step, part=part)
        return DataLoader(source, batch_sampler=sampler, num_workers=workers, worker_init_fn=settle_in,
                          pin_memory=torch.cuda.is_available(), persistent_workers=False)

    return batches


def single_images(dataset: Dataset, workers: int, prepare: Callable[[dict], dict] | None = None,
                  on_corrupt: str = 'error') -> DataLoader:
    """The samples of an inference set one by one, in order, as NumPy arrays; `prepare` is applied by the workers.

    With on_corrupt = 'skip' an image that cannot be read becomes {'skipped': its problem}.
    """
    if prepare or on_corrupt == 'skip':
        dataset = _Prepared(dataset, prepare, on_corrupt == 'skip')
    return DataLoader(dataset, batch_size=None, collate_fn=_as_it_is, num_workers=workers, worker_init_fn=settle_in)


def steps_of(num_images: int, batch_size: int, epochs: int, max_steps: int | None, split: str,
             min_steps: int = 0) -> int:
    """Steps of a training run: whole batches of each epoch, at least min_steps, at most max_steps.

    Raises:
        ValueError: if the set has fewer images than a batch.
    """
    if num_images < batch_size:
        raise ValueError(f'--batch-size {batch_size} is larger than the {num_images} images of {split}; '
                         f'use at most {num_images}')
    steps = max(num_images // batch_size * epochs, min_steps)
    return min(steps, max_steps or steps)


class _Prepared(Dataset):
    """A data set whose samples pass through a function; picklable if both are."""

    def __init__(self, dataset: Dataset, prepare: Callable[[dict], dict] | None, skip: bool):
        self.dataset, self.prepare, self.skip = dataset, prepare, skip

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        try:
            sample = self.dataset[index]
        except Corrupt as error:
            if not self.skip:
                raise
            return {'skipped': str(error).partition('; restore')[0]}
        return self.prepare(sample) if self.prepare else sample


class _Replacing(Dataset):
    """A training set in which the next sample takes the place of a corrupt one; 'skipped' says which that was."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        problem, (epoch, index) = '', key
        for place in (*range(index, len(self)), *range(index)):
            try:
                return {**self.dataset[epoch, place], 'skipped': problem}
            except Corrupt as error:
                problem = problem or str(error).partition('; restore')[0]
        raise Corrupt(f'all images of the split are corrupt: {problem} is the first; restore them')


def _as_it_is(sample):
    return sample
