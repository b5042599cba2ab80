"""Writing files so that a reader never meets half of one, whatever is killed meanwhile."""
import errno
import os
import re
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAY = 24 * 3600
LEFTOVER = re.compile(r'^\..+\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)(\.[^.]*)?$')     # .NAME.png.host-process.tmp
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR)


class CannotWrite(OSError):
    """A file could not be written; says why, what is needed, and that what was there before is whole."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, it takes the place of `path`.

    The folder is made if need be. The bytes are on the disk (fsync of file and folder) before this returns, and a block
    that raises leaves neither the temporary file nor a changed `path`. A writer that chooses a format by the name has
    to be told the format: temporary names never end like the files that a folder is searched for.

    Raises:
        CannotWrite: if the disk is full, or the folder is not to be written to or is a file.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        explained = _explained(error, path, temporary)
        if explained is None:
            raise
        raise explained from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:         # a read-only folder: there is nothing to remove
            pass


def temporary_name(path: Path) -> Path:
    """Where to write what is to become `path`: hidden, and with host and process, so that no two writers share one."""
    return path.with_name(f'.{path.name}.{host_code()}-{os.getpid()}.tmp')


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes: those of this machine that are no more, and all of last week."""
    for path in Path(folder).glob('.*'):
        found = LEFTOVER.match(path.name)
        if found and path.is_file():
            here = found['host'] == host_code()
            if here and not is_alive(int(found['process'])) or time.time() - path.stat().st_mtime > 7 * DAY:
                path.unlink(missing_ok=True)


def host_code() -> str:
    """Eight letters that stand for this machine in the name of a file."""
    return f'{zlib.crc32(socket.gethostname().encode()):08x}'


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs; one that has ended may wait for ever to be collected in a container."""
    try:
        os.kill(process, 0)
        return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (ProcessLookupError, PermissionError, FileNotFoundError) as error:   # none, another user's, no /proc
        return not isinstance(error, ProcessLookupError)


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too. Some file systems cannot; they keep names in order by themselves."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _explained(error: Exception, path: Path, temporary: Path) -> CannotWrite | None:
    """The error to raise in place of one met in writing; other libraries wrap the system's own. None: it stays."""
    cause = error if isinstance(error, OSError) else error.__context__
    if not isinstance(cause, OSError):
        return None
    about = Path(os.fsdecode(cause.filename)) if isinstance(cause.filename, str | bytes) else temporary
    number = cause.errno if about == temporary or about in path.parents else None
    if number in FULL:
        written = temporary.stat().st_size if temporary.exists() else 0
        return CannotWrite(f'no space left for {path} (more than {written / 1e6:.1f} MB needed); make room or choose '
                           'another place with --exp, then run the same command again: all files written before are '
                           'whole')
    if number in REFUSED:
        return CannotWrite(f'{path} cannot be written ({os.strerror(number)}); choose another place with --exp, or '
                           'mend the rights of the folder')
    if number in IN_THE_WAY:
        return CannotWrite(f'{path} cannot be written: a file is in the way where {path.parent} is to be a folder; '
                           'remove it, or choose another place')
    return None
