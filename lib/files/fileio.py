"""Writing files so that a reader never sees half of one, even if the writer is killed."""
import errno
import os
import re
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WEEK = 7 * 24 * 3600
LEFTOVER = re.compile(r'\..+\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)\.[^.]*')      # .NAME.png.host-process.tmp
EXPLAINED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR)


class CannotWrite(OSError):
    """A file could not be written; says why and what to do. What was there before is intact."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which replaces `path` when the block ends without an error.

    The folder is created if absent. File and folder are flushed to disk (fsync) before this returns. A block that
    raises leaves neither the temporary file nor a changed `path`. A writer that infers the format from the name has to
    be told it, as temporary names end in .tmp. Raises CannotWrite if the disk is full, or the folder is not writable or
    is a file.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        with suppress(OSError):         # some file systems cannot flush a folder
            _flush(path.parent)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__      # torch.save wraps the system's error
        named = getattr(cause, 'filename', None)        # a full disk names no file
        concerned = named is None or Path(os.fsdecode(named)) in (temporary, *path.parents)
        if not concerned or getattr(cause, 'errno', None) not in EXPLAINED:
            raise
        raise CannotWrite(f'{path} cannot be written ({os.strerror(cause.errno)}); free disk space, fix the '
                          'permissions, or choose another folder (--exp or --out), then run the same command again') \
            from error
    finally:
        with suppress(OSError):         # a read-only folder
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as replacing() does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def temporary_name(path: Path) -> Path:
    """Hidden temporary path beside `path`; holds host and process, so no two writers share it."""
    return path.with_name(f'.{path.name}.{host_code()}-{os.getpid()}.tmp')


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files whose process on this machine has ended, and those of any machine after a week."""
    for path in Path(folder).glob('.*'):
        if match := LEFTOVER.fullmatch(path.name):
            with suppress(FileNotFoundError):           # renamed meanwhile by its writer
                ended = match['host'] == host_code() and not is_alive(int(match['process']))
                if ended or time.time() - path.stat().st_mtime > WEEK:
                    path.unlink()


def host_code() -> str:
    """Eight hexadecimal digits that identify this machine in file names."""
    return f'{zlib.crc32(socket.gethostname().encode()):08x}'


def is_alive(process: int) -> bool:
    """Whether a process of this machine is running; an ended one may stay a zombie for long in a container."""
    try:
        os.kill(process, 0)
        return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except ProcessLookupError:
        return False
    except OSError:                     # another user's process, or a system without /proc
        return True


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
