"""Random numbers for a batch that several processes, or several passes, share.

Each has the same random state and draws for the whole batch, then takes the rows of its own samples: what is drawn for
a sample depends on its place in the batch, not on how the batch is shared out.
"""
from collections.abc import Iterator
from contextlib import contextmanager

_here = [(0, 1)]


@contextmanager
def batch_part(index: int, parts: int) -> Iterator[None]:
    """While the context lasts, a batch is the part `index` of `parts` equal ones."""
    _here.append((index, parts))
    try:
        yield
    finally:
        _here.pop()


def batch_rows(count: int) -> tuple[int, slice]:
    """For `count` samples at hand: the number of samples in the whole batch, and which of them these are."""
    index, parts = _here[-1]
    return count * parts, slice(index * count, (index + 1) * count)
