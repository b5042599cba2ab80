"""Writing files: a reader never sees half of one, and no input or file of another program is overwritten.

A file says which command made it: JSON in its entry "made_by", HTML in <meta name="generator">.
"""
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

EXPLAINED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR)
WAIT = 60       # seconds for another process that writes the same file
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)       # of a file system without flock


class CannotWrite(OSError):
    """A file could not be written; says why and what to do. What was there before is intact."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it replaces `path` when the block ends without an error.

    File and folder are flushed to disk (fsync) before this returns. A block that raises leaves neither the temporary
    file nor a changed `path`; what a killed process leaves is removed when the same file is written again. Processes
    that write the same file wait for each other. A writer that infers the format from the name has to be told it, as
    temporary names end in .tmp. Raises CannotWrite if the disk is full, or the folder is not writable or is a file.
    """
    path = Path(path)
    temporary, lock = (path.with_name(f'.{path.name}.hfpl.{ending}') for ending in ('tmp', 'lock'))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(lock, WAIT):
            try:
                temporary.unlink(missing_ok=True)
                yield temporary
                _flush(temporary)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
            with suppress(OSError):         # some file systems cannot flush a folder
                _flush(path.parent)
    except BlockingIOError as error:
        raise CannotWrite(f'{lock} is locked by another process, perhaps a stopped one; end it, then run the same '
                          'command again') from error
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__      # torch.save wraps the system's error
        named = getattr(cause, 'filename', None)        # a full disk names no file
        concerned = named is None or Path(os.fsdecode(named)) in (temporary, lock, *path.parents)
        if not concerned or getattr(cause, 'errno', None) not in EXPLAINED:
            raise
        raise CannotWrite(f'{path} cannot be written ({os.strerror(cause.errno)}); free disk space, fix the '
                          'permissions, or choose another folder (--exp or --out), then run the same command again') \
            from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as replacing() does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def lock_file(path: Path, patience: float, required: bool = False) -> TextIO:
    """A file of this name, opened to append and locked (flock) until it is closed or this process ends.

    The caller removes it while it is locked. Raises BlockingIOError if another process has it for `patience` seconds
    and, if the lock is `required`, OSError on a file system without locks.
    """
    until = time.monotonic() + patience
    while True:
        file = open(path, 'a+')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:       # the process that had it has removed it
            pass
        except OSError as error:
            if error.errno in NO_LOCKS and not required:        # better than no file at all
                return file
            if not isinstance(error, BlockingIOError) or time.monotonic() > until:
                file.close()
                raise
            time.sleep(0.02)
        file.close()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Make sure that no output is an input, whatever its spelling and whatever symbolic links lead to it."""
    # Hard links need no check: files are replaced, not overwritten, so another name keeps its content.
    taken = {os.path.realpath(path): path for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in taken:
            raise ValueError(f'{path} is an input of this command ({taken[os.path.realpath(path)]}) and would be '
                             'overwritten; choose another --out')


def refuse_foreign(path: Path, maker: str, flag: str = '--out', former: str | None = None) -> None:
    """Make sure that a file is absent, empty or written by the same command (former: its earlier name)."""
    if not os.path.lexists(path):
        return
    content = path.read_bytes() if path.is_file() else None         # None: a folder, or a link to nowhere
    mark = rf'(made_by|generator" content)\W+({re.escape(maker)}|{re.escape(former or maker)})'.encode()
    if content is None or content and not re.search(mark, content):
        raise ValueError(f'{path} exists and was not written by python -m {maker}; choose another {flag}, or move the '
                         'file away')


def check_lists(folder: Path, texts: Mapping[str, str], maker: str) -> None:
    """Make sure that text files, given by name, are absent or have this content already; else raise ValueError."""
    for name, text in texts.items():
        path = folder / name
        if path.exists() and path.read_bytes() != text.encode():
            raise ValueError(f'{path} exists and differs from what python -m {maker} would write; delete it, or '
                             'choose another --lists')


def write_lists(folder: Path, texts: Mapping[str, str], maker: str) -> None:
    """Write text files that are absent; raises ValueError as check_lists before anything is written."""
    check_lists(folder, texts, maker)
    for name, text in texts.items():
        if not (folder / name).exists():
            write_text(folder / name, text)
