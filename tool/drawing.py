"""Pictures for people: label maps over photos, panels of several pictures."""
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = (40, 40, 40)
TEXT_SIZE = 14


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


def grey(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of [H, W] as a grey picture uint8 [H, W, 3]; 1 is white."""
    return np.repeat((values.clip(0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def magnified(picture: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel of [H, W, ...] as a square of factor x factor pixels."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def boxed(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture uint8 [H, W, 3], resized with its proportions kept, in the middle of a white box [height, width, 3]."""
    scale = min(height / picture.shape[0], width / picture.shape[1])
    size = max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))
    if size != picture.shape[:2]:
        smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = cv2.resize(picture, size[::-1], interpolation=smooth)
    box = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    box[top:top + size[0], left:left + size[1]] = picture
    return box


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """A picture uint8 [H, W, 3] below its title, which may have several lines; the width stays."""
    font = ImageFont.load_default(TEXT_SIZE)
    lines = title.split('\n')
    strip = Image.new('RGB', (picture.shape[1], (TEXT_SIZE + 4) * len(lines)), 'white')
    pen = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        left = (strip.width - pen.textlength(line, font)) / 2
        pen.text((max(0, left), (TEXT_SIZE + 4) * number), line, INK, font)
    return np.concatenate([np.asarray(strip), picture])


def legend(colours: Mapping[str, Sequence[int]], width: int) -> np.ndarray:
    """Names beside squares of their colours, in as many lines as a picture of this width needs: uint8 [h, width, 3]."""
    font, square, line = ImageFont.load_default(TEXT_SIZE), TEXT_SIZE, TEXT_SIZE + 8
    sheet = Image.new('RGB', (width, line * max(1, len(colours))), 'white')
    pen = ImageDraw.Draw(sheet)
    left = top = 0
    for name, colour in colours.items():
        needed = square + 6 + round(pen.textlength(name, font)) + 16
        if left and left + needed > width:
            left, top = 0, top + line
        pen.rectangle((left, top + 4, left + square, top + 4 + square), tuple(int(part) for part in colour), INK)
        pen.text((left + square + 6, top + 3), name, INK, font)
        left += needed
    return np.asarray(sheet)[:top + line]


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
