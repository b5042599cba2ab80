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
    body = _arc(np.linspace(-2.75, 2.75, 36), .78, .46) + (.22, 0)
    return np.concatenate([body, [(-1, .46), (-.78, 0), (-1, -.46)]])


def gear() -> np.ndarray:
    """A gear wheel of nine teeth."""
    radius = np.where(np.arange(36) % 4 < 2, .86, .64)
    return _arc(np.linspace(0, 2 * np.pi, 36, endpoint=False), radius, radius)


def kite() -> np.ndarray:
    """A quadrilateral with a long and a short end."""
    return np.array([(-1, 0), (.34, .62), (.95, 0), (.34, -.62)])


def pear() -> np.ndarray:
    """A thick round end that narrows to a blunt neck."""
    round_end = _arc(np.linspace(-2.45, 2.45, 32), .58, .58) + (.38, 0)
    return np.concatenate([round_end, [(-.45, .26), (-.88, .22), (-1, 0), (-.88, -.22), (-.45, -.26)]])


def star() -> np.ndarray:
    """A star of five points."""
    radius = np.where(np.arange(10) % 2 == 0, 1.0, .50)
    return _arc(np.linspace(0, 2 * np.pi, 10, endpoint=False), radius, radius)


def dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Round spots in staggered rows."""
    row = np.floor(1.75 * y)
    across, along = 1.75 * y - row - .5, (1.75 * x + .5 * row) % 1 - .5
    return np.clip((.34 - np.hypot(across, along)) * 10, -1, 1)


def _arc(angle: np.ndarray, half_width: float | np.ndarray, half_height: float | np.ndarray) -> np.ndarray:
    return np.stack([half_width * np.cos(angle), half_height * np.sin(angle)], 1)


def _wave(phase: np.ndarray) -> np.ndarray:
    """A square wave of period 1 with softened edges."""
    return np.clip(2.5 * np.sin(2 * np.pi * phase), -1, 1)


SHAPES = {      # textures: zigzag bands, bands across, sectors around the head's centre, bands along, circles, spots
    'bolt': Shape(bolt, lambda x, y: _wave(1.3 * y + .9 * (np.abs(1.25 * x % 1 - .5) * 2)), (.42, .34, .30)),
    'fish': Shape(fish, lambda x, y: _wave(2 * x), (.58, .34, .30)),
    'gear': Shape(gear, lambda x, y: _wave(5 * np.arctan2(y, x) / np.pi), (.00, .40, .36)),
    'kite': Shape(kite, lambda x, y: _wave(2 * y), (.32, .36, .32)),
    'pear': Shape(pear, lambda x, y: _wave(2.1 * np.hypot(x, y)), (.44, .38, .36)),
    'star': Shape(star, dots, (.10, .36, .34)),
}
