"""The five kinds of samples, over any DatasetSpec: for training CAM, affinity and segmentation, inference, evaluation.

The first four are Datasets; evaluation reads pairs of files (label_pairs). Where the data set says so (on_corrupt), an
image that is corrupt is no error, and neither is that what would have been made from it is missing.

Training sets are indexed with (epoch, index): every random number of a sample comes from a generator seeded with
(seed, epoch, index), so that the number of worker processes and an interruption change nothing.
"""
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from lib.data import augment
from lib.data.corrupt import check_images, check_made, first_readable, unless_corrupt
from lib.data.labelio import read_seeds
from lib.data.npyio import read_npy_seeds, seed_folders
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import IGNORED, read_image, read_mask, read_size
from tool.affutils import affinity_label
from tool.imutils import IMAGENET_NORM, Norm, normalise


class LabelPair(NamedTuple):
    """Files to compare for one image."""

    name: str
    prediction: Path
    truth: Path


class _TrainSet(Dataset):
    """What the training sets share. A key is (epoch, index)."""

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm, crop: int, seed: int, limit: int | None):
        self.spec, self.split, self.norm, self.crop, self.seed = spec, split, norm, crop, seed
        self.samples = spec.samples(split)[:limit]
        self.left_out = set()               # names of corrupt images without label files, as check() finds them

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        return {'name': self.samples[index].name, **self.draw(index, np.random.default_rng((self.seed, epoch, index)))}

    def first(self, count: int) -> list[dict]:
        """The first samples, as epoch 0 shows them; where corrupt ones are left out, the next take their places."""
        return first_readable((lambda index=index: self[0, index] for index in range(len(self))), count,
                              self.spec.on_corrupt)

    def label_images(self) -> list[Path]:
        """The images of label_files(), one for each."""
        files = len(self.label_files()) // max(1, len(self.samples) - len(self.left_out))
        return [sample.image for sample in self.samples if sample.name not in self.left_out for _ in range(files)]

    def place(self, image: np.ndarray, crop: augment.Crop) -> torch.Tensor:
        """Normalise and crop an image; padding is 0, the mean colour."""
        return torch.from_numpy(crop.paste(normalise(image[crop.source], self.norm), 0))


class CamTrainSet(_TrainSet):
    """{'image': float32 [3, crop, crop], 'image_labels': float32 [K], 'name'}; long_side in pixels, both included."""

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm = IMAGENET_NORM, crop: int = 448,
                 long_side: tuple[int, int] = (448, 768), seed: int = 1, limit: int | None = None):
        super().__init__(spec, split, norm, crop, seed, limit)
        self.long_side = long_side
        self.labels = spec.image_labels([sample.name for sample in self.samples])

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        image = augment.resize_long_side(_read(self.spec, self.samples[index]), rng, *self.long_side)
        image = augment.colour_jitter(image[:, augment.random_flip(rng)], rng)
        crop = augment.random_crop(rng, *image.shape[:2], self.crop)
        return {'image': self.place(image, crop), 'image_labels': torch.from_numpy(self.labels[index]).float()}

    def check(self) -> None:
        """Make sure that all images are there and have readable headers; the labels were read before."""
        check_images(self.spec, self.split, self.samples)


