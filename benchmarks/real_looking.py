"""Photo-like images, and CAMs and seeds like those of a trained network and the CRF, for tests and benchmarks."""
import cv2
import numpy as np
import torch
from torch.nn import functional as F

from tool.crfutils import seed_scores
from tool.seamutils import fuse_scales

SCALES = (0.5, 1.0, 1.5, 2.0)
STRIDE = 8


def photo_like(seed: int, height: int, width: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] with shading, texture of several widths and grain, and mask 0..classes of its objects."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    image = _texture(rng, height, width)
    for label in range(1, classes + 1):
        middle = tuple(int(length * rng.uniform(0.25, 0.75)) for length in (width, height))
        axes = tuple(int(min(height, width) * rng.uniform(0.15, 0.35)) for _ in range(2))
        cv2.ellipse(mask, middle, axes, rng.uniform(0, 180), 0, 360, label, -1)
        image = np.where((mask == label)[..., None], _texture(rng, height, width), image)
    image = cv2.GaussianBlur(image, (0, 0), 0.8) + rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def _texture(rng, height, width):
    image = np.full((height, width, 3), rng.uniform(40, 215, 3), np.float32)
    for size, strength in ((2, 10), (8, 14), (40, 22)):
        coarse = rng.normal(0, strength, (height // size + 2, width // size + 2, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return image


def real_looking_labels(seed: int, height: int, width: int, classes: int = 2,
                        alphas: tuple[float, ...] = (1.0, 24.0)) -> tuple[list[int], np.ndarray, dict]:
    """Class indices, CAMs [k, H, W] and seeds by strength for the picture photo_like(seed, ...).

    The CAMs are what inference makes of rough maps at stride 8 of four scales: brightest inside the object, uneven,
    spilling over its rim, with a noisy floor.
    """
    image, mask = photo_like(seed, height, width, classes)
    rng = np.random.default_rng((seed, 1))
    keys = [int(value) - 1 for value in np.unique(mask) if value]
    maps = []
    for scale in SCALES:
        size = [-(-round(length * scale) // STRIDE) for length in (height, width)]
        views = []
        for key in keys:
            inside = cv2.resize((mask == key + 1).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
            spread = cv2.GaussianBlur(inside, (0, 0), 3 * scale + 0.5)
            uneven = cv2.GaussianBlur(rng.normal(size=size).astype(np.float32), (0, 0), 1.5)
            view = 0.6 * spread / spread.max() + 0.4 * inside * (1 + uneven) + 0.1 * np.abs(uneven)
            views.append(np.maximum(view + rng.normal(0, 0.02, size), 0))
        views = torch.from_numpy(np.stack(views)[None]).float()
        maps.append(F.interpolate(views, (height, width), mode='bilinear', align_corners=False)[0])
    cam = fuse_scales(torch.stack(maps)).numpy()
    return keys, cam, seed_scores(image, cam, alphas) if alphas else {}
