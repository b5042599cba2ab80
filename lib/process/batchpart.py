"""Random numbers for a batch that several processes, or several passes, share.

Each has the same random state and draws for the whole batch, then takes the rows of its own samples: what is drawn for
a sample depends on its place in the batch, not on how the batch is shared out.
"""
from collections.abc import Iterator
from contextlib import contextmanager

_here = [(0, 1, True)]


@contextmanager
def batch_part(index: int, parts: int, last_pass: bool = True) -> Iterator[None]:
    """While the context lasts, a batch is the part `index` of `parts` equal ones.

    `last_pass`: it completes this process's gradients of the whole batch.
    """
    _here.append((index, parts, last_pass))
    try:
        yield
    finally:
        _here.pop()


def batch_rows(count: int) -> tuple[int, slice]:
    """For `count` samples at hand: the number of samples in the whole batch, and which of them these are."""
    index, parts, _ = _here[-1]
    return count * parts, slice(index * count, (index + 1) * count)


def in_last_pass() -> bool:
    """Whether the gradients of the batch are complete after this pass."""
    return _here[-1][2]
