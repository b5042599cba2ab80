"""Samples for training AffinityNet: images with labels made from their two CRF seeds."""
from pathlib import Path

import numpy as np
import torch

from lib.data import augment
from lib.data.datasets import TrainSet
from lib.data.labelio import read_seeds
from lib.data.npyio import read_npy_seeds, seed_folders
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import IGNORED
from tool.affutils import affinity_label
from tool.imutils import IMAGENET_NORM, Norm, normalise


class AffTrainSet(TrainSet):
    """{'image': float32 [3, crop, crop], 'label': uint8 [crop / stride, crop / stride], 'name'}; 255 is ignored.

    Of the two seeds of an image, the one of the lower alpha is trusted for objects, the other for background.

    Args:
        seeds_dir: folder of seed files; with `unpickle`, of two folders alpha_<strength> of the reference's .npy files.
        stride: of the network's features, in pixels.
    """

    LABELS, MAKER = 'seeds', 'infer_cam.py'

    def __init__(self, spec: DatasetSpec, split: str, norm: Norm = IMAGENET_NORM, crop: int = 448,
                 seeds_dir: Path = Path('seeds'), seed: int = 1, limit: int | None = None, unpickle: bool = False,
                 stride: int = 8):
        super().__init__(spec, split, norm, crop, seed, limit)
        if crop % stride:
            raise ValueError(f'the crop of {crop} pixels must be a multiple of {stride}; '
                             f'use {crop - crop % stride or stride}')
        self.stride, self.seeds_dir = stride, Path(seeds_dir)
        self.folders = seed_folders(self.seeds_dir) if unpickle else None

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        sample = self.samples[index]
        image = augment.colour_jitter(self.read(sample), rng)
        keys, low, high = self._read_seeds(sample, image.shape[:2])
        crop = augment.random_crop(rng, *image.shape[:2], self.crop)
        flip = augment.random_flip(rng)
        low, high = (crop.paste(scores[..., *crop.source], 0)[..., flip] for scores in (low, high))
        channel = affinity_label(low, high, self.stride)
        value_of = np.full(256, IGNORED, np.uint8)              # channel of the seeds -> mask value
        value_of[:len(keys) + 1] = [0, *(keys + 1)]
        # The reference crops this stage's images before it normalises them, so padding is black.
        image = self._crop_image(image, crop, pad=normalise(np.zeros((1, 1, 3), np.uint8), self.norm))
        return {'image': image.flip(-1) if flip.step < 0 else image, 'label': torch.from_numpy(value_of[channel])}

    def _read_seeds(self, sample: Sample, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        paths = self.labels_of(sample)
        keys, seeds = (read_npy_seeds(dict(zip(self.folders, paths)), size, self.spec.num_fg) if self.folders else
                       read_seeds(paths[0], self.spec.num_fg))
        if len(seeds) != 2:
            raise ValueError(f'{paths[0]} has seeds for {len(seeds)} background strengths, not for 2; {self.remedy()}')
        low, high = (seeds[alpha] for alpha in sorted(seeds))
        self._check_size(sample, size, paths[0], low.shape[-2:])
        return keys, low, high

    def labels_of(self, sample: Sample) -> list[Path]:
        """The seed files of a sample: one of ours holds both strengths."""
        if self.folders:
            return [folder / f'{sample.name}.npy' for folder in self.folders.values()]
        return [self.seeds_dir / f'{sample.name}.npz']

    def remedy(self) -> str:
        """How to make the seeds."""
        return super().remedy() + (' --export-npy' if self.folders else '')
