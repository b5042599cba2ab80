"""Worker processes, each with a socket of its own. They can be killed at any moment, and need no shared memory.

The workers of Python's pools share queues: one that is killed while it sends a result blocks the others for ever. Data
is sent as plain pickles: those of multiprocessing pass tensors in shared memory, which is scarce in containers.
"""
import atexit
import multiprocessing.util  # its exit handlers run after those registered here
import os
import pickle
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import Any, BinaryIO

import cv2

from lib.process.ending import AGAIN, CAUGHT, end_with_parent

AHEAD = 4           # tasks per worker that are submitted at a time
GRACE = 15          # seconds for running tasks to finish after an error
# On other systems than Linux, system libraries crash in forked processes.
Process = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn').Process
KILLED = ('a worker process was killed, probably because memory ran out; free memory or use fewer processes '
          f'(--workers), {AGAIN}')


def map_in_workers(function: Callable, items: Iterable, workers: int, chunk: int = 1, ahead: int = AHEAD) -> Iterator:
    """Yield function(item) for every item, in order. Items are read as they are needed, so memory stays bounded.

    Args:
        function: sent to each worker once; it must be picklable, as must items and results.
        items: read in this process.
        workers: number of processes; 0 runs everything in this one.
        chunk: items per task; more than 1 pays off if a call takes less than a millisecond.
        ahead: tasks per worker that are submitted at a time.
    """
    if not workers:
        yield from map(function, items)
        return
    items, submitted = iter(items), deque()
    pool = Pool(function, workers)
    try:
        while task := list(islice(items, chunk)):
            submitted.append(pool.submit(task))
            if len(submitted) == ahead * workers:
                yield from submitted.popleft().result()
        while submitted:
            yield from submitted.popleft().result()
    finally:
        pool.close(submitted)


class Pool:
    """Processes that apply one function to lists of items; a thread of this process waits for each."""

    def __init__(self, function: Callable, workers: int):
        self.idle, self.processes = SimpleQueue(), []
        atexit.register(self.kill)          # Python would send a SIGTERM, which workers block, and wait
        with _signals_blocked():            # workers inherit it: the main process decides
            for _ in range(workers):
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    process = Process(target=_serve, args=(theirs, function, os.getpid()), daemon=True)
                    process.start()
                    self.processes.append(process)
                    self.idle.put(ours.makefile('rwb'))
        self.threads = ThreadPoolExecutor(workers)

    def submit(self, items: list) -> Future:
        """Have the next idle worker apply the function to each item; the result is a list."""
        with _signals_blocked():            # an exception while a thread starts would be printed
            return self.threads.submit(self._apply, items)

    def _apply(self, items: list) -> list:
        stream = self.idle.get()
        try:
            _send(stream, items)
            results, error, trace = pickle.load(stream)
        except (EOFError, ConnectionError, pickle.UnpicklingError):
            raise ChildProcessError(KILLED) from None
        finally:
            self.idle.put(stream)
        if error:
            raise error from RuntimeError(f'in a worker process:\n{trace}')
        return results

    def close(self, submitted: Iterable[Future] = ()) -> None:
        """End the processes; submitted tasks that are running have GRACE seconds, the others are cancelled."""
        try:
            self.threads.shutdown(wait=False, cancel_futures=True)
            wait([task for task in submitted if not task.cancelled()], GRACE)
        finally:
            self.kill()
            atexit.unregister(self.kill)

    def kill(self) -> None:
        """End the processes at once."""
        for process in self.processes:
            process.kill()
            process.join()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    former = signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _serve(connection: socket.socket, function: Callable, parent: int) -> None:
    """Body of a worker. It starts no threads, as the processes share the cores."""
    end_with_parent(signal.SIGKILL, parent)
    cv2.setNumThreads(0)
    if 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(1)
    stream = connection.makefile('rwb')
    while True:
        try:
            items = pickle.load(stream)
        except EOFError:        # the parent has ended
            os._exit(1)
        try:
            answer = [function(item) for item in items], None, ''
        except BaseException as error:
            answer = None, error, traceback.format_exc()
        _send(stream, answer)


def _send(stream: BinaryIO, content: Any) -> None:
    pickle.dump(content, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()
