"""Digests of files by their content. An unchanged file, by inode, size and both times, is read once only."""
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from lib.files.fileio import CannotWrite, replacing

LENGTH = 16             # hexadecimal digits that are kept
RECENT = 2.0            # seconds in which a file may change again without another time
MOST = 1_000_000        # files that are remembered
THREADS, CHUNK = 4, 16      # a thread takes so many files at a time
SMALL = 1_000_000       # bytes of a file that is read at once


class Digests:
    """Digests of files, remembered in a file that may be lost at any time.

    No path is remembered, so moved folders cost nothing. A file changed within the last two seconds is read each time.

    Args:
        memory: the file in which they are kept between commands; None for this one alone.
    """

    def __init__(self, memory: Path | None = None):
        self.memory, self.known, self.new = memory, {}, False
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(memory.read_text()) if memory else {}
            if isinstance(content, dict) and all(isinstance(value, str) for value in content.values()):
                self.known = content

    def __call__(self, path: str | Path) -> str:
        """The digest of a file's bytes; '' for one that is not there."""
        return self.of([path])[0]

    def of(self, paths: Iterable[str | Path]) -> list[str]:
        """The digests of some files, in order."""
        paths = list(paths)
        marks = [_mark(path) for path in paths]
        unread = {mark: path for mark, path in zip(marks, paths) if mark and mark not in self.known}
        read = dict(zip(unread, _read_all(list(unread.values()))))
        settled = {mark: digest for mark, digest in read.values() if mark}
        self.known |= settled
        self.new |= bool(settled)
        return [read[mark][1] if mark in read else self.known.get(mark, '') for mark in marks]

    def save(self) -> None:
        """Remember the digests for later commands, where that is possible."""
        if self.memory and self.new:
            with contextlib.suppress(CannotWrite), replacing(self.memory) as temporary:
                temporary.write_text(json.dumps(dict(list(self.known.items())[-MOST:]), separators=(',', ':')))
            self.new = False


def _mark(path: str | Path) -> str:
    """What tells this state of a file from others; '' for one that is not there."""
    try:
        return _mark_of(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return ''


def _mark_of(stat: os.stat_result) -> str:
    return f'{stat.st_dev}-{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}'


def _read_all(paths: Sequence[str | Path]) -> list[tuple[str, str]]:
    """What _read gives for some files, in order."""
    if not paths:
        return []
    chunks = [paths[first:first + CHUNK] for first in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:       # hashing lets other threads run
        found = tqdm(pool.map(lambda chunk: [*map(_read, chunk)], chunks), 'reading inputs', len(chunks), delay=10,
                     leave=False)
        return [pair for pairs in found for pair in pairs]


def _read(path: str | Path) -> tuple[str, str]:
    """(mark of a file, '' if it may change again without another one; its digest)."""
    with open(path, 'rb', 0) as file:
        stat = os.fstat(file.fileno())
        settled = time.time() - max(stat.st_mtime, stat.st_ctime) > RECENT
        small = stat.st_size <= SMALL
        digest = (hashlib.sha256(file.read()) if small else hashlib.file_digest(file, 'sha256')).hexdigest()[:LENGTH]
    return _mark_of(stat) if settled else '', digest


def text_digest(parts: Sequence) -> str:
    """Digest of some values (what JSON can hold), in order."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:LENGTH]
