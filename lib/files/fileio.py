"""Writing files so that a reader never sees half of one, even if the writer is killed."""
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

EXPLAINED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)       # of a file system without flock


class CannotWrite(OSError):
    """A file could not be written; says why and what to do. What was there before is intact."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it replaces `path` when the block ends without an error.

    The folder is created if absent. File and folder are flushed to disk (fsync) before this returns. A block that
    raises leaves neither the temporary file nor a changed `path`; what a killed process leaves is used when the same
    file is written again. Processes that write the same file wait for each other. A writer that infers the format from
    the name has to be told it, as temporary names end in .tmp. Raises CannotWrite if the disk is full, or the folder is
    not writable or is a file.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.hfpl.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(temporary):
            try:
                yield temporary
                _flush(temporary)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
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


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as replacing() does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def lock_file(path: Path, wait: bool = True) -> TextIO | None:
    """A file of this name, opened to append and locked (flock) until it is closed or this process ends.

    None if another process holds the lock and `wait` is not set. If the file system has no locks, the file is not
    locked if `wait` is set; otherwise OSError.
    """
    while True:
        file = open(path, 'a+')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:       # the process that held the lock has renamed or removed it
            pass
        except OSError as error:
            if wait and error.errno in NO_LOCKS:        # better than not writing at all
                return file
            file.close()
            raise
        file.close()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
