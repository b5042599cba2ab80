"""Instances files of COCO, hundreds of megabytes each, read without ever being in memory as a whole."""
import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lib.files.jsonfile import misfit
from lib.process.progress import bar_style

PIECE = 1 << 22             # bytes read at a time
LARGEST_ITEM = 1 << 27      # a larger annotation means that the file is corrupt
LARGEST_SIDE = 1 << 16      # pixels
SHAPES = {'images': {'id': int, 'height': int, 'width': int}, 'annotations': {'image_id': int},
          'categories': {'id': int, 'name': str}}
SPACE = re.compile(r'[\s,]*')


class Instances(NamedTuple):
    """What an instances file holds; the annotations themselves stay in the file.

    path: the file.
    ids: image ids int64 [n], in file order.
    sizes: height and width of each image, int32 [n, 2].
    categories: id -> name.
    owners: image id of each annotation, int64 [m], sorted; annotations of an image are in file order.
    spans: first and end byte of each of them, int64 [m, 2].
    """

    path: Path
    ids: np.ndarray
    sizes: np.ndarray
    categories: dict[int, str]
    owners: np.ndarray
    spans: np.ndarray

    def spans_of(self, image_id: int) -> list[list[int]]:
        """Places of an image's annotations, in file order."""
        first, end = np.searchsorted(self.owners, [image_id, image_id + 1])
        return self.spans[first:end].tolist()


def index_instances(path: Path) -> Instances:
    """Read through an instances file once and note where everything is.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not valid JSON, ends early, lacks a part, or annotates an image that it does not list.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is not there; unpack the annotations, or run ./config_coco.sh')
    images, annotations, categories = array('q'), array('q'), {}      # rows of three numbers, 8 bytes each
    with tqdm(total=path.stat().st_size, unit_scale=True, **bar_style(path.name, 'B')) as bar:
        for key, first, end, item in top_level_items(path):
            bar.update(end - bar.n)
            if problem := key in SHAPES and misfit(item, SHAPES[key]):
                raise ValueError(f'{path} is no instances file: the entry of {key!r} at byte {first}: {problem}; '
                                 'unpack it again')
            try:
                if key == 'images':
                    images.extend((item['id'], item['height'], item['width']))
                elif key == 'annotations':
                    annotations.extend((item['image_id'], first, end))
                elif key == 'categories':
                    categories[item['id']] = item['name']
            except OverflowError:
                raise ValueError(f'{path} is no instances file: a number at byte {first} is too large; unpack it '
                                 'again') from None
    if not images or not categories:
        raise ValueError(f'{path} is no instances file: it lists {len(images) // 3} images and {len(categories)} '
                         'categories; unpack it again')
    if not all(0 < side <= LARGEST_SIDE for side in (*images[1::3], *images[2::3])):
        raise ValueError(f'{path} is no instances file: images have 1 to {LARGEST_SIDE} rows and columns; '
                         'unpack it again')
    images, annotations = (np.array(numbers, np.int64).reshape(-1, 3) for numbers in (images, annotations))
    order = np.argsort(annotations[:, 0], kind='stable')
    strange = np.setdiff1d(annotations[:, 0], images[:, 0])
    if len(strange):
        raise ValueError(f'{path} annotates image {strange[0]}, which it does not list; unpack it again')
    return Instances(path, images[:, 0], images[:, 1:].astype(np.int32), categories, annotations[order, 0],
                     annotations[order, 1:])


def read_annotations(path: Path, spans: list[list[int]]) -> list[dict]:
    """The annotations at some places of an instances file."""
    with open(path, 'rb') as file:
        annotations = []
        for first, end in spans:
            file.seek(first)
            try:
                annotations.append(json.loads(file.read(end - first)))
            except ValueError as error:
                raise ValueError(f'{path} is not valid JSON near byte {first} ({error}); unpack it again') from None
    return annotations


def top_level_items(path: Path) -> Iterator[tuple[str, int, int, object]]:
    """Go through the arrays of a JSON object, one entry at a time.

    Yields:
        (key of the array, first byte, end byte, entry); values that are no arrays are passed over.

    Raises:
        ValueError: if it is no such file or ends early, naming the byte.
    """
    with open(path, 'rb') as file:
        text = _Text(file, path)
        text.expect('{')
        while not text.skip('}'):
            _, _, key = text.value()
            if not isinstance(key, str):
                raise text._error('has a key that is no text')
            text.expect(':')
            if not text.skip('['):
                text.value()
                continue
            while not text.skip(']'):
                yield key, *text.value()


class _Text:
    """A window on a file that moves on. Latin-1 makes a character of every byte, so that places are places of bytes."""

    def __init__(self, file, path: Path):
        self.file, self.path = file, path
        self.window, self.start, self.place = '', 0, 0      # start: byte of the window's beginning
        self.decode = json.JSONDecoder().raw_decode

    def skip(self, mark: str) -> bool:
        """Whether `mark` comes next, spaces and commas apart; if so it is passed."""
        while True:
            self.place = SPACE.match(self.window, self.place).end()
            if self.place < len(self.window):
                break
            if not self._read_on():
                raise self._error('ends early')
        found = self.window[self.place] == mark
        self.place += found
        return found

    def expect(self, mark: str) -> None:
        if not self.skip(mark):
            raise self._error(f'has {self.window[self.place]!r} where {mark!r} is expected')

    def value(self) -> tuple[int, int, object]:
        """(first byte, end byte, value) of the next value."""
        self.skip('')
        while True:
            try:
                value, end = self.decode(self.window, self.place)
                if end < len(self.window):                  # else a number may go on
                    break
            except RecursionError:
                raise self._error('is nested too deeply') from None
            except ValueError as error:
                if len(self.window) - self.place > LARGEST_ITEM:
                    raise self._error(f'is not valid JSON ({error})') from None
            if not self._read_on():
                raise self._error('is not valid JSON or ends early')
        first, self.place = self.place, end
        return self.start + first, self.start + end, value

    def _read_on(self) -> bool:
        piece = self.file.read(max(PIECE, len(self.window) - self.place)).decode('latin-1')
        self.start += self.place
        self.window, self.place = self.window[self.place:] + piece, 0
        return bool(piece)

    def _error(self, problem: str) -> ValueError:
        return ValueError(f'{self.path} {problem} near byte {self.start + self.place}; unpack it again')
