"""Digests of files by their content. A file whose inode, size and times are unchanged is read only once."""
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from tqdm import tqdm

from lib.files.fileio import CannotWrite, replacing

LENGTH = 16             # hexadecimal digits that are kept
RECENT = 2.0            # seconds in which a file may change again without getting another time
MOST = 1_000_000        # files that are remembered
THREADS, CHUNK = 4, 16      # files that a thread takes at a time


class Digests:
    """Digests of files, remembered in a file that may be lost at any time.

    Paths are not remembered, so moved folders cost nothing. A file changed in the last two seconds is read each time.

    Args:
        memory: the file that keeps digests between commands; None for none.
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
        for index, digest in zip(unread, _read_all([paths[index] for index in unread])):
            digests[index] = digest
            if keys[index]:
                self.known[keys[index]], self.new = digest, True
        return digests

    def save(self) -> None:
        """Remember the digests for later commands, if that is possible."""
        if self.memory and self.new:
            with contextlib.suppress(CannotWrite), replacing(self.memory) as temporary:
                temporary.write_text(json.dumps(dict(list(self.known.items())[-MOST:]), separators=(',', ':')))
            self.new = False


def text_digest(parts: Sequence) -> str:
    """Digest of some JSON values, in order."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:LENGTH]


def _key(path: str | Path) -> str | None:
    """What tells this state of a file from others; '' if the file may still change without changing that, None if it
    does not exist."""
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    settled = time.time() - max(stat.st_mtime, stat.st_ctime) > RECENT
    return f'{stat.st_dev}-{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}' if settled else ''


def _read_all(paths: Sequence[str | Path]) -> list[str]:
    if not paths:
        return []
    with ThreadPool(THREADS) as pool:       # hashing lets other threads run
        return list(tqdm(pool.imap(_read, paths, CHUNK), 'reading inputs', len(paths), delay=10, leave=False))


def _read(path: str | Path) -> str:
    with open(path, 'rb', 0) as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()[:LENGTH]
