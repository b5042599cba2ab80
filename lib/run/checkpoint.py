"""The checkpoint from which an interrupted training run goes on, and the one before it."""
import os
from collections.abc import Mapping
from pathlib import Path

from lib.run.identity import SAME_OR_NEW, difference
from tool.torchfile import read_torch, write_torch


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name('previous.pth')


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint; the last one becomes the one before it, and that one goes only when the new one is whole."""
    draft = path.with_name('next.pth')
    write_torch(draft, state)
    if path.exists():
        os.replace(path, previous(path))
    os.replace(draft, path)


def remove_checkpoints(path: Path) -> None:
    """Remove both, the older one first: a run killed meanwhile goes on from the newer one or starts over."""
    previous(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def load_checkpoint(path: Path, made_with: Mapping) -> dict | None:
    """The checkpoint of a run, or None where there is none yet. A damaged one is replaced by the one before it.

    Args:
        path: the file.
        made_with: this run's {'settings', 'inputs'}, compared with those the checkpoint was made with.

    Raises:
        ValueError: if both are damaged, or were made with other settings or inputs; the message shows the difference.
    """
    problems = []
    for file in (path, previous(path)):
        if not file.exists():
            continue
        try:
            state = _read(file)
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            print(f'warning: {problems[0].split(";")[0]}; going on from {file}, the checkpoint before it', flush=True)
        if changed := difference(state['made_with'], made_with):
            raise ValueError(f'{path} belongs to a run with other settings or inputs ({changed}){SAME_OR_NEW}')
        return state
    if problems:
        raise ValueError(problems[0])
    return None


def _read(path: Path) -> dict:
    state = read_torch(path, 'remove it, or start over with --fresh')
    made_with = state.get('made_with') if isinstance(state, dict) else None
    if not isinstance(made_with, dict) or not made_with.keys() >= {'settings', 'inputs'}:
        raise ValueError(f'{path} is no checkpoint; remove it, or start over with --fresh')
    return state
