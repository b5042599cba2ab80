"""A data set for the rest of the code: class names, paths, split lists and image-level labels.

docs/file_formats.md describes the lists and labels.txt. The name of an image is its path below the folder of the
templates, without the ending: photos/x/a.jpg of 'photos/{}.jpg' is 'x/a', and its outputs are in folders x, too.
"""
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from lib.files.imageio import corrupt_images

MOST_CLASSES = 254      # mask values 1 to 254


class Sample(NamedTuple):
    """One line of a list; mask is None if the data set has none for this image."""

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class DatasetSpec:
    """A data set, described by data alone."""

    name: str
    classes: tuple[str, ...]                # foreground, in label order: mask value 1 is classes[0]
    root: Path
    lists: Path
    image_template: str                     # path below root with '{}' for the name
    mask_templates: tuple[str, ...] = ()    # the same; the first mask that exists counts
    train_split: str = 'train_aug'
    val_split: str = 'val'
    score_split: str = 'train'              # training images with exact masks
    preset: str = 'voc12'                   # the row of lib/run/settings.py that applies
    prepare: str = ''                       # command that writes the lists, for messages
    flag: str = ''                          # value of --dataset, for messages
    upright: bool = False                   # rotate images as their EXIF tag says
    max_side: int | None = None             # larger images and masks are reduced to this long side in pixels when read
    on_corrupt: str = 'error'               # or 'skip': skip images that cannot be decoded, and masks in scores

    def __post_init__(self):
        check_classes(self.classes, self.flag or self.name)

    @property
    def num_fg(self) -> int:
        """Number of foreground classes, K."""
        return len(self.classes)

    @property
    def num_classes(self) -> int:
        """Number of classes with background, C = K + 1."""
        return len(self.classes) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by mask value: background first."""
        return ('background', *self.classes)

    @property
    def reading(self) -> dict:
        """How its images are read: keyword arguments of lib.files.imageio.read_image."""
        return {'upright': self.upright, 'max_side': self.max_side}

    def scaled(self, pixels: int) -> int:
        """A length published for VOC (long side 500 pixels), scaled to this set's images: a multiple of 8."""
        return max(8, round(pixels * (self.max_side or 500) / 500 / 8) * 8)

    @property
    def enlargement(self) -> float:
        """Factor, at least 1, that brings this set's images to the size of VOC's."""
        return max(1.0, 500 / (self.max_side or 500))

    def label_split(self, split: str) -> str:
        """The split whose label files cover `split`: those of the training split include score_split."""
        return self.train_split if split == self.score_split else split

    def samples(self, split: str, limit: int | None = None) -> list[Sample]:
        """The first samples of a split in list order, or all; no image is opened, unless corrupt ones are skipped."""
        path = self.lists / f'{split}.txt'
        others = ', '.join(sorted(other.stem for other in self.lists.glob('*.txt') if other.stem != 'labels')) or 'none'
        samples = [self._sample(line, place)
                   for place, line in _lines(path, f'{self._remedy}; existing lists: {others}')]
        if not samples:
            raise ValueError(f'{path} names no image{self._remedy}')
        name, times = Counter(sample.name for sample in samples).most_common(1)[0]
        if times > 1:
            raise ValueError(f'{path} names {name} {times} times; list every image once')
        samples = samples[:limit]
        if self.on_corrupt == 'skip':
            corrupt = corrupt_images(tuple(sample.image for sample in samples))
            samples = [sample for sample in samples if sample.image not in corrupt]
        return samples

    def left_out(self, split: str, limit: int | None = None) -> list[str]:
        """Names of the corrupt images that samples() skips."""
        kept = {sample.name for sample in self.samples(split, limit)}
        listed = replace(self, on_corrupt='error').samples(split, limit)
        return [sample.name for sample in listed if sample.name not in kept]

    def image_labels(self, names: Sequence[str]) -> np.ndarray:
        """Image-level labels uint8 [len(names), K], 1 where the class is in the image."""
        path, known = self.lists / 'labels.txt', {}
        index = {name: i for i, name in enumerate(self.classes)}
        for place, line in _lines(path, self._remedy):
            name, *present = line.split('\t')
            if unknown := [word for word in present if word not in index]:
                raise ValueError(f'{place}: unknown class {unknown[0]!r}; {self.name} has {", ".join(self.classes)}')
            known[name] = [index[word] for word in present]
        if absent := [name for name in names if name not in known]:
            raise ValueError(f'{path} has no line for {absent[0]}{and_more(absent)}{self._remedy}')
        labels = np.zeros((len(names), self.num_fg), np.uint8)
        for row, name in enumerate(names):
            labels[row, known[name]] = 1
        return labels

    def check_image_labels(self, split: str, allow_empty: bool = False) -> str:
        """Make sure that every class occurs in the image-level labels of a split, or with allow_empty at least one.

        Returns a warning about classes that every image shows, '' if there are none; raises ValueError.
        """
        frequency = self.image_labels([sample.name for sample in self.samples(split)]).mean(0)
        empty, full = ([name for name, value in zip(self.classes, frequency) if value == end] for end in (0, 1))
        if empty and (not allow_empty or len(empty) == self.num_fg):
            remedy = '' if allow_empty else ', or accept it with --empty-classes allow'
            raise ValueError(f'no image of {self.name} {split} shows {", ".join(empty)}: such a class cannot be '
                             f'learned; correct labels.txt{remedy}')
        return (f'warning: every image of {self.name} {split} shows {", ".join(full)}: image-level labels cannot tell '
                'where such a class is; add images without it') if full else ''

    def check(self, split: str, need_masks: bool = False) -> None:
        """Make sure that every image of a split, and with need_masks every mask, exists; else FileNotFoundError."""
        samples = self.samples(split)
        check_files([sample.image for sample in samples], f'{split} lists images that do not exist',
                    'check --data-root, or correct the list')
        if need_masks:
            template = (self.mask_templates or ('{}.png (the data set names no folder of masks)',))[0]
            check_files([sample.mask or self.root / template.format(sample.name) for sample in samples],
                        f'{split} has images without a mask', 'add the masks, or choose a split that has them')

    def _sample(self, line: str, place: str) -> Sample:
        if not line.startswith('/'):
            if '/' in line or '\\' in line or line.startswith('.'):
                raise ValueError(f"{place}: {line!r} is neither a bare name ('a') nor paths from the data set's root "
                                 "('/images/a.jpg /masks/a.png')")
            return Sample(line, self.root / self.image_template.format(line), self._find_mask(line))
        image, *masks = (self.root / word.lstrip('/') for word in re.split(r'\s+(?=/)', line))
        if len(masks) > 1 or '..' in re.split(r'[/\s]', line):
            raise ValueError(f'{place}: {line!r} must be the path of an image, optionally followed by that of its '
                             f'mask, both inside {self.root}')
        folder = self.root / PurePosixPath(self.image_template).parent
        name = (image.relative_to(folder).with_suffix('').as_posix() if image.is_relative_to(folder) else image.stem)
        return Sample(name, image, masks[0] if masks else self._find_mask(name))

    def _find_mask(self, name: str) -> Path | None:
        paths = [self.root / template.format(name) for template in self.mask_templates]
        return next((path for path in paths if path.exists()), None)

    @property
    def _remedy(self) -> str:
        return f'; make it with {self.prepare}' if self.prepare else '; see --lists'


