"""Reading images and masks, and writing label PNGs in the VOC palette.

EXIF rotation is applied on request only: the masks of the public data sets have the orientation in which their images
are stored.
"""
import functools
import struct
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import compress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from lib.files.fileio import replacing
from tool.imutils import IGNORED, resize_bicubic, resize_nearest, scaled_size

# Of files in a folder that are read as images, in training and prediction.
IMAGE_SUFFIXES = ('.bmp', '.gif', '.heic', '.heif', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg', '.pgm', '.png', '.ppm',
                  '.tif', '.tiff', '.webp')
EXIF_ORIENTATION, EXIF_QUARTER_TURNS = 0x0112, (5, 6, 7, 8)
END_MARKS = {**dict.fromkeys(('.jfif', '.jpe', '.jpeg', '.jpg'), b'\xff\xd9'), '.png': b'IEND'}
TIFF_LARGEST = 281          # tag: the largest value that a sample can have
# Possible maxima of samples with more than 8 bits: 8, 12 or 16 bits are used; floats are from 0 to 1.
DEPTHS = (255, 4095, 65535)
GREY_STEPS = {'L;2': 85, 'L;4': 17}     # PIL stretches grey of 2 and 4 bits to 8
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


class Corrupt(ValueError):
    """An existing image or mask cannot be decoded; names the file."""


def read_image(path: Path, upright: bool = False, max_side: int | None = None) -> np.ndarray:
    """Read an image as uint8 [H, W, 3] in RGB; transparency is dropped (no background is invented for it).

    With `upright` it is rotated as its EXIF tag says, as viewers do; if it is larger, it is reduced to a long side of
    max_side pixels. Raises FileNotFoundError, or Corrupt if it cannot be decoded to its end.
    """
    with _opened(path, 'image') as file, warnings.catch_warnings():
        warnings.simplefilter('ignore')                     # PIL's remarks on palettes with transparency
        size = reduced_size(_size(file, upright), max_side)
        if max_side and max(file.size) > max_side:
            file.draft(None, (2 * max_side, 2 * max_side))  # a JPEG need not be decoded at its full size
        raw = _raw_mode(file)
        file.load()
        turned = ImageOps.exif_transpose(file) if upright else file
        if turned.mode.startswith('I') or turned.mode == 'F':
            image = _reduce_depth(np.asarray(turned), getattr(file, 'tag_v2', {}).get(TIFF_LARGEST))
        else:
            image = np.array(turned.convert('RGB'))
            if ';16' in raw and image.max(initial=0) <= DEPTHS[1] >> 8:
                raise ValueError('16-bit colour with at most 12 bits used: save it with 8 bits per channel')
    return resize_bicubic(image, *size)


def without_remedy(error: Exception) -> str:
    """What is wrong with an image, in the words of an error of this module."""
    return str(error).partition('; restore')[0]


def read_size(path: Path, upright: bool = False, max_side: int | None = None) -> tuple[int, int]:
    """(height, width) that read_image would give, from the file's header alone; the same errors."""
    with _opened(path, 'image') as file:
        return reduced_size(_size(file, upright), max_side)


def read_orientation(path: Path) -> int:
    """The EXIF orientation of an image, 1 if it has none or is not rotated; the same errors as read_image."""
    with _opened(path, 'image') as file:
        return file.getexif().get(EXIF_ORIENTATION, 1)


def reduced_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """(height, width) reduced to a long side of max_side, if it is larger."""
    return scaled_size(*size, max_side / max(size)) if max_side and max(size) > max_side else size


def check_intact(path: Path) -> Path:
    """The path of an image whose header and end are readable (a quick check); the same errors as read_image.

    Formats without an end marker are decoded completely, and so is a JPEG or PNG that does not end with it, since some
    have bytes after their end.
    """
    read_size(path)
    mark = END_MARKS.get(path.suffix.lower())
    with open(path, 'rb') as file:
        file.seek(max(0, path.stat().st_size - 32))
        if not mark or mark not in file.read():
            read_image(path)
    return path


@functools.cache
def corrupt_images(paths: tuple[Path, ...]) -> frozenset[Path]:
    """Existing images that cannot be decoded, tried at a small size: 2 ms per JPEG; ValueError if none can."""
    def is_corrupt(path: Path) -> bool:
        try:
            read_image(path, max_side=16)
        except Corrupt:
            return True
        except FileNotFoundError:
            pass
        return False

    with ThreadPoolExecutor(4) as pool:
        found = [*tqdm(pool.map(is_corrupt, paths), 'decoding images', len(paths), delay=10, leave=False)]
    if found and all(found):
        raise ValueError(f'all {len(paths)} images are corrupt, {paths[0]} the first; restore them')
    return frozenset(compress(paths, found))


