"""Batches for training and single images for inference, read ahead by worker processes."""
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, Dataset

from lib.data.datasets import KeySampler
from tool.workers import settle_in


def training_batches(dataset: Dataset, batch_size: int, total_steps: int, seed: int, workers: int,
                     part: tuple[int, int] = (0, 1)) -> Callable[[int], DataLoader]:
    """Function from a first step to the batches from that step on, the same whatever the number of workers.

    Of each batch, `part` = (index, parts) gives the index-th of so many equal parts: one of several processes' own.
    """
    epochs = -(-total_steps // steps_of(len(dataset), batch_size, 1, None, 'the data set'))

    def batches(start_step: int) -> DataLoader:
        sampler = KeySampler(len(dataset), batch_size, epochs, seed, start_step, part=part)
        return DataLoader(dataset, batch_sampler=sampler, num_workers=workers, worker_init_fn=settle_in,
                          pin_memory=torch.cuda.is_available(), persistent_workers=False)

    return batches


def single_images(dataset: Dataset, workers: int, prepare: Callable[[dict], dict] | None = None) -> DataLoader:
    """The samples of an inference set one by one, in order, as NumPy arrays; `prepare` is applied by the workers."""
    if prepare:
        dataset = _Prepared(dataset, prepare)
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

    def __init__(self, dataset: Dataset, prepare: Callable[[dict], dict]):
        self.dataset, self.prepare = dataset, prepare

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        return self.prepare(self.dataset[index])


def _as_it_is(sample):
    return sample
