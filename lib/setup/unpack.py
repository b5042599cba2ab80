"""Unpack archives: regular files that match a pattern, to paths that the archive cannot choose."""
import gzip
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

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
    folders, zipped = set(), archive.suffix == '.zip'
    try:
        with zipfile.ZipFile(archive) if zipped else tarfile.open(archive, 'r|*') as file:
            for info in progress(file.infolist() if zipped else file, archive.name, 'file'):
                name, size = (info.filename, info.file_size) if zipped else (info.name, info.size)
                match = re.fullmatch(pattern, name) if zipped or info.isreg() else None     # no links, no devices
                if match:
                    path = root / match.expand(target)
                    folders.add(path.parent)
                    if not (path.is_file() and path.stat().st_size == size):
                        with (replacing(path) as temporary, open(temporary, 'wb') as unpacked,
                              file.open(info) if zipped else file.extractfile(info) as source):
                            shutil.copyfileobj(source, unpacked)
    except CORRUPT as error:
        raise ValueError(f'{archive} is corrupt ({type(error).__name__}: {error}); move it away, then run the same '
                         'command again') from error
    if not folders:
        raise ValueError(f'{archive} contains none of the expected files; is it the right archive?')
    return sorted(str(folder.relative_to(root)) for folder in folders)
