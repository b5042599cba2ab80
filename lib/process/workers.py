"""Worker processes. They take tasks and return results through sockets, so they need no shared memory.

A worker holds nothing that others wait for: it can be killed at any moment, and is, once nothing is left for it to do.
"""
import ctypes
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker, util
from queue import SimpleQueue
from typing import Any

import cv2
import numpy as np

LEFT_TO_MAIN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)     # the main process decides what ends
AHEAD = 4           # tasks per worker that are under way at a time
GRACE = 15          # seconds that running tasks have when the rest is given up
METHOD = 'fork' if sys.platform == 'linux' else 'spawn'     # elsewhere forked processes crash in system libraries
PR_SET_PDEATHSIG = 1


class Background:
    """Runs functions in worker processes; at most AHEAD calls per worker are unfinished, so memory stays bounded.

    With 0 workers each call is made at once, in this process. Used as a context: leaving it waits for all calls. An
    error in a call is raised here, by a later submit or at the end.
    """

    def __init__(self, workers: int):
        self.most = AHEAD * workers
        self.pool = _Pool(_call, workers) if workers else None
        self.waiting = set()

    def submit(self, function: Callable, *arguments) -> None:
        """Have function(*arguments) called; both must be picklable."""
        if self.pool is None:
            function(*arguments)
            return
        self._wait(self.most - 1)
        self.waiting.add(self.pool.submit((function, arguments)))

    def _wait(self, most: int) -> None:
        """Wait until at most so many calls are unfinished, and raise what the finished ones raised."""
        while len(self.waiting) > most:
            done, self.waiting = wait(self.waiting, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()

    def __enter__(self) -> 'Background':
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._wait(0)
        finally:
            if self.pool:
                self.pool.close()


def map_in_workers(function: Callable, items: Iterable, workers: int, chunk: int = 1, ahead: int = AHEAD) -> Iterator:
    """Yield function(item) for every item, in order.

    Items are taken as they are needed and results wait for nobody, so memory does not grow with their number.

    Args:
        function: goes to each worker once; it must be picklable, as must be items and results.
        items: read in this process.
        workers: processes; 0 does all in this one.
        chunk: items that travel together; more than 1 pays where a call takes less than a millisecond.
        ahead: chunks per worker that are under way at a time.
    """
    if not workers:
        yield from map(function, items)
        return
    items, waiting = iter(items), deque()
    pool = _Pool(partial(_call_each, function), workers)
    try:
        while together := list(islice(items, chunk)):
            waiting.append(pool.submit(together))
            if len(waiting) == ahead * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.close()


def map_chunks(function: Callable, items: Sequence, workers: int, size: int = 256) -> Iterator:
    """Yield function(chunk) for consecutive chunks of that many items, in order."""
    chunks = [items[first:first + size] for first in range(0, len(items), size)]
    return map_in_workers(function, chunks, min(workers, len(chunks)) if len(chunks) > 1 else 0)


class _Pool:
    """Processes that apply one function, each to one task at a time; a thread of this process waits for each."""

    def __init__(self, function: Callable, workers: int):
        context, self.idle, self.processes, self.futures = multiprocessing.get_context(METHOD), SimpleQueue(), [], set()
        self.kill = util.Finalize(self, _kill, (self.processes,), exitpriority=10)     # at the latest when Python ends
        if METHOD == 'spawn':
            resource_tracker.ensure_running()       # would unblock signals below
        former = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_MAIN)     # workers inherit it and keep it
        try:
            for _ in range(workers):
                ours, theirs = socket.socketpair()
                with theirs:
                    process = context.Process(target=_serve, args=(theirs, function, os.getpid()), daemon=True)
                    process.start()
                self.processes.append(process)
                self.idle.put((process, ours))
        except BaseException:
            self.kill()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
        self.threads = ThreadPoolExecutor(workers)

    def submit(self, task: Any) -> Future:
        """Have the function applied by the next worker that is idle."""
        future = self.threads.submit(self._apply, task)
        self.futures.add(future)
        future.add_done_callback(self.futures.discard)
        return future

    def _apply(self, task: Any) -> Any:
        process, pipe = self.idle.get()
        try:
            parts = _pickled(task)
            try:
                _send(pipe, parts)
                result, failed = _receive(pipe)
            except (EOFError, ConnectionError):
                raise _died(process) from None
        finally:
            self.idle.put((process, pipe))
        if failed:
            error, where = failed
            raise error from RuntimeError(f'in a worker process:\n{where}')
        return result

    def close(self) -> None:
        """End the processes; tasks that run may finish, others are given up."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        wait(list(self.futures), timeout=GRACE)
        self.kill()
        self.threads.shutdown()


def init_worker(parent: int) -> None:
    """What a worker does first: start no threads, as the processes share the cores, and end when its parent does."""
    cv2.setNumThreads(0)
    if 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(1)
    if sys.platform == 'linux':         # elsewhere the end of the socket tells, after the running task
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:          # died meanwhile
        os._exit(1)


def _serve(pipe: socket.socket, function: Callable, parent: int) -> None:
    """Body of a worker. It ends without a word: what it has to say, it sends."""
    try:
        init_worker(parent)
        while True:
            task = _receive(pipe)
            try:
                answer = _pickled((function(task), None))
            except BaseException as error:
                answer = _pickled((None, (_sendable(error), traceback.format_exc())))
            _send(pipe, answer)
    finally:
        os._exit(1)


def _call(task: tuple[Callable, tuple]) -> None:
    function, arguments = task
    function(*arguments)


def _call_each(function: Callable, items: list) -> list:
    return [function(item) for item in items]


def _sendable(error: BaseException) -> BaseException:
    """The error, or one that says the same where it cannot be pickled."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f'{type(error).__name__}: {error}')


def _died(process: multiprocessing.Process) -> ChildProcessError:
    process.join(5)
    code = process.exitcode
    how = f'was killed by {signal.Signals(-code).name}' if code and code < 0 else f'ended with status {code}'
    return ChildProcessError(f'a worker process {how}, probably because memory ran out; free memory or use fewer '
                             'processes (--workers), then run the same command again: it resumes')


def _kill(processes: list) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


class _Pickler(pickle.Pickler):
    """Sends tensors as arrays: torch itself would pass them through shared memory, which containers have little of."""

    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get('torch')
        if torch is not None and type(value) is torch.Tensor:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


class _Writer(list):
    write = list.append


def _pickled(content: Any) -> list[memoryview]:
    """A message: the pickle, and the memory of each array in it, which is not copied."""
    text, buffers = _Writer(), []
    _Pickler(text, 5, buffer_callback=buffers.append).dump(content)
    return [memoryview(b''.join(text)), *(buffer.raw() for buffer in buffers)]


def _send(pipe: socket.socket, parts: list[memoryview]) -> None:
    pipe.sendall(struct.pack(f'<{len(parts) + 1}Q', len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        pipe.sendall(part)


def _receive(pipe: socket.socket) -> Any:
    count, = struct.unpack('<Q', _read(pipe, 8))
    sizes = struct.unpack(f'<{count}Q', _read(pipe, 8 * count))
    text, *buffers = [_read(pipe, size) for size in sizes]
    return pickle.loads(text, buffers=buffers)


def _read(pipe: socket.socket, size: int) -> memoryview:
    """So many bytes; each array gets memory of its own, which may be written to."""
    content = memoryview(np.empty(size, np.uint8))
    place = 0
    while place < size:
        if not (count := pipe.recv_into(content[place:])):
            raise EOFError
        place += count
    return content
