"""Unpacking archives from elsewhere: nothing is written outside the folder, and nothing but plain files."""
import errno
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from lib.files.fileio import remove_leftovers, temporary_name
from lib.process.progress import bar_style

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)


class Member(NamedTuple):
    """A plain file of an archive."""

    name: str
    size: int
    open: Callable[[], BinaryIO]


def unpack(archive: Path, root: Path, place: Callable[[str], str | None]) -> dict[str, int]:
    """Unpack some files of a .tar, .tgz or .zip. One that is there with its full size is left alone.

    All names are looked at before the first byte is written.

    Args:
        archive: the file.
        root: folder to unpack to.
        place: name of a member -> path below root, or None to leave it out.

    Returns:
        Number of the archive's files by folder below root, those that were there already included.

    Raises:
        ValueError: if a member is no plain file or would leave root, or if the archive is corrupt.
        OSError: ENOSPC if the disk has not the room.
    """
    with damage_named(archive), _opened(archive) as members:
        files = [(member, root / target) for member in members if (target := place(member.name))]
        if not files:
            raise ValueError(f'{archive} has none of the files expected in it; is it the right archive?')
        absent = [(member, path) for member, path in files if not (path.is_file() and _size(path) == member.size)]
        root.mkdir(parents=True, exist_ok=True)
        need = sum(member.size for member, _ in absent)
        if need > shutil.disk_usage(root).free:
            raise OSError(errno.ENOSPC, f'{archive.name} needs {need / 1e9:.2f} GB', str(root))
        for folder in {path.parent for _, path in absent}:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        for member, path in tqdm(absent, **bar_style(archive.name, 'file')):
            _write(member, path)
    counts = {}
    for _, path in files:
        folder = str(path.parent.relative_to(root))
        counts[folder] = counts.get(folder, 0) + 1
    return counts


def check_member(archive: Path, name: str, plain: bool) -> None:
    """Refuse a member that is a link or a device, or whose name leads out of the folder.

    Raises:
        ValueError: naming the archive and the member.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or '\\' in name or ':' in name or '\0' in name:
        raise ValueError(f'{archive} holds {name!r}, which leads out of the folder; nothing of it was unpacked: '
                         'get the archive from a place you trust')
    if not plain:
        raise ValueError(f'{archive} holds {name!r}, which is a link or a device; nothing of it was unpacked: '
                         'get the archive from a place you trust')


@contextmanager
def damage_named(archive: Path) -> Iterator[None]:
    """Turn what the readers of archives raise into one ValueError that names the file and the remedy."""
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f'{archive} is corrupt ({type(error).__name__}: {error}); move it away, and the same command '
                         'fetches it again') from error


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """The plain files of an archive, all members checked."""
    if archive.suffix == '.zip':
        with zipfile.ZipFile(archive) as file:
            infos = file.infolist()
            for info in infos:
                kind = stat.S_IFMT(info.external_attr >> 16)
                check_member(archive, info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            yield [Member(info.filename, info.file_size, lambda info=info: file.open(info))
                   for info in infos if not info.is_dir()]
    else:
        with tarfile.open(archive) as file:
            infos = file.getmembers()
            for info in infos:
                check_member(archive, info.name, info.isreg() or info.isdir())
            yield [Member(info.name, info.size, lambda info=info: file.extractfile(info))
                   for info in infos if info.isreg()]


def _write(member: Member, path: Path) -> None:
    """Write one file under a temporary name first. No fsync for each of 100,000 files: their sizes are checked."""
    temporary = temporary_name(path)
    try:
        with member.open() as source, open(temporary, 'wb') as target:
            shutil.copyfileobj(source, target, 1024 * 1024)
        if _size(temporary) != member.size:
            raise EOFError(f'{member.name} ends early')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size
