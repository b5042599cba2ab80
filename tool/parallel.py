"""Work on many files in several processes, with few of them in flight and a progress bar."""
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from tqdm import tqdm

from tool.progress import bar_style
from tool.workers import settle_in

CHUNK = 32      # items that travel to a process together
WAITING = 4     # chunks a process that are under way at a time


def map_files(function: Callable, items: Iterable, workers: int, title: str, total: int | None = None) -> Iterator:
    """Yield function(item) for every item, in order.

    Items are taken as they are needed and results wait for nobody, so memory does not grow with their number.

    Args:
        function: must be picklable, as must be items and results.
        items: read in this process.
        workers: processes; 0 does all in this one.
        title: of the progress bar.
        total: number of items, if it is known.
    """
    with tqdm(total=total, **bar_style(title, 'file')) as bar:
        for results in _chunks(function, iter(items), workers):
            for result in results:
                bar.update()
                yield result


def _chunks(function: Callable, items: Iterator, workers: int) -> Iterator[list]:
    if not workers:
        yield from ([function(item)] for item in items)
        return
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(workers, context, initializer=settle_in) as pool:
        try:
            waiting = deque()
            while chunk := list(islice(items, CHUNK)):
                waiting.append(pool.submit(_apply, function, chunk))
                if len(waiting) == WAITING * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _apply(function: Callable, chunk: list) -> list:
    return [function(item) for item in chunk]
