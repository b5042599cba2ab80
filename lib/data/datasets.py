"""Samples and batches over any DatasetSpec, for training and inference (samples of AffinityNet: affinity.py).

Training sets are indexed with (epoch, index): every random number of a sample comes from a generator seeded with
(seed, epoch, index), so neither the number of worker processes nor an interruption changes anything.
"""
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from shlex import quote

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from lib.data import augment
from lib.data.checks import check_images, check_made
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import IGNORED, read_image, read_mask, read_size
from lib.process.workers import map_in_workers
from tool.imutils import IMAGENET_NORM, Norm, normalise


class SplitSet(Dataset):
    """The images of a split."""

    def __init__(self, spec: DatasetSpec, split: str, limit: int | None):
        self.spec, self.split = spec, split
        self.samples, self.left_out = spec.samples(split, limit), spec.left_out(split, limit)
        self.names, self.paths = [sample.name for sample in self.samples], [sample.image for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def check(self) -> None:
        """Check that all images exist and have an intact beginning and end."""
        check_images(self.split, self.paths, self.left_out)

    def read(self, sample: Sample) -> np.ndarray:
        """The image of a sample, uint8 [H, W, 3]."""
        return read_image(sample.image, **self.spec.reading)


class TrainSet(SplitSet):
    """Base class of the training sets. A key is (epoch, index)."""

    LABELS, MAKER = 'labels', ''            # the label files in messages, and the script that makes them

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm, crop: int, seed: int, limit: int | None):
        super().__init__(spec, split, limit)
        self.norm, self.crop, self.seed = norm, crop, seed

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        return {'name': self.samples[index].name, **self.draw(index, np.random.default_rng((self.seed, epoch, index)))}

    def check(self) -> None:
        """Check that all images and label files exist."""
        super().check()
        if files := self.labelled():
            check_made(self.spec, files, f'{self.split} lacks {self.LABELS}', self.remedy())

    def labels_of(self, sample: Sample) -> list[Path]:
        """The label files of a sample."""
        return []

    def labelled(self) -> list[tuple[Sample, Path]]:
        """The samples with their label files, in list order."""
        return [(sample, path) for sample in self.samples for path in self.labels_of(sample)]

    def _crop_image(self, image: np.ndarray, crop: augment.Crop, pad: float | np.ndarray = 0) -> torch.Tensor:
        """Normalise and crop an image. Padding with 0 is the mean colour; an array [3, 1, 1] is another."""
        return torch.from_numpy(crop.paste(normalise(image[crop.source], self.norm), pad))

    def _check_size(self, sample: Sample, image_size: Sequence[int], path: Path, size: Sequence[int]) -> None:
        if tuple(size) != tuple(image_size):
            raise ValueError(f'{path} is {size[0]}x{size[1]} pixels (height x width), {sample.image} is '
                             f'{image_size[0]}x{image_size[1]}; {self.remedy()}')

    def remedy(self) -> str:
        """How to make the label files."""
        return (f'make them with python {self.MAKER} --dataset {quote(self.spec.flag or self.spec.name)} '
                f'--split {self.split}')


class CamTrainSet(TrainSet):
    """{'image': float32 [3, crop, crop], 'image_labels': float32 [K], 'name'}; long_side in pixels, both included."""

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm = IMAGENET_NORM, crop: int = 448,
                 long_side: tuple[int, int] = (448, 768), seed: int = 1, limit: int | None = None):
        super().__init__(spec, split, norm, crop, seed, limit)
        self.long_side = long_side
        self.labels = spec.image_labels(self.names)

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        image = augment.resize_long_side(self.read(self.samples[index]), rng, *self.long_side)
        image = augment.colour_jitter(image[:, augment.random_flip(rng)], rng)
        crop = augment.random_crop(rng, *image.shape[:2], self.crop)
        return {'image': self._crop_image(image, crop), 'image_labels': torch.from_numpy(self.labels[index]).float()}


class SegTrainSet(TrainSet):
    """{'image': float32 [3, crop, crop], 'mask': int64 [crop, crop] (padding 255), 'name'}; labels from PNGs."""

    MAKER = 'infer_aff.py'

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm = IMAGENET_NORM, crop: int = 448,
                 labels_dir: Path = Path('walk'), seed: int = 1, scale: tuple[float, float] = (0.5, 1.5),
                 limit: int | None = None):
        super().__init__(spec, split, norm, crop, seed, limit)
        self.labels_dir, self.scale = Path(labels_dir), scale

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        sample, (path,) = self.samples[index], self.labels_of(self.samples[index])
        image, mask = self.read(sample), read_mask(path, self.spec.num_classes)
        self._check_size(sample, image.shape[:2], path, mask.shape)
        flip = augment.random_flip(rng)
        image = augment.hsv_shift(image, rng)[:, flip]
        image, mask = augment.random_scale(image, mask[:, flip], rng, *self.scale)
        crop = augment.random_crop(rng, *mask.shape, self.crop)
        mask = crop.paste(mask[crop.source], IGNORED)
        return {'image': self._crop_image(image, crop), 'mask': torch.from_numpy(mask.astype(np.int64))}

    def check(self) -> None:
        """Check that all images and label PNGs exist and have the same size (headers only)."""
        super().check()
        for sample, path in self.labelled():
            self._check_size(sample, read_size(sample.image, **self.spec.reading), path, read_size(path))

    def labels_of(self, sample: Sample) -> list[Path]:
        """The label PNG of a sample."""
        return [self.labels_dir / f'{sample.name}.png']


class InferSet(SplitSet):
    """{'image': uint8 [H, W, 3], 'image_labels': float32 [K], 'name'} in list order; with_labels=False: no labels."""

    def __init__(self, spec: DatasetSpec, split: str, limit: int | None = None, with_labels: bool = True):
        super().__init__(spec, split, limit)
        self.labels = spec.image_labels(self.names).astype(np.float32) if with_labels else None

    def __getitem__(self, index: int) -> dict:
        sample = {'image': self.read(self.samples[index]), 'name': self.samples[index].name}
        return sample if self.labels is None else sample | {'image_labels': self.labels[index]}


def batch_keys(num_samples: int, batch: int, epochs: int, seed: int, start_step: int = 0,
               part: tuple[int, int] = (0, 1)) -> Iterator[list[tuple[int, int]]]:
    """Batches of (epoch, index) for a training set: shuffled in each epoch, the rest of an epoch dropped.

    The order depends only on (seed, epoch); start_step skips batches, so that a resumed run sees the same ones.
    `part` = (index, parts) yields the index-th of so many equal parts of each batch.
    """
    steps, (part_index, parts) = num_samples // batch, part
    size = batch // parts
    for epoch in range(start_step // steps, epochs):
        order = np.random.default_rng((seed, epoch)).permutation(num_samples).tolist()
        for step in range(max(0, start_step - epoch * steps), steps):
            start = step * batch + part_index * size
            yield [(epoch, index) for index in order[start:start + size]]


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
