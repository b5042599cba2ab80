"""Batches for training and single images for inference, read ahead by worker processes."""
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from lib.data.datasets import batch_keys
from lib.process.workers import map_in_workers


def training_batches(dataset: Dataset, batch_size: int, total_steps: int, seed: int, workers: int,
                     part: tuple[int, int] = (0, 1)) -> Callable[[int], Iterator[dict]]:
    """Function from a first step to the batches from that step on, the same for any number of workers.

    `part` = (index, parts) picks the index-th of so many equal parts of every batch: the part of one process.
    """
    epochs = -(-total_steps // steps_of(len(dataset), batch_size, 1, None, 'the data set'))

    def batches(start_step: int) -> Iterator[dict]:
        keys = batch_keys(len(dataset), batch_size, epochs, seed, start_step, part=part)
        return map(_as_tensors, map_in_workers(partial(_batch, dataset), keys, workers, ahead=2))

    return batches


def single_images(dataset: Dataset, workers: int, prepare: Callable[[dict], dict] | None = None
                  ) -> Iterator[dict]:
    """The samples of an inference set one by one, in order, as NumPy arrays; the workers apply `prepare`."""
    return map_in_workers(partial(_prepared, dataset, prepare), range(len(dataset)), workers)


def steps_of(num_images: int, batch_size: int, epochs: int, max_steps: int | None, split: str,
             min_steps: int = 0) -> int:
    """Steps of a training run: whole batches of each epoch, at least min_steps, at most max_steps.

    Raises ValueError if the set has fewer images than a batch.
    """
    if num_images < batch_size:
        raise ValueError(f'--batch-size {batch_size} is larger than the {num_images} images of {split}; '
                         f'use at most {num_images}')
    steps = max(num_images // batch_size * epochs, min_steps)
    return min(steps, max_steps or steps)


def _prepared(dataset: Dataset, prepare: Callable[[dict], dict] | None, index: int) -> dict:
    return prepare(dataset[index]) if prepare else dataset[index]


def _batch(dataset: Dataset, keys: Sequence[tuple[int, int]]) -> dict:
    """A batch with arrays in place of tensors, which travel between processes faster."""
    batch = default_collate([dataset[key] for key in keys])
    return {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def _as_tensors(batch: dict) -> dict:
    """The batch with tensors, where there is a GPU in memory from which it copies while the host goes on."""
    tensors = {key: torch.from_numpy(value) for key, value in batch.items() if isinstance(value, np.ndarray)}
    if torch.cuda.is_available():
        tensors = {key: value.pin_memory() for key, value in tensors.items()}
    return batch | tensors
