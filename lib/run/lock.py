"""One run at a time in a folder: a lock file that names its holder, for file systems shared by several machines.

flock() is not to be relied on there. The file is made by linking, which succeeds for one process only on every file
system, and its holder touches it every BEAT seconds. The lock of a process of this machine that is no more is taken
over at once; that of another machine when it has not been touched for SILENCE seconds, for which this process waits.
"""
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from tool.fileio import CannotWrite, is_alive, remove_leftovers, replacing

BEAT, SILENCE = 15.0, 90.0


class InUse(ValueError):
    """Another run holds the lock; says which host and process."""


class Lock:
    """Holds the lock of a folder while the context lasts.

    Args:
        folder: is made if need be; the temporary files of killed processes in it are removed.
        name: of the lock file; processes that share a folder's work have one each.

    Raises:
        InUse: on entering, if another run holds it.
        CannotWrite: if the folder cannot be written to.
    """

    def __init__(self, folder: Path, name: str = '.lock'):
        self.path = Path(folder) / name
        self.token = secrets.token_hex(8)
        self.ended = threading.Event()

    def __enter__(self) -> 'Lock':
        content = {'host': socket.gethostname(), 'process': os.getpid(), 'started': started(os.getpid()),
                   'token': self.token}
        while not self._make(content):
            holder = self._read()
            if holder is not None and self._lives(holder):
                raise InUse(f'{self.path.parent} is in use by process {holder["process"]} on {holder["host"]}: '
                            'wait until that run has ended, or give --run another name')
            self._remove(holder)
        remove_leftovers(self.path.parent)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self._remove({'token': self.token})

    def check(self) -> None:
        """Make sure that nobody has taken the lock over, as happens to a process that was suspended for long.

        Raises:
            ValueError: if somebody has.
        """
        holder = self._read()
        if holder is None or holder['token'] != self.token:
            raise ValueError(f'{self.path} was taken over by another run while this one was suspended; nothing more '
                             'is written here')

    def _make(self, content: dict) -> bool:
        """Whether the lock file could be made."""
        draft = self.path.with_name(f'{self.path.name}-{self.token}')
        with replacing(draft) as temporary:
            temporary.write_text(json.dumps(content))
        try:
            os.link(draft, self.path)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            raise CannotWrite(f'{self.path} cannot be made ({error.strerror}); choose another place with --exp') \
                from error
        finally:
            draft.unlink(missing_ok=True)

    def _read(self) -> dict | None:
        """What the lock file says; None where there is none."""
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:              # of a machine that went down before the bytes were on the disk
            return {'host': 'an unknown host', 'process': 0, 'started': '', 'token': ''}

    def _lives(self, holder: dict) -> bool:
        """Whether the holder still runs."""
        if holder['host'] == socket.gethostname():
            return is_alive(holder['process']) and started(holder['process']) == holder['started']
        seen, until = self._touched(), time.monotonic() + SILENCE
        print(f'{self.path} belongs to process {holder["process"]} on {holder["host"]}; waiting at most '
              f'{SILENCE:.0f} s for a sign of life', flush=True)
        while time.monotonic() < until:
            time.sleep(min(1.0, SILENCE / 10))
            touched = self._touched()
            if touched is None:
                return False
            if touched != seen:
                return True
        return False

    def _touched(self) -> int | None:
        """When the lock file was last touched. Opening makes a network file system ask its server."""
        try:
            with open(self.path) as file:
                return os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def _remove(self, holder: dict | None) -> None:
        """Remove the lock file if it is still this holder's."""
        aside = self.path.with_name(f'{self.path.name}-{self.token}-old')
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        try:
            moved = json.loads(aside.read_text()).get('token')
        except ValueError:
            moved = ''
        if holder is not None and moved != holder['token']:     # another process was quicker: put its lock back
            try:
                os.link(aside, self.path)
            except FileExistsError:
                pass
        aside.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT):
            try:
                os.utime(self.path)
            except OSError:
                pass


def started(process: int) -> str:
    """When a process of this machine started, in the kernel's words: tells it from a later one of the same number."""
    try:
        return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19]
    except (OSError, IndexError):
        return ''
