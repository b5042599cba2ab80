"""Random augmentation of training images. All functions take `rng` (numpy.random.Generator) and return new arrays.

Images are uint8 [H, W, 3] in RGB. Every function draws the same number of random numbers whatever the image, so that
a sample depends on its seed alone.
"""
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from tool.imutils import rescale, resize_bicubic, scaled_size


class Crop(NamedTuple):
    """A window of size x size over an array: the part it cuts out, and the position of that part in the window."""

    source: tuple[slice, slice]
    target: tuple[slice, slice]
    size: int

    def paste(self, part: np.ndarray, pad: float | np.ndarray) -> np.ndarray:
        """The window [..., size, size] with the part [..., h, w] that `source` cut out; the rest is `pad`."""
        window = np.full((*part.shape[:-2], self.size, self.size), pad, part.dtype)
        window[..., *self.target] = part
        return window


def random_crop(rng: np.random.Generator, height: int, width: int, size: int) -> Crop:
    """A square window at a random position. Along a side shorter than the window, the image's position is random."""
    (rows, to_rows), (columns, to_columns) = _random_slices(rng, height, size), _random_slices(rng, width, size)
    return Crop((rows, columns), (to_rows, to_columns), size)


def random_flip(rng: np.random.Generator) -> slice:
    """A slice for the column axis that mirrors with probability 1/2: array[:, flip]."""
    return slice(None, None, -1 if rng.random() < 0.5 else 1)


def resize_long_side(image: np.ndarray, rng: np.random.Generator, shortest: int, longest: int) -> np.ndarray:
    """Resize so that the long side is a random integer from `shortest` to `longest`, both included (PIL bicubic)."""
    height, width = image.shape[:2]
    long_side = int(rng.integers(shortest, longest, endpoint=True))
    return resize_bicubic(image, *scaled_size(height, width, long_side, max(height, width)))


def random_scale(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, smallest: float,
                 largest: float) -> tuple[np.ndarray, np.ndarray]:
    """Resize an image (cubic) and its mask (nearest) by one random factor."""
    factors = (rng.uniform(smallest, largest),) * 2
    return rescale(image, factors), rescale(mask, factors, cv2.INTER_NEAREST)


def colour_jitter(image: np.ndarray, rng: np.random.Generator, brightness: float = 0.3, contrast: float = 0.3,
                  saturation: float = 0.3, hue: float = 0.1) -> np.ndarray:
    """Change brightness, contrast, saturation (factors 1 - s to 1 + s) and hue (-h to h of the circle) in random order.

    What torchvision's ColorJitter does, with random numbers from `rng`.
    """
    from torchvision.transforms import functional  # takes a second to import; only this augmentation needs it

    changes = [(functional.adjust_brightness, rng.uniform(1 - brightness, 1 + brightness)),
               (functional.adjust_contrast, rng.uniform(1 - contrast, 1 + contrast)),
               (functional.adjust_saturation, rng.uniform(1 - saturation, 1 + saturation)),
               (functional.adjust_hue, rng.uniform(-hue, hue))]
    jittered = Image.fromarray(np.ascontiguousarray(image))
    for index in rng.permutation(len(changes)):
        change, amount = changes[index]
        jittered = change(jittered, amount)
    return np.asarray(jittered)


def hsv_shift(image: np.ndarray, rng: np.random.Generator, limit: int = 10) -> np.ndarray:
    """Add a random integer within +-limit to hue (modulo 180, OpenCV's circle), saturation and value (both clipped)."""
    shift = rng.integers(-limit, limit, size=3, endpoint=True)
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV) + shift.astype(np.int16)
    hsv[..., 0] %= 180
    return cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)


def _random_slices(rng: np.random.Generator, length: int, size: int) -> tuple[slice, slice]:
    """Along one side: what the window cuts out of the image, and its position in the window."""
    start = int(rng.integers(abs(length - size) + 1))
    if length >= size:
        return slice(start, start + size), slice(0, size)
    return slice(0, length), slice(start, start + length)
