"""Reading images and masks, and writing label PNGs in the VOC palette.

EXIF rotation is applied on request only: the masks of the public data sets lie in the orientation in which their
images are stored.
"""
import functools
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lib.files.fileio import replacing
from lib.files.origin import png_info
from tool.imutils import resize_bicubic, resize_nearest, scaled_size

IGNORED = 255
EXIF_ORIENTATION, EXIF_QUARTER_TURNS = 0x0112, (5, 6, 7, 8)
END_MARKS = {'.jpg': b'\xff\xd9', '.jpeg': b'\xff\xd9', '.png': b'IEND'}
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


class Corrupt(ValueError):
    """An existing image or mask cannot be decoded; names the file."""


def read_image(path: Path, upright: bool = False, max_side: int | None = None) -> np.ndarray:
    """Read an image as uint8 [H, W, 3] in RGB; transparency is dropped (no background is invented for it).

    Args:
        path: the file.
        upright: rotate it as its EXIF tag says, as viewers do.
        max_side: reduce it to this long side in pixels if it is larger.

    Raises:
        FileNotFoundError: if the file is missing.
        Corrupt: if it cannot be decoded to its end, naming the file.
    """
    with _opened(path, 'image') as file, warnings.catch_warnings():
        warnings.simplefilter('ignore')                     # PIL's remarks on palettes with transparency
        size = reduced_size(_size(file, upright), max_side)
        if max_side and max(file.size) > max_side:
            file.draft(None, (2 * max_side, 2 * max_side))  # a JPEG need not be decoded at its full size
        file.load()
        turned = ImageOps.exif_transpose(file) if upright else file
        if turned.mode.startswith('I') or turned.mode == 'F':
            image = _reduce_depth(np.asarray(turned))
        else:
            image = np.array(turned.convert('RGB'))
    return resize_bicubic(image, *size)


def read_size(path: Path, upright: bool = False, max_side: int | None = None) -> tuple[int, int]:
    """(height, width) that read_image would give, from the file's header alone; the same errors."""
    with _opened(path, 'image') as file:
        return reduced_size(_size(file, upright), max_side)


def reduced_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """(height, width) reduced to a long side of max_side, if it is larger."""
    return scaled_size(*size, max_side / max(size)) if max_side and max(size) > max_side else size


def check_intact(path: Path) -> None:
    """Make sure, cheaply, that an image has a readable header and its end; the same errors as read_image.

    Only a JPEG or PNG that does not end as it should is decoded in full, since some have bytes behind their end.
    """
    read_size(path)
    with open(path, 'rb') as file:
        file.seek(max(0, path.stat().st_size - 32))
        if END_MARKS.get(path.suffix.lower(), b'') not in file.read():
            read_image(path)


def read_mask(path: Path, num_classes: int, max_side: int | None = None) -> np.ndarray:
    """Read a label PNG (palette or grey) as uint8 [H, W]: 0 background, 1 .. num_classes - 1, 255 ignored.

    Reduced as read_image does, without mixing labels.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is corrupt, in colour, or holds a value that no class has.
    """
    with _opened(path, 'mask') as file:
        mode, mask = file.mode, np.array(file)
    if mode not in ('P', 'L'):
        raise ValueError(f'{path} is an image of mode {mode}; a mask is an 8-bit palette or grey PNG whose values are '
                         'class indices')
    largest = int(mask[mask != IGNORED].max(initial=0))
    if largest >= num_classes:
        raise ValueError(f'{path} holds the value {largest}; expected 0 to {num_classes - 1} or {IGNORED}: '
                         'check the class list, or whether the mask belongs to another data set')
    return resize_nearest(mask, *reduced_size(mask.shape, max_side))


def write_label_png(path: Path, mask: np.ndarray, origin: str = '') -> None:
    """Write labels uint8 [H, W] as a palette PNG in VOC colours, with its origin (see lib/files/origin.py) if given."""
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    image.putpalette(voc_palette().tobytes())
    with replacing(path) as temporary:
        image.save(temporary, format='PNG', pnginfo=png_info(origin) if origin else None)


@functools.cache
def voc_palette() -> np.ndarray:
    """The VOC palette uint8 [256, 3]: an index's bits, lowest first, go to red, green and blue, top bit first."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for level in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * level + channel) & 1) << (7 - level)).astype(np.uint8)
    return palette


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """An image opened with PIL; whatever PIL raises in the block becomes an error with file and remedy."""
    try:
        with Image.open(path) as file:
            yield file
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} does not exist; restore the {kind}, or fix the list that names it') from None
    except Image.DecompressionBombError as error:
        raise ValueError(f'{path} has more than the {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels that are read; '
                         'shrink it, or cut it into tiles') from error
    except UNREADABLE as error:
        if getattr(error, 'errno', None):       # an error of the system, not of the content
            raise OSError(f'{path} cannot be read ({error.strerror}); check the permissions, the disk and the memory') \
                from error
        reason = (str(error) or type(error).__name__).splitlines()[0].split(str(path))[0].strip(" '")
        raise Corrupt(f'{path} is not a readable {kind} ({reason}); restore it, drop it from the list, or leave it out '
                      'with --on-corrupt skip') from error


def _size(file: Image.Image, upright: bool) -> tuple[int, int]:
    """(height, width) of an opened image, rotated if asked for."""
    turned = upright and file.getexif().get(EXIF_ORIENTATION) in EXIF_QUARTER_TURNS
    return (file.width, file.height) if turned else (file.height, file.width)


def _reduce_depth(values: np.ndarray) -> np.ndarray:
    """16-bit grey (PIL's modes I and F) to 8-bit RGB."""
    low, high = float(values.min()), float(values.max())
    if not (0 <= low and high <= 65535):
        raise ValueError(f'values from {low:g} to {high:g}, expected 8 or 16 bits')
    return np.repeat((values / 257 + 0.5).astype(np.uint8)[..., None], 3, axis=2)
