"""Pictures for people: label maps over photos, panels of several pictures."""
from collections.abc import Sequence

import cv2
import numpy as np


def blend(image: np.ndarray, mask: np.ndarray, palette: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """A label map laid over its image; background shows the image alone.

    Args:
        image: uint8 [H, W, 3].
        mask: labels uint8 [H, W].
        palette: colours uint8 [256, 3].
        opacity: of the colours, in [0, 1].

    Returns:
        uint8 [H, W, 3].
    """
    colours = palette[mask]
    mixed = image * (1 - opacity) + colours * opacity
    return np.where((mask == 0)[..., None], image, mixed).astype(np.uint8)


def heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of [H, W] as a heat map over the image uint8 [H, W, 3]."""
    colours = cv2.applyColorMap((values * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return (image * 0.4 + colours * 0.6).astype(np.uint8)


def side_by_side(pictures: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures uint8 [H, W, 3] of equal height in a row, on white."""
    return _join(pictures, gap, axis=1)


def stacked(rows: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures uint8 [H, W, 3] below one another, on white; narrower ones are filled up at the right."""
    width = max(row.shape[1] for row in rows)
    return _join([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows],
                 gap, axis=0)


def _join(pictures: Sequence[np.ndarray], gap: int, axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = gap
    white = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (white, picture)][1:]
    return np.concatenate(parts, axis)
