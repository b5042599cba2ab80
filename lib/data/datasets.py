"""Samples over any DatasetSpec, for CAM training, segmentation training and inference (affinity.py: AffinityNet).

Training sets are indexed with (epoch, index): every random number of a sample comes from a generator seeded with
(seed, epoch, index), so neither the number of worker processes nor an interruption changes anything.
"""
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

import numpy as np
import torch
from torch.utils.data import Dataset

from lib.data import augment
from lib.data.checks import check_images, check_made
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import IGNORED, read_image, read_mask, read_size
from tool.imutils import IMAGENET_NORM, Norm, normalise


class TrainSet(Dataset):
    """Base class of the training sets. A key is (epoch, index)."""

    LABELS = 'labels'                       # name of the label files in messages

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm, crop: int, seed: int, limit: int | None):
        self.spec, self.split, self.norm, self.crop, self.seed = spec, split, norm, crop, seed
        self.samples, self.left_out = spec.samples(split, limit), spec.left_out(split, limit)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        return {'name': self.samples[index].name, **self.draw(index, np.random.default_rng((self.seed, epoch, index)))}

    def check(self) -> None:
        """Check that all images and label files exist."""
        check_images(self.split, [sample.image for sample in self.samples], self.left_out)
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


class CamTrainSet(TrainSet):
    """{'image': float32 [3, crop, crop], 'image_labels': float32 [K], 'name'}; long_side in pixels, both included."""

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm = IMAGENET_NORM, crop: int = 448,
                 long_side: tuple[int, int] = (448, 768), seed: int = 1, limit: int | None = None):
        super().__init__(spec, split, norm, crop, seed, limit)
        self.long_side = long_side
        self.labels = spec.image_labels([sample.name for sample in self.samples])

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        image = augment.resize_long_side(read_sample(self.spec, self.samples[index]), rng, *self.long_side)
        image = augment.colour_jitter(image[:, augment.random_flip(rng)], rng)
        crop = augment.random_crop(rng, *image.shape[:2], self.crop)
        return {'image': self._crop_image(image, crop), 'image_labels': torch.from_numpy(self.labels[index]).float()}


class SegTrainSet(TrainSet):
    """{'image': float32 [3, crop, crop], 'mask': int64 [crop, crop] (padding 255), 'name'}; labels from PNGs."""

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm = IMAGENET_NORM, crop: int = 448,
                 labels_dir: Path = Path('walk'), seed: int = 1, scale: tuple[float, float] = (0.5, 1.5),
                 limit: int | None = None):
        super().__init__(spec, split, norm, crop, seed, limit)
        self.labels_dir, self.scale = Path(labels_dir), scale

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        sample, (path,) = self.samples[index], self.labels_of(self.samples[index])
        image, mask = read_sample(self.spec, sample), read_mask(path, self.spec.num_classes)
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

    def remedy(self) -> str:
        """How to make the labels."""
        return f'make them with python infer_aff.py --dataset {dataset_flag(self.spec)} --split {self.split}'


class InferSet(Dataset):
    """{'image': uint8 [H, W, 3], 'image_labels': float32 [K], 'name'} in list order; with_labels=False: no labels."""

    def __init__(self, spec: DatasetSpec, split: str, limit: int | None = None, with_labels: bool = True):
        self.spec, self.split = spec, split
        self.samples, self.left_out = spec.samples(split, limit), spec.left_out(split, limit)
        self.names, self.paths = [sample.name for sample in self.samples], [sample.image for sample in self.samples]
        self.labels = spec.image_labels(self.names).astype(np.float32) if with_labels else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        sample = {'image': read_sample(self.spec, self.samples[index]), 'name': self.samples[index].name}
        return sample if self.labels is None else sample | {'image_labels': self.labels[index]}

    def check(self) -> None:
        """Check that all images exist and have an intact beginning and end."""
        check_images(self.split, self.paths, self.left_out)


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


def read_sample(spec: DatasetSpec, sample: Sample) -> np.ndarray:
    return read_image(sample.image, **spec.reading)


def dataset_flag(spec: DatasetSpec) -> str:
    return quote(spec.flag or spec.name)
