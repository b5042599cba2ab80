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

from tool.fileio import CannotWrite, replacing

LENGTH = 16             # hexadecimal digits that are kept
RECENT = 2.0            # seconds in which a file may change again without another time
MOST = 1_000_000        # files that are remembered
THREADS = 4


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
        with ThreadPoolExecutor(THREADS) as pool:       # hashing lets other threads run
            found = list(tqdm(pool.map(self._digest, paths), 'reading inputs', delay=10, leave=False))
        for mark, digest in found:
            if mark:
                self.new |= mark not in self.known
                self.known[mark] = digest
        return [digest for _, digest in found]

    def save(self) -> None:
        """Remember the digests for later commands, where that is possible."""
        if self.memory and self.new:
            with contextlib.suppress(CannotWrite), replacing(self.memory) as temporary:
                temporary.write_text(json.dumps(dict(list(self.known.items())[-MOST:]), separators=(',', ':')))
            self.new = False

    def _digest(self, path: str | Path) -> tuple[str, str]:
        """(what tells this state of the file from others, '' if nothing does; its digest)."""
        try:
            stat = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return '', ''
        mark = f'{stat.st_dev}-{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}'
        if mark in self.known:
            return mark, self.known[mark]
        with open(path, 'rb') as file:
            digest = hashlib.file_digest(file, 'sha256').hexdigest()[:LENGTH]
        return mark if time.time() - max(stat.st_mtime, stat.st_ctime) > RECENT else '', digest


def text_digest(parts: Sequence) -> str:
    """Digest of some values (what JSON can hold), in order."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:LENGTH]