def check_classes(classes: Sequence[str], place: str | Path) -> None:
    """Raise ValueError if there are more foreground classes than an 8-bit label PNG can hold."""
    if len(classes) > MOST_CLASSES:
        raise ValueError(f'{place} has {len(classes)} classes; at most {MOST_CLASSES} fit into 8-bit label PNGs, where '
                         '0 is background and 255 ignored: leave some out, or merge them')


def check_files(paths: Iterable[Path], problem: str, remedy: str) -> None:
    """Make sure that files exist; else FileNotFoundError '<problem>: <first path> (and n more); <remedy>'."""
    if missing := [path for path in paths if not path.is_file()]:
        raise FileNotFoundError(f'{problem}: {missing[0]}{and_more(missing)}; {remedy}')


def list_sha256(names: Iterable[str]) -> str:
    """SHA-256 of names, one per line, each with a newline."""
    return hashlib.sha256(''.join(f'{name}\n' for name in names).encode()).hexdigest()


def and_more(items: Sequence) -> str:
    """' (and n more)' after the first of several items; '' after the only one."""
    return f' (and {len(items) - 1} more)' if len(items) > 1 else ''


def shortened(names: Sequence[str], count: int = 3) -> str:
    """The first names, and how many more there are."""
    return f'{", ".join(names[:count])}{and_more(names[count - 1:])}'


def _lines(path: Path, remedy: str) -> list[tuple[str, str]]:
    """The non-empty lines of a text file with their places, 'file:line'."""
    try:
        text = path.read_text(encoding='utf-8-sig')
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} does not exist{remedy}') from None
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not a text file ({error.reason}){remedy}') from None
    return [(f'{path}:{number}', line.strip(' \r')) for number, line in enumerate(text.split('\n'), 1) if line.strip()]
