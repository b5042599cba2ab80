"""One run at a time in a folder, for the processes of one machine or of several that share a file system.

The kernel holds the lock (flock) for as long as a process lives: nothing is left to take over when it is killed. The
processes of one run share it; the file says which run that is.
"""
import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from lib.files.fileio import CannotWrite, remove_leftovers
from lib.process import ranks


class InUse(ValueError):
    """Another run holds the lock; says which host and process."""


class Lock:
    """Holds the lock of a folder while the context lasts.

    Args:
        folder: is made if need be; the temporary files of killed processes in it are removed.
        name: of the lock file.
        patience: seconds to wait for another run to end; a killed one takes a moment.

    Raises:
        InUse: on entering, if another run holds it.
        CannotWrite: if the folder cannot be written to.
    """

    def __init__(self, folder: Path, name: str = '.lock', patience: float = 2):
        self.path, self.patience, self.made = Path(folder) / name, patience, []
        self.run = {'run': ranks.run_id(), 'host': socket.gethostname(), 'process': os.getpid()}

    def __enter__(self) -> 'Lock':
        until = time.monotonic() + self.patience
        while (holder := self._acquire()) is not None:
            if time.monotonic() >= until + (0 if holder else 10):
                raise InUse(f'{self.path.parent} is in use by process {holder.get("process")} on {holder.get("host")}: '
                            'wait until that run has ended, or give --run another name')
            time.sleep(0.05)
        remove_leftovers(self.path.parent)
        return self

    def __exit__(self, *_) -> None:
        if self._try(fcntl.LOCK_EX) and self._is_current():     # the last process of this run takes the file away
            self.path.unlink(missing_ok=True)
        fcntl.flock(self.file, fcntl.LOCK_UN)       # forked workers have the file open too
        os.close(self.file)
        with contextlib.suppress(OSError):          # a refused run leaves no empty folders
            for path in self.made:
                path.rmdir()

    def _acquire(self) -> dict | None:
        """None once this run has the lock; else what is known of the one that has it, {} if that just changes."""
        try:
            self.made = self.made or [path for path in self.path.parents if not path.exists()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:       # another process has just taken the empty folder away
            return {}
        except OSError as error:
            raise CannotWrite(f'{self.path} cannot be made ({error.strerror}); choose another place with --exp') \
                from error
        if self._try(fcntl.LOCK_EX) and self._is_current():
            os.ftruncate(self.file, 0)
            os.pwrite(self.file, json.dumps(self.run).encode(), 0)
        # Another process may come between the two kinds of lock: what the file says then decides.
        holder = self._holder() if self._try(fcntl.LOCK_SH) and self._is_current() else {}
        if holder.get('run') == self.run['run']:
            return None
        os.close(self.file)
        return holder

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self.file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise CannotWrite(f'{self.path} cannot be locked ({error.strerror}): the file system must know flock; '
                              'choose another one with --exp') from error
        return True

    def _is_current(self) -> bool:
        """Whether the open file is still the one of that name."""
        try:
            return os.path.samestat(os.fstat(self.file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _holder(self) -> dict:
        try:
            holder = json.loads(os.pread(self.file, 4096, 0))
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}
