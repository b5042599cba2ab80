"""Work on single images in other processes, while this one goes on."""
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

import torch

from tool.workers import settle_in


class Background:
    """Runs functions in worker processes; at most four calls a worker wait at a time, so memory stays bounded.

    With 0 workers each call is made at once, in this process. Used as a context: leaving it waits for all calls. An
    error in a call is raised here, by a later submit or at the end.
    """

    def __init__(self, workers: int):
        self.workers = workers
        context = multiprocessing.get_context('spawn')     # forking a process with threads and CUDA is unsafe
        self.pool = ProcessPoolExecutor(workers, context, initializer=_settle_in) if workers else None
        self.waiting = set()

    def submit(self, function: Callable, *arguments) -> None:
        """Have function(*arguments) called; both must be picklable."""
        if self.pool is None:
            function(*arguments)
            return
        self._settle(4 * self.workers - 1)
        self.waiting.add(self.pool.submit(function, *arguments))

    def _settle(self, most: int) -> None:
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
                self._settle(0)
        finally:
            if self.pool:
                self.pool.shutdown(cancel_futures=True)


def map_chunks(function: Callable, items: Sequence, workers: int, size: int = 256) -> Iterator:
    """Yield function(chunk) of consecutive chunks of items, in order, computed in worker processes.

    Args:
        function: takes a list of items; must be picklable.
        items: the work.
        workers: processes; 0 does all in this one.
        size: items a chunk.
    """
    chunks = [items[first:first + size] for first in range(0, len(items), size)]
    if not workers or len(chunks) < 2:                  # a process takes seconds to start
        yield from map(function, chunks)
        return
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(min(workers, len(chunks)), context, initializer=_settle_in) as pool:
        yield from pool.map(function, chunks)


def _settle_in() -> None:
    settle_in()
    torch.set_num_threads(1)            # a DataLoader does this itself
