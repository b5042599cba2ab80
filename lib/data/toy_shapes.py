"""What the classes of the toy set look like: an outline, a texture and the position of the head.

Object coordinates: the body lies in about [-1, 1] along x and is somewhat narrower along y; the head is an ellipse
inside it, towards +x. Textures are functions of coordinates in half head widths, with values in [-1, 1].
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """A class: outline() [points, 2] and texture(x, y) -> [-1, 1]; head: centre x, half width, half height."""

    outline: Callable[[], np.ndarray]
    texture: Callable[[np.ndarray, np.ndarray], np.ndarray]
    head: tuple[float, float, float]


def bolt() -> np.ndarray:
    """A lightning bolt with two kinks."""
    return np.array([(-1, .10), (-.30, .42), (-.36, .12), (.28, .46), (1, .22), (.52, -.42), (.02, -.26), (.08, -.52)])


def fish() -> np.ndarray:
    """An ellipse with a forked tail."""
    angle = np.linspace(-2.75, 2.75, 36)
    body = np.stack([.22 + .78 * np.cos(angle), .46 * np.sin(angle)], 1)
    return np.concatenate([body, [(-1, .46), (-.78, 0), (-1, -.46)]])


def gear() -> np.ndarray:
    """A gear wheel of nine teeth."""
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    radius = np.where(np.arange(36) % 4 < 2, .86, .64)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def kite() -> np.ndarray:
    """A quadrilateral with a long and a short end."""
    return np.array([(-1, 0), (.34, .62), (.95, 0), (.34, -.62)])


def pear() -> np.ndarray:
    """A thick round end that narrows to a blunt neck."""
    angle = np.linspace(-2.45, 2.45, 32)
    round_end = np.stack([.38 + .58 * np.cos(angle), .58 * np.sin(angle)], 1)
    return np.concatenate([round_end, [(-.45, .26), (-.88, .22), (-1, 0), (-.88, -.22), (-.45, -.26)]])


def star() -> np.ndarray:
    """A star of five points."""
    angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    radius = np.where(np.arange(10) % 2 == 0, 1.0, .50)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def zigzag(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Zigzag bands."""
    tooth = np.abs(1.25 * x % 1 - .5) * 2
    return _wave(1.3 * y + .9 * tooth)


def stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Straight bands across the body."""
    return _wave(2 * x)


def spokes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ten sectors around the head's centre."""
    return _wave(5 * np.arctan2(y, x) / np.pi)


def lanes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Straight bands along the body."""
    return _wave(2 * y)


def rings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Circles around the head's centre."""
    return _wave(2.1 * np.hypot(x, y))


def dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Round spots in staggered rows."""
    row = np.floor(1.75 * y)
    across, along = 1.75 * y - row - .5, (1.75 * x + .5 * row) % 1 - .5
    return np.clip((.34 - np.hypot(across, along)) * 10, -1, 1)


def _wave(phase: np.ndarray) -> np.ndarray:
    """A square wave of period 1 with softened edges."""
    return np.clip(2.5 * np.sin(2 * np.pi * phase), -1, 1)


SHAPES = {
    'bolt': Shape(bolt, zigzag, (.42, .34, .30)),
    'fish': Shape(fish, stripes, (.58, .34, .30)),
    'gear': Shape(gear, spokes, (.00, .40, .36)),
    'kite': Shape(kite, lanes, (.32, .36, .32)),
    'pear': Shape(pear, rings, (.44, .38, .36)),
    'star': Shape(star, dots, (.10, .36, .34)),
}
