"""Unpacking archives: of their regular files those that match a pattern, to paths that the archive cannot choose."""
import gzip
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from lib.files.fileio import replacing
from lib.process.cli import progress

CORRUPT = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError,
           NotImplementedError)


def unpack(archive: Path, root: Path, pattern: str, target: str = r'\1') -> list[str]:
    """Unpack some files of a .tar, .tgz or .zip to `root`; a file that exists with its full size is left alone.

    `pattern` is a regular expression of the full names of the members to unpack, whose groups must not match '..';
    `target` is their path below root, with references to the groups.

    Returns the folders of the files below root; raises ValueError if the archive is corrupt, or nothing in it matches.
    """
    folders = set()
    try:
        for name, size, opened in progress(_regular_files(archive), archive.name, 'file'):
            if match := re.fullmatch(pattern, name):
                path = root / match.expand(target)
                folders.add(path.parent)
                if not (path.is_file() and path.stat().st_size == size):
                    with replacing(path) as temporary, opened() as source, open(temporary, 'wb') as file:
                        shutil.copyfileobj(source, file)
    except CORRUPT as error:
        raise ValueError(f'{archive} is corrupt ({type(error).__name__}: {error}); move it away, then run the same '
                         'command again') from error
    if not folders:
        raise ValueError(f'{archive} has none of the files expected in it; is it the right archive?')
    return sorted(str(folder.relative_to(root)) for folder in folders)


def _regular_files(archive: Path) -> Iterator[tuple[str, int, Callable[[], BinaryIO]]]:
    """Name, size and opener of each regular file, to be read one after the other; links and devices are left out."""
    if archive.suffix == '.zip':
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                yield info.filename, info.file_size, partial(file.open, info)
    else:
        with tarfile.open(archive, 'r|*') as file:
            for info in file:
                if info.isreg():
                    yield info.name, info.size, partial(file.extractfile, info)