class AffTrainSet(_TrainSet):
    """{'image': float32 [3, crop, crop], 'label': uint8 [crop / stride, crop / stride], 'name'}; 255 is ignored.

    Of the two seeds of an image, the one of the lower alpha is trusted for objects, the other for background.

    Args:
        seeds_dir: folder of seed files; with `unpickle`, of two folders alpha_<strength> of the reference's .npy files.
        stride: of the network's features, in pixels.
    """

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm = IMAGENET_NORM, crop: int = 448,
                 seeds_dir: Path = Path('seeds'), seed: int = 1, limit: int | None = None, unpickle: bool = False,
                 stride: int = 8):
        super().__init__(spec, split, norm, crop, seed, limit)
        if crop % stride:
            raise ValueError(f'the crop of {crop} pixels must be a multiple of {stride}; '
                             f'use {crop - crop % stride or stride}')
        self.stride = stride
        self.seeds_dir = Path(seeds_dir)
        self.folders = seed_folders(self.seeds_dir) if unpickle else None

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        sample = self.samples[index]
        image = augment.colour_jitter(_read(self.spec, sample), rng)
        keys, low, high = self._read_seeds(sample, image.shape[:2])
        crop = augment.random_crop(rng, *image.shape[:2], self.crop)
        flip = augment.random_flip(rng)
        low, high = (crop.paste(scores[..., *crop.source], 0)[..., flip] for scores in (low, high))
        channel = affinity_label(low, high, self.stride)
        value_of = np.full(256, IGNORED, np.uint8)              # channel of the seeds -> mask value
        value_of[:len(keys) + 1] = [0, *(keys + 1)]
        image = self.place(image, crop)
        return {'image': image.flip(-1) if flip.step < 0 else image, 'label': torch.from_numpy(value_of[channel])}

    def check(self) -> None:
        """Make sure that all images and seeds are there."""
        check_images(self.spec, self.split, self.samples)
        files = [(sample, path) for sample in self.samples for path in self._seeds_paths(sample).values()]
        self.left_out = check_made(self.spec, files, f'{self.split} lacks seeds', self.remedy())

    def label_files(self) -> list[Path]:
        """The seed files, in list order."""
        return [path for sample in self.samples if sample.name not in self.left_out
                for path in self._seeds_paths(sample).values()]

    def _read_seeds(self, sample: Sample, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        paths = self._seeds_paths(sample)
        path = next(iter(paths.values()))
        keys, scores = (read_npy_seeds(paths, size, self.spec.num_fg) if self.folders else
                        read_seeds(path, self.spec.num_fg))
        if len(scores) != 2:
            raise ValueError(f'{path} has seeds for {len(scores)} strengths of background, not for 2; {self.remedy()}')
        low, high = (scores[alpha] for alpha in sorted(scores))
        _check_size(path, low.shape[-2:], sample.image, size, self.remedy())
        return keys, low, high

    def _seeds_paths(self, sample: Sample) -> dict[float | None, Path]:
        """Files of an image's seeds by strength; our own files hold both."""
        if self.folders:
            return {alpha: folder / f'{sample.name}.npy' for alpha, folder in self.folders.items()}
        return {None: self.seeds_dir / f'{sample.name}.npz'}

    def remedy(self) -> str:
        """How to make the seeds."""
        return (f'make them with python infer_cam.py --dataset {_flag(self.spec)} --split {self.split}'
                f'{" --export-npy" if self.folders else ""}')


class SegTrainSet(_TrainSet):
    """{'image': float32 [3, crop, crop], 'mask': int64 [crop, crop] (padding 255), 'name'}; labels from PNGs."""

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm = IMAGENET_NORM, crop: int = 448,
                 labels_dir: Path = Path('walk'), seed: int = 1, scale: tuple[float, float] = (0.5, 1.5),
                 limit: int | None = None):
        super().__init__(spec, split, norm, crop, seed, limit)
        self.labels_dir, self.scale = Path(labels_dir), scale

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        sample, path = self.samples[index], self._label_path(self.samples[index])
        image, mask = _read(self.spec, sample), read_mask(path, self.spec.num_classes)
        _check_size(path, mask.shape, sample.image, image.shape[:2], self.remedy())
        flip = augment.random_flip(rng)
        image = augment.hsv_shift(image, rng)[:, flip]
        image, mask = augment.random_scale(image, mask[:, flip], rng, *self.scale)
        crop = augment.random_crop(rng, *mask.shape, self.crop)
        mask = crop.paste(mask[crop.source], IGNORED)
        return {'image': self.place(image, crop), 'mask': torch.from_numpy(mask.astype(np.int64))}

    def check(self) -> None:
        """Make sure that all images and label PNGs are there and of the same size (headers only)."""
        corrupt = check_images(self.spec, self.split, self.samples)
        files = [(sample, self._label_path(sample)) for sample in self.samples]
        self.left_out = check_made(self.spec, files, f'{self.split} lacks labels', self.remedy())
        for sample, path in files:
            if sample.name not in corrupt | self.left_out:
                label_size = unless_corrupt(self.spec.on_corrupt, read_size, path)
                image_size = read_size(sample.image, **self.spec.reading)
                _check_size(path, label_size or image_size, sample.image, image_size, self.remedy())

    def label_files(self) -> list[Path]:
        """The label PNGs, in list order."""
        return [self._label_path(sample) for sample in self.samples if sample.name not in self.left_out]

    def _label_path(self, sample: Sample) -> Path:
        return self.labels_dir / f'{sample.name}.png'

    def remedy(self) -> str:
        """How to make the labels."""
        return f'make them with python infer_aff.py --dataset {_flag(self.spec)} --split {self.split}'


