"""The images that a label list names: found below a folder, whatever path the labelling tool wrote, and checked."""
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from lib.files.dataspec import shortened
from lib.files.imageio import IMAGE_SUFFIXES, check_intact, without_remedy


class Row(NamedTuple):
    """One entry of a label list."""

    location: str               # 'file:line', for messages
    image: str                  # as the list names it; from match_images on, the path below the folder of the images
    labels: tuple[str, ...] | None      # None where nobody has labelled the image
    split: str = ''


@dataclass
class Log:
    """Messages: problems with their locations, which end the command, and notes."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem(self, location: str | Path, text: str) -> None:
        self.problems.append((str(location), text))

    def note(self, text: str) -> None:
        self.notes.append(text)


class Folder:
    """The files below a folder, hidden ones left out, found by the names that people and tools give them."""

    def __init__(self, folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES):
        self.folder, self.exact, self.tails = folder, {}, {}
        self.images, self.others = [], []
        for file in sorted(f'{base}/{name}'[len(str(folder)) + 1:] for base, _, names in
                           os.walk(folder, followlinks=True) for name in names if name[0] != '.'):
            (self.images if file.lower().endswith(suffixes) else self.others).append(file)
        for image in self.images:
            for path in (composed(image), without_suffix(composed(image))):
                self.exact.setdefault(path, []).append(image)
                for cut in re.finditer('/', path):
                    self.tails.setdefault(path[cut.end():], []).append(image)

    def find(self, name: str) -> list[str]:
        """Paths below the folder that a name can mean: x/a.jpg is found by it, x/a, /elsewhere/x/a.jpg and a.jpg."""
        for variant in _variants(name):
            parts = [part for part in variant.split('/') if part not in ('', '.')]
            wholes = ('/'.join(parts[start:]) for start in range(len(parts)))
            found = next((self.exact[whole] for whole in wholes if whole in self.exact), None)
            if found := found or self.tails.get('/'.join(parts)):
                return found
        return []


def composed(name: str) -> str:
    """The name in Unicode's form NFC: some systems store an accented letter as two characters, which look the same."""
    return unicodedata.normalize('NFC', name)


def without_suffix(image: str) -> str:
    """A path without its file extension: the name of the image in lists and outputs."""
    return os.path.splitext(image)[0]


def match_images(rows: Sequence[Row], photos: Folder, log: Log) -> list[Row]:
    """One row per labelled image, with the path of its file below the folder and the labels of all its lines."""
    lines, names, matched, named = {}, {}, [], set()
    stems = {without_suffix(os.path.basename(image)).casefold(): image for image in photos.images}
    for row in rows:
        found = photos.find(row.image)
        named.update(found)
        if len(found) == 1:
            lines.setdefault(found[0], []).append(row)
        elif found:
            log.problem(row.location, f'{row.image} can be {shortened(found)}; write the path below {photos.folder}')
        else:
            near = stems.get(without_suffix(os.path.basename(row.image)).casefold())
            log.problem(row.location, f'{row.image or "an empty name"} is not in {photos.folder}'
                        + (f'; did you mean {near}?' if near else ''))
    for image, (first, *others) in lines.items():
        other = names.setdefault(without_suffix(image), first)
        for row in others:
            if (row.split, row.labels is None) != (first.split, first.labels is None):
                log.problem(row.location, f'{row.image} is also in {first.location}, with a different split or without '
                            'labels')
        if other is not first:
            log.problem(first.location, f'{first.image} has the same name as {other.image} ({other.location}); names '
                        'in a folder must differ in more than the ending')
        elif problem := _problem(photos.folder, image):
            log.problem(first.location, problem)
        elif first.labels is not None:
            labels = dict.fromkeys(label for row in (first, *others) for label in row.labels or ())
            matched.append(first._replace(image=image, labels=tuple(labels)))
    if repeated := [image for image in lines if len(lines[image]) > 1]:
        log.note(f'{len(repeated)} images have several lines ({shortened(repeated)}): their labels are merged')
    for files, what in (([image for image in lines if lines[image][0].labels is None], 'images without a label yet'),
                        ([image for image in photos.images if image not in named], 'images that the list lacks'),
                        (photos.others, 'files that are not images')):
        if files:
            log.note(f'skipped in {photos.folder}: {len(files)} {what}: {shortened(files)}')
    return matched


def _problem(folder: Path, image: str) -> str:
    """Why an image cannot be read, or its path not be written to a list; '' if they can."""
    if not image.isprintable() or ' /' in image or image != image.strip():
        return f'{image!r} has a space at the end of a name, or an unprintable character; rename it'
    try:
        check_intact(folder / image)
    except (ValueError, OSError) as error:
        return without_remedy(error)
    return ''


def _variants(name: str) -> Iterator[str]:
    """A name as it is written, and as Label Studio's URLs and uploads hide it."""
    name = composed(name.strip()).replace('\\', '/')
    plain = composed(unquote(re.sub(r'^\w+://[^/]*/|^.*\?d=', '', name)))
    yield from (name, plain, re.sub(r'(^|/)[0-9a-f]{8}-([^/]*)$', r'\1\2', plain))
