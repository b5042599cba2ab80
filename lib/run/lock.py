"""One run at a time in a folder, on one machine or on several that share a file system."""
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from lib.files.fileio import CannotWrite, lock_file
from lib.process import ranks


class Lock:
    """Holds the lock of a folder while the context lasts; ValueError if another run, which is named, holds it.

    Each process of a run locks a file of its own, .lock-<rank>: the processes of one run do not exclude each other,
    and another run is refused at its rank 0, however many processes it has. The kernel releases the lock (flock) of a
    killed process; `patience` is the time in seconds to wait for that.
    """

    def __init__(self, folder: Path, patience: float = 2):
        self.path, self.patience = Path(folder) / f'.lock-{ranks.place().rank}', patience
        self.made = [path for path in self.path.parents if not path.exists()]

    def __enter__(self) -> 'Lock':
        folder, until = self.path.parent, time.monotonic() + self.patience
        try:
            folder.mkdir(parents=True, exist_ok=True)
            while holder := self._try():
                if time.monotonic() >= until:
                    raise ValueError(f'{folder} is in use by {holder}: wait until that run has ended, or choose '
                                     'another folder (--run or --out)')
                time.sleep(0.05)
        except OSError as error:
            raise CannotWrite(f'{self.path} cannot be locked ({error.strerror}); choose another folder (--exp or '
                              '--out)') from error
        os.register_at_fork(after_in_child=self.file.close)     # a worker must not hold the lock of a killed run
        return self

    def __exit__(self, *_) -> None:
        self.path.unlink(missing_ok=True)
        self.file.close()
        with suppress(OSError):      # a refused run leaves no empty folders
            for path in self.made:
                path.rmdir()

    def _try(self) -> str:
        """Try to lock the file; '' on success, else who holds it."""
        if file := lock_file(self.path, wait=False):
            self.file = file
            self.file.truncate(0)
            print(f'process {os.getpid()} on {socket.gethostname()}', end='', file=self.file, flush=True)
            return ''
        with suppress(FileNotFoundError):       # released just now
            return self.path.read_text() or 'another run'
        return 'another run'