class InferSet(Dataset):
    """{'image': uint8 [H, W, 3], 'image_labels': float32 [K], 'name'} in list order; with_labels=False: no labels."""

    def __init__(self, spec: DatasetSpec, split: str, limit: int | None = None, with_labels: bool = True):
        self.spec, self.split, self.samples = spec, split, spec.samples(split)[:limit]
        self.names, self.paths = [sample.name for sample in self.samples], [sample.image for sample in self.samples]
        self.labels = spec.image_labels(self.names).astype(np.float32) if with_labels else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        sample = {'image': _read(self.spec, self.samples[index]), 'name': self.samples[index].name}
        return sample if self.labels is None else sample | {'image_labels': self.labels[index]}

    def check(self) -> None:
        """Make sure that all images are there and have readable headers."""
        check_images(self.spec, self.split, self.samples)

    def first(self, count: int) -> list[tuple[Sample, dict]]:
        """The first images, read; where corrupt ones are left out, the next take their places."""
        return first_readable((lambda index=index: (self.samples[index], self[index]) for index in range(len(self))),
                              count, self.spec.on_corrupt)


def label_pairs(spec: DatasetSpec, split: str, labels_dir: Path, suffix: str = '.png',
                limit: int | None = None, remedy: str = 'check the folder',
                masked_only: bool = False) -> tuple[list[LabelPair], list[str]]:
    """Files to compare, in list order: <labels_dir>/<name><suffix> and the mask of the list.

    With masked_only, images without a mask are left out.

    Returns:
        The pairs, and the names of corrupt images that are left out, as there is no prediction for them.

    Raises:
        FileNotFoundError: if a mask or a prediction is not there, naming the first and how many.
    """
    samples = spec.samples(split)[:limit]
    if masked_only and any(sample.mask for sample in samples):
        samples = [sample for sample in samples if sample.mask]
    else:
        spec.check(split, need_masks=True)
    files = [(sample, Path(labels_dir) / f'{sample.name}{suffix}') for sample in samples]
    left_out = check_made(spec, files, f'{split} lacks predictions', remedy)
    pairs = [LabelPair(sample.name, path, sample.mask) for sample, path in files if sample.name not in left_out]
    return pairs, [sample.name for sample in samples if sample.name in left_out]


class KeySampler(Sampler):
    """Batches of (epoch, index) for a training set: shuffled in each epoch, the rest of an epoch dropped.

    The order depends on (seed, epoch) alone; start_step skips batches, so that a resumed run sees what it would have.
    `part` = (index, parts) yields the index-th of so many equal parts of each batch.

    Raises:
        ValueError: if a batch is larger than the set.
    """

    def __init__(self, num_samples: int, batch: int, epochs: int, seed: int, start_step: int = 0,
                 split: str = 'the split', part: tuple[int, int] = (0, 1)):
        if batch > num_samples:
            raise ValueError(f'--batch-size {batch} is larger than the {num_samples} images of {split}; '
                             f'use at most {num_samples}')
        self.num_samples, self.batch, self.epochs, self.seed = num_samples, batch, epochs, seed
        self.start_step, (self.index, self.parts) = start_step, part

    def __len__(self) -> int:
        return max(0, self.num_samples // self.batch * self.epochs - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        steps = self.num_samples // self.batch
        for epoch in range(self.start_step // steps, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples).tolist()
            first = self.start_step % steps if epoch == self.start_step // steps else 0
            size = self.batch // self.parts
            for step in range(first, steps):
                start = step * self.batch + self.index * size
                yield [(epoch, index) for index in order[start:start + size]]


def _read(spec: DatasetSpec, sample: Sample) -> np.ndarray:
    return read_image(sample.image, **spec.reading)


def _check_size(path: Path, size: Sequence[int], other: Path, other_size: Sequence[int], remedy: str) -> None:
    if tuple(size) != tuple(other_size):
        raise ValueError(f'{path} is {size[0]}x{size[1]} pixels (height x width), {other} is '
                         f'{other_size[0]}x{other_size[1]}; {remedy}')


def _flag(spec: DatasetSpec) -> str:
    return quote(spec.flag or spec.name)
