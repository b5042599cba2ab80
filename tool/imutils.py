"""Small pure functions on images, shared by training, inference and display.

An image is uint8 [H, W, 3] in RGB until normalise() turns it into what a network reads, float32 [3, H, W].
"""
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image


class Norm(NamedTuple):
    """Input normalisation of a backbone: mean and standard deviation per channel, of RGB in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IGNORED = 255       # label of ignored pixels
IMAGENET_NORM = Norm((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalise(image: np.ndarray, norm: Norm = IMAGENET_NORM) -> np.ndarray:
    """Turn an image uint8 [H, W, 3] into network input float32 [3, H, W]: (image / 255 - mean) / std."""
    mean, std = np.float32(norm.mean), np.float32(norm.std)
    scaled = image * (1 / (255 * std)) - mean / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)


def denormalise(image: np.ndarray, norm: Norm = IMAGENET_NORM) -> np.ndarray:
    """Undo normalise: float32 [3, H, W] back to RGB in [0, 1], not clamped; zero padding becomes the mean colour."""
    mean, std = (np.float32(values)[:, None, None] for values in norm)
    return image * std + mean


def scaled_size(height: int, width: int, scale: float, over: int = 1) -> tuple[int, int]:
    """(height, width) * scale / over, rounded to whole pixels, at least 1; multiplied before divided."""
    return max(1, round(height * scale / over)), max(1, round(width * scale / over))


def fitting_size(height: int, width: int, step: int | None) -> tuple[int, int]:
    """(height, width), each rounded to a multiple of step plus 1; unchanged if step is None.

    At such sizes the corners of a feature map of that stride coincide with the corner pixels.
    """
    if step is None:
        return height, width
    return max(1, round((height - 1) / step)) * step + 1, max(1, round((width - 1) / step)) * step + 1


def resize_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image uint8 [H, W, 3] with PIL's bicubic filter, which antialiases when downscaling (CAM stages)."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))   # not read-only


def rescale(image: np.ndarray, factors: tuple[float, float], interpolation: int = cv2.INTER_CUBIC) -> np.ndarray:
    """Resize an image [H, W, 3] or a mask [H, W] by factors of height and width with OpenCV (segmentation stage).

    The sampling grid follows the factors; the size is rounded, at least 1. The cubic filter does not antialias when
    downscaling, and float values may overshoot the range of the input.
    """
    fy, fx = (max(factor, 1 / side) for factor, side in zip(factors, image.shape))
    return cv2.resize(image, None, fx=fx, fy=fy, interpolation=interpolation)


def resize_nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a mask uint8 [H, W] without mixing labels."""
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)


def resize_linear(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize maps float32 [k, H, W] bilinearly; k may be 0."""
    if maps.shape[1:] == (height, width):
        return maps
    resized = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in maps]
    return np.stack(resized) if resized else np.zeros((0, height, width), np.float32)


def enlarged_label(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Strongest of the scores float32 [C, h, w] at each pixel of a larger size: uint8 [height, width].

    Scores are resized bilinearly, one class at a time: the result is smoother than a resized label map, and only two
    classes of a large image are in memory at once.
    """
    best = np.full((height, width), -np.inf, np.float32)
    label = np.zeros((height, width), np.uint8)
    for index, plane in enumerate(scores):
        enlarged = resize_linear(plane[None], height, width)[0]
        np.putmask(label, enlarged > best, index)
        np.maximum(best, enlarged, out=best)
    return label


def pad_to_multiple(array: np.ndarray, multiple: int, value: float = 0) -> np.ndarray:
    """Pad [..., H, W] at the right and bottom until both sides are multiples."""
    height, width = array.shape[-2:]
    widths = [(0, 0)] * (array.ndim - 2) + [(0, -height % multiple), (0, -width % multiple)]
    return np.pad(array, widths, constant_values=value)
