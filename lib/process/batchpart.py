"""Random numbers for a batch that is divided among processes or gradient accumulation steps.

Each has the same random state and draws for the whole batch, then takes the rows of its own samples: what is drawn for
a sample depends on its index in the batch, not on how the batch is divided.
"""
from collections.abc import Iterator
from contextlib import contextmanager

_here = [(0, 1, True)]


@contextmanager
def batch_part(index: int, parts: int, last_pass: bool = True) -> Iterator[None]:
    """While the context lasts, a batch is part `index` of `parts` equal ones.

    `last_pass`: it completes this process's gradients.
    """
    _here.append((index, parts, last_pass))
    try:
        yield
    finally:
        _here.pop()


def batch_rows(count: int) -> tuple[int, slice]:
    """For a part of `count` samples: the number of samples in the whole batch, and which of them these are."""
    index, parts, _ = _here[-1]
    return count * parts, slice(index * count, (index + 1) * count)


def in_last_pass() -> bool:
    """Whether the gradients of the batch are complete after this pass."""
    return _here[-1][2]