def read_mask(path: Path, num_classes: int, max_side: int | None = None) -> np.ndarray:
    """Read a label PNG (palette or grey, of 1 to 16 bits) as uint8 [H, W]: 0 background, 1 .. num_classes - 1, 255
    ignored. Reduced as read_image does, without mixing labels. Raises FileNotFoundError, Corrupt or ValueError.
    """
    with _opened(path, 'mask') as file:
        mode, step = file.mode, GREY_STEPS.get(_raw_mode(file), 1)
        mask = np.array(file)
        palette = file.getpalette('RGB') if mode == 'P' else None
    if mode not in ('P', 'L', '1', 'I', 'I;16', 'I;16B'):
        raise ValueError(f'{path} is an image of mode {mode}; a mask is a palette or grey PNG whose values are '
                         'class indices')
    mask = mask // step if step > 1 else mask
    largest = int(mask[mask != IGNORED].max(initial=0))
    if largest >= num_classes:
        raise ValueError(f'{path} holds the value {largest}; expected 0 to {num_classes - 1} or {IGNORED}: '
                         'check the class list, or whether the mask belongs to another data set')
    mask = mask.astype(np.uint8)
    if palette:     # image optimisers reorder it
        values = {tuple(voc_palette()[value]): value for value in (*range(num_classes), IGNORED)}
        used = np.flatnonzero(np.bincount(mask.ravel())).tolist()
        meant = {value: values.get(tuple(palette[3 * value:3 * value + 3])) for value in used}
        moved = [value for value in meant if meant[value] != value]
        if moved and None not in meant.values():
            raise ValueError(f'{path} has its palette in another order (value {moved[0]} has the colour of value '
                             f'{meant[moved[0]]}), as image optimisers leave it; save it with the VOC palette, or in '
                             'grey')
    return resize_nearest(mask, *reduced_size(mask.shape, max_side))


def write_label_png(path: Path, mask: np.ndarray, origin: str = '') -> None:
    """Write labels uint8 [H, W] as a palette PNG in VOC colours, with its origin (see lib/files/origin.py) if given."""
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    image.putpalette(voc_palette().tobytes())
    info = PngInfo()
    if origin:
        info.add_text('origin', origin)
    with replacing(path) as temporary:
        image.save(temporary, format='PNG', pnginfo=info)


@functools.cache
def voc_palette() -> np.ndarray:
    """The VOC palette uint8 [256, 3]: an index's bits, lowest first, go to red, green and blue, top bit first."""
    index, channel = np.arange(256)[:, None], np.arange(3)
    return sum((index >> (3 * level + channel) & 1) << (7 - level) for level in range(8)).astype(np.uint8)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """An image opened with PIL; whatever PIL raises in the block becomes an error with file and remedy."""
    try:
        if Path(path).suffix.lower() in ('.heic', '.heif'):
            try:
                import pillow_heif
            except ImportError:
                raise OSError('HEIC needs pillow-heif: pip install -r requirements-own.txt') from None
            pillow_heif.register_heif_opener()
        with Image.open(path) as file:
            yield file
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} does not exist; restore the {kind}, or fix the list that names it') from None
    except Image.DecompressionBombError as error:
        raise ValueError(f'{path} has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels, the limit; '
                         'downscale it, or cut it into tiles') from error
    except UNREADABLE as error:
        if getattr(error, 'errno', None):       # an error of the system, not of the content
            raise OSError(f'{path} cannot be read ({error.strerror}); check the permissions, the disk and the memory') \
                from error
        reason = (str(error) or type(error).__name__).splitlines()[0].split(str(path))[0].strip(" '")
        raise Corrupt(f'{path} is not a readable {kind} ({reason}); restore it, remove it from the list, or skip it '
                      'with --on-corrupt skip') from error


def _size(file: Image.Image, upright: bool) -> tuple[int, int]:
    """(height, width) of an opened image, rotated if asked for."""
    turned = upright and file.getexif().get(EXIF_ORIENTATION) in EXIF_QUARTER_TURNS
    return (file.width, file.height) if turned else (file.height, file.width)


def _reduce_depth(values: np.ndarray, largest: tuple | int | None) -> np.ndarray:
    """Grey of more than 8 bits (PIL's modes I and F) to 8-bit RGB.

    White is the maximum declared in the file; otherwise 1 for floats up to 1, else the first maximum of 8, 12 or 16
    bits that fits all values, as cameras and microscopes store 12 bits in 16.
    """
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == 'f' and high <= 1.01:
        white = 1
    else:
        fitting = [depth for depth in DEPTHS if high <= depth]
        white = np.ravel(largest)[0] if largest and np.ravel(largest)[0] >= high else next(iter(fitting), 0)
    if not (0 <= low and white):
        raise ValueError(f'values from {low:g} to {high:g}, expected 0 to 1, or 8, 12 or 16 bits')
    return np.repeat((values * (255 / float(white)) + 0.5).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _raw_mode(file: Image.Image) -> str:
    """How PIL unpacks the samples of an opened file that is not loaded yet: 'L;4' is grey of 4 bits."""
    arguments = file.tile[0][3] if file.tile else ''
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
