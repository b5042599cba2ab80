"""The origin of a stage's files: what each was made from, stored in the file itself (lib/files/origin.py).

    {'settings': {...}, 'classes': [...], 'network': digest, 'inputs': {'image': digest, ...}}

`settings` are those that affect results (see lib/run/options.py), `inputs` are the file's own. A file is up to date if
and only if its origin equals that of the file that would be made now.
"""
import argparse
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from lib.files.dataspec import DatasetSpec, Sample, and_more
from lib.files.fileio import CannotWrite, replacing
from lib.files.origin import origin_text, read_origin
from lib.run.options import settings

NEW_OR_BOTH = 'use --fresh to regenerate {}, or --run NAME to keep both'
OWN = 'inputs'
LENGTH = 16             # hexadecimal digits that are kept
RECENT = 2.0            # seconds within which a file can change without a new modification time
MOST = 1_000_000        # files that are cached
THREADS = 4


class Digests:
    """Digests of files, cached in a file that may be deleted at any time.

    Paths are not cached, so moved folders cost nothing. A file changed in the last two seconds is read each time.

    Args:
        memory: the cache file; None for none.
    """

    def __init__(self, memory: Path | None = None):
        self.memory, self.known, self.new = memory, {}, False
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(memory.read_text()) if memory else {}
            if isinstance(content, dict) and all(isinstance(value, str) for value in content.values()):
                self.known = content

    def __call__(self, path: str | Path) -> str:
        """The digest of a file's bytes; '' for one that does not exist."""
        return self.of([path])[0]

    def of(self, paths: Iterable[str | Path]) -> list[str]:
        """The digests of some files, in order."""
        paths = list(paths)
        keys = [_key(path) for path in paths]
        digests = [self.known.get(key, '') for key in keys]
        unread = [index for index, key in enumerate(keys) if key is not None and not digests[index]]
        with ThreadPoolExecutor(THREADS) as pool:       # hashing lets other threads run
            read = pool.map(_read, [paths[index] for index in unread])
            for index, digest in zip(unread, tqdm(read, 'reading inputs', len(unread), delay=10, leave=False)):
                digests[index] = digest
                if keys[index]:
                    self.known[keys[index]], self.new = digest, True
        return digests

    def save(self) -> None:
        """Cache the digests for later commands, if that is possible."""
        if self.memory and self.new:
            with contextlib.suppress(CannotWrite), replacing(self.memory) as temporary:
                temporary.write_text(json.dumps(dict(list(self.known.items())[-MOST:]), separators=(',', ':')))
            self.new = False


def text_digest(parts: Sequence) -> str:
    """Digest of some JSON values, in order."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:LENGTH]


def _key(path: str | Path) -> str | None:
    """A key for the current state of a file; '' if the file could change without changing the key, None if it does not
    exist."""
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    settled = time.time() - max(stat.st_mtime, stat.st_ctime) > RECENT
    return f'{stat.st_dev}-{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}' if settled else ''


def _read(path: str | Path) -> str:
    with open(path, 'rb', 0) as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()[:LENGTH]


def stage_origin(args: argparse.Namespace, spec: DatasetSpec, kind: str | None = None, **digests: str) -> dict:
    """The part of an origin that all files of a stage share.

    Args:
        args: the script's settings, with --amp resolved.
        kind: of output, where the stage makes several.
        digests: of inputs that all files share, such as the network.
    """
    return json.loads(origin_text({'settings': {**spec.reading, **settings(args, kind)},
                                   'classes': list(spec.classes), **digests}))


def training_origin(args: argparse.Namespace, spec: DatasetSpec, digests: Digests, samples: Sequence[Sample],
                    image_labels=None, **inputs: str | Sequence[Path]) -> dict:
    """The origin of a trained network.

    Args:
        digests: of files; saved here.
        samples: that it is trained on, in order.
        image_labels: [len(samples), K], if training uses them.
        inputs: further ones by name: files, or a digest.
    """
    names = [sample.name for sample in samples]
    own = {'images': text_digest([*zip(names, digests.of(sample.image for sample in samples))])}
    if image_labels is not None:
        own['image_labels'] = text_digest([*zip(names, (row.tolist() for row in image_labels))])
    for key, value in inputs.items():
        own[key] = value if isinstance(value, str) else text_digest(digests.of(value))
    digests.save()
    return {**stage_origin(args, spec), OWN: own}


def difference(then: Mapping, now: Mapping) -> str:
    """The differences between two origins, in words; '' if there are none."""
    words = [f'--{key.replace("_", "-")} was {_short(old)}, is {_short(new)}'
             for key, old, new in _changes(then.get('settings', {}), now.get('settings', {}))]
    if then.get('classes') != now.get('classes'):
        words.append(f'the classes were {_short(then.get("classes"))}, are {_short(now.get("classes"))}')
    rest = [{**{key: value for key, value in origin.items() if key not in ('settings', 'classes', OWN)},
             **origin.get(OWN, {})} for origin in (then, now)]
    return ', '.join(words + [f'other {key.replace("_", " ")}' for key, _, _ in _changes(*rest)])


def check_labels(paths: Sequence[Path], spec: DatasetSpec, images: Sequence[str] = (), remedy: str = '') -> None:
    """Make sure that files of an earlier stage were made for these classes and from the images as they are now.

    Files without an origin, such as those of other code, are accepted.

    Args:
        paths: existing label files.
        images: digests of their images, in order; if empty, they are not compared.
        remedy: how to regenerate the files, for the ValueError.
    """
    stale, classes = [], list(spec.classes)
    for number, path in enumerate(paths):
        origin = read_origin(path) or {}
        if origin.get('classes', classes) != classes:
            raise ValueError(f'{path} was made for the classes {_short(origin["classes"])}, {spec.name} has '
                             f'{_short(classes)}; {remedy} --fresh')
        if images and origin.get(OWN, {}).get('image', images[number]) != images[number]:
            stale.append(path)
    if stale:
        raise ValueError(f'{stale[0]}{and_more(stale)} was made from another version of its image; {remedy}')


def _changes(old: Mapping, new: Mapping) -> list[tuple]:
    return [(key, old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)]


def _short(value) -> str:
    """A value in a message; a long list is cut."""
    if isinstance(value, list):
        return ' '.join(map(str, value[:10])) + (f' and {len(value) - 10} more' if len(value) > 10 else '')
    return str(value)
