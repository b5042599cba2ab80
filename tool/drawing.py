"""Visualisations: label maps and heat maps over images, images side by side, legends."""
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = (40, 40, 40)
TEXT_SIZE = 14


def blend(image: np.ndarray, mask: np.ndarray, palette: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Labels uint8 [H, W] over their image uint8 [H, W, 3], in colours uint8 [256, 3]; background shows the image."""
    mixed = image * (1 - opacity) + palette[mask] * opacity
    return np.where((mask == 0)[..., None], image, mixed).astype(np.uint8)


def contoured(image: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Labels over their image, lighter than with blend(), with contours whose width suits the image's size."""
    sheet = blend(image, mask, palette, opacity=0.4)
    thick = max(1, round(max(mask.shape) / 400))
    for value in np.unique(mask[mask > 0]).tolist():
        contours, _ = cv2.findContours((mask == value).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for colour, width in (((255, 255, 255), 3 * thick), (palette[value].tolist(), thick)):
            cv2.drawContours(sheet, contours, -1, colour, width)
    return sheet


def heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of [H, W] as a heat map over the image uint8 [H, W, 3]."""
    colours = cv2.applyColorMap((values * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return (image * 0.4 + colours * 0.6).astype(np.uint8)


def magnified(image: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge [H, W, ...]: every pixel becomes a square of factor x factor pixels."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def legend(colours: Mapping[str, Sequence[int]], width: int) -> np.ndarray:
    """Names next to squares of their colours, in as many lines as this width needs: uint8 [h, width, 3].

    The font size grows with the width, so that the text is legible when a large image is shown small.
    """
    size = max(TEXT_SIZE, width // 50)
    font, line = ImageFont.load_default(size), round(1.6 * size)
    sheet = Image.new('RGB', (width, line * max(1, len(colours))), 'white')
    pen = ImageDraw.Draw(sheet)
    left = top = 0
    for name, colour in colours.items():
        needed = round(2.5 * size + pen.textlength(name, font))
        if left and left + needed > width:
            left, top = 0, top + line
        pen.rectangle((left, top + 4, left + size, top + 4 + size), tuple(int(part) for part in colour), INK)
        pen.text((left + round(1.4 * size), top + 3), name, INK, font)
        left += needed
    return np.asarray(sheet)[:top + line]


def side_by_side(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Images uint8 [H, W, 3] of equal height in a row, with white gaps."""
    white = np.full((len(images[0]), gap, 3), 255, np.uint8)
    return np.concatenate([part for image in images for part in (white, image)][1:], axis=1)


def stacked(rows: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Images uint8 [H, W, 3] below one another, with white gaps; narrower ones are padded at the right."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((gap, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)[gap:]
