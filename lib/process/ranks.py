"""The processes of one run: which one this is, and its part of a batch.

torchrun starts the processes of a training run and says in the environment which is which. So does Slurm's srun; that
is enough for inference, where each process takes every n-th image and needs nothing from the others.
"""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Place(NamedTuple):
    """One process among those of a run."""

    rank: int = 0           # its number, from 0
    world: int = 1          # number of processes
    local: int = 0          # its number on its machine
    srun: bool = False      # whether srun itself started it, rather than a torchrun below srun


TORCHRUN = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
SRUN = ('SLURM_PROCID', 'SLURM_STEP_NUM_TASKS', 'SLURM_LOCALID')


def place() -> Place:
    """This process among those of its run.

    Raises:
        ValueError: if the environment contradicts itself.
    """
    names = next((names for names in (TORCHRUN, SRUN) if all(name in os.environ for name in names[:2])), None)
    if names is None:
        return Place()
    rank, world, local = texts = [os.environ.get(name, '0') for name in names]
    if not all(text.isdecimal() for text in texts) or not int(rank) < int(world):
        raise ValueError(f'{names[0]} is {rank}, {names[1]} is {world}, {names[2]} is {local}: expected numbers, the '
                         'first below the second; start the processes with torchrun or srun')
    return Place(int(rank), int(world), int(local), names == SRUN)


def is_first() -> bool:
    """Whether this is rank 0, which writes what is written once."""
    return place().rank == 0


def print_rank0(text: str) -> None:
    """Print in rank 0 only."""
    if is_first():
        print(text, flush=True)


def was_restarted() -> bool:
    """Whether torchrun or Slurm has restarted this run after a failure: then --fresh has had its effect."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'))


def shares(batch_size: int, accumulate: int = 1) -> tuple[int, int]:
    """(this process's part of every batch, number of parts).

    Raises:
        ValueError: if a batch cannot be divided into equal parts.
    """
    rank, world, *_ = place()
    parts = world * accumulate
    if batch_size % parts:
        low, high = batch_size // parts * parts, -(-batch_size // parts) * parts
        steps = f' in {accumulate} accumulation steps (--accumulate)' if accumulate > 1 else ''
        raise ValueError(f'--batch-size {batch_size} cannot be shared by {world} '
                         f'process{"es" if world > 1 else ""}{steps}; use {f"{low} or " if low else ""}{high}')
    return rank, world


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
