"""One run at a time in a folder, on one machine or on several that share a file system."""
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from lib.files.fileio import CannotWrite, lock_file
from lib.process import ranks


@contextmanager
def lock_folder(folder: Path, patience: float = 2) -> Iterator[TextIO]:
    """Hold the lock of a folder while the context lasts; ValueError that names the other run if one holds it.

    Each process of a run locks its own file, .lock-<rank>: the processes of one run do not exclude each other, and
    another run is refused at its rank 0, however many processes it has. The kernel releases the lock (flock) of a
    killed process; `patience` is the time in seconds to wait for that.
    """
    path = Path(folder) / f'.lock-{ranks.place().rank}'
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_file(path, patience, required=True)
    except BlockingIOError:
        holder = path.read_text() if path.exists() else ''
        raise ValueError(f'{folder} is in use by {holder or "another run"}: wait until that run has ended, or '
                         'choose another folder (--run or --out)') from None
    except OSError as error:
        raise CannotWrite(f'{path} cannot be locked ({error.strerror}); choose another folder (--exp or --out)') \
            from error
    os.register_at_fork(after_in_child=file.close)      # a worker must not hold the lock of a killed run
    file.truncate(0)
    print(f'process {os.getpid()} on {socket.gethostname()}', end='', file=file, flush=True)
    try:
        yield file
    finally:
        path.unlink(missing_ok=True)
        file.close()
        with suppress(OSError):         # a refused run leaves no empty folders
            for parent in made:
                parent.rmdir()
