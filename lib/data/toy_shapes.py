"""What the classes of the toy set look like: an outline, a texture and the position of the head.

Object coordinates: the body lies in about [-1, 1] along x and is somewhat narrower along y; the head is an ellipse
inside it, towards +x. Textures are functions of coordinates in half head widths, with values in [-1, 1].
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """A class: outline [points, 2] and texture(x, y) -> [-1, 1]; head: centre x, half width, half height."""

    outline: np.ndarray
    texture: Callable[[np.ndarray, np.ndarray], np.ndarray]
    head: tuple[float, float, float]


def arc(angle: np.ndarray, half_width: float | np.ndarray, half_height: float | np.ndarray) -> np.ndarray:
    """Points [n, 2] of an ellipse around 0 at some angles."""
    return np.stack([half_width * np.cos(angle), half_height * np.sin(angle)], 1)


def wheel(points: int, radius: np.ndarray) -> np.ndarray:
    """Points [n, 2] around 0 at even angles."""
    return arc(np.linspace(0, 2 * np.pi, points, endpoint=False), radius, radius)


def wave(phase: np.ndarray) -> np.ndarray:
    """A square wave of period 1 with softened edges."""
    return np.clip(2.5 * np.sin(2 * np.pi * phase), -1, 1)


def checks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A chessboard with softened edges."""
    return wave(.9 * x) * wave(.9 * y)


def cells(x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    """Distance to the nearest of the points in staggered rows, `size` apart."""
    row = np.floor(y / size)
    return np.hypot(y / size - row - .5, (x / size + .5 * row) % 1 - .5)


def dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Small spots, far apart, in staggered rows."""
    return np.clip((.26 - cells(x, y, .85)) * 14, -1, 1)


def rings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rings in staggered rows."""
    return np.clip((.12 - np.abs(cells(x, y, .9) - .32)) * 14, -1, 1)


SHAPES = {
    # A lightning bolt with two kinks and zigzag bands.
    'bolt': Shape(np.array([(-1, .10), (-.30, .42), (-.36, .12), (.28, .46), (1, .22), (.52, -.42), (.02, -.26),
                            (.08, -.52)]),
                  lambda x, y: wave(1.3 * y + .9 * (np.abs(1.25 * x % 1 - .5) * 2)), (.42, .34, .30)),
    # An ellipse with a forked tail and bands across the body.
    'fish': Shape(np.concatenate([arc(np.linspace(-2.75, 2.75, 36), .78, .46) + (.22, 0),
                                  [(-1, .46), (-.78, 0), (-1, -.46)]]),
                  lambda x, y: wave(2 * x), (.58, .34, .30)),
    # A gear wheel of nine teeth with a chessboard.
    'gear': Shape(wheel(36, np.where(np.arange(36) % 4 < 2, .86, .64)),
                  checks, (.00, .40, .36)),
    # A quadrilateral with a long and a short end and bands along the body.
    'kite': Shape(np.array([(-1, 0), (.34, .62), (.95, 0), (.34, -.62)]), lambda x, y: wave(2 * y), (.32, .36, .32)),
    # A thick round end that narrows to a blunt neck, with rings.
    'pear': Shape(np.concatenate([arc(np.linspace(-2.45, 2.45, 32), .58, .58) + (.38, 0),
                                  [(-.45, .26), (-.88, .22), (-1, 0), (-.88, -.22), (-.45, -.26)]]),
                  rings, (.44, .38, .36)),
    # A star of five points with spots.
    'star': Shape(wheel(10, np.where(np.arange(10) % 2 == 0, 1.0, .50)), dots, (.10, .36, .34)),
}
