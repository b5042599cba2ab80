"""Files of a training run: its last two checkpoints and the trained network."""
import os
from collections.abc import Mapping
from pathlib import Path

from lib.files.torchfile import read_torch, write_torch
from lib.process import ranks
from lib.run.origin import NEW_OR_BOTH, difference

REMEDY = 'move it away'
AGAIN = NEW_OR_BOTH.format('it')


def previous(path: Path) -> Path:
    """Path of the checkpoint before the last one."""
    return path.with_name('previous.pth')


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint; the last one becomes the previous one as soon as the new one is complete."""
    draft = path.with_name('next.pth')
    write_torch(draft, state)
    if path.exists():
        os.replace(path, previous(path))
    os.replace(draft, path)


def load_checkpoint(path: Path, origin: Mapping) -> dict | None:
    """The last checkpoint of a run, or None if there is none yet.

    If the last one is corrupt, the previous one is used, and the corrupt one is renamed so that the next save does not
    put it in place of the good one.

    Raises:
        ValueError: if no existing one can be read, or its origin is not that of this run.
    """
    problem = None
    for file in filter(Path.exists, (path, previous(path))):
        try:
            state = _read(file)
        except ValueError as error:
            problem = problem or error
            continue
        if changed := difference(state['origin'], origin):
            raise ValueError(f'{path} belongs to a run with other settings or inputs ({changed}); {AGAIN}')
        if problem and ranks.is_first():
            print(f'warning: {path} is corrupt, renamed to corrupt.pth; resuming from {file}', flush=True)
            os.replace(path, path.with_name('corrupt.pth'))
        return state
    if problem:
        raise problem
    return None


def is_trained(path: Path, origin: Mapping) -> bool:
    """Whether a network's file exists and is the one that this training makes; ValueError if it is another one."""
    if not path.exists():
        return False
    if changed := difference(trained_origin(path), origin):
        raise ValueError(f'{path} was trained with other settings or inputs ({changed}); {AGAIN}')
    return True


def trained_origin(path: Path) -> dict:
    """The origin of a trained network's file; ValueError if it is corrupt or has none."""
    content = read_torch(path, REMEDY, tensors=False)
    try:
        return dict(content['meta']['origin'])
    except (TypeError, KeyError, ValueError, IndexError):
        raise ValueError(f'{path} does not say what it was trained on, so it is not replaced; move it away, or give '
                         '--run NAME') from None


def remove_training(model: Path, last: Path) -> None:
    """Remove what an earlier training left: the network, the previous checkpoint, the last one.

    In this order a run killed meanwhile is never taken for finished: it resumes from the last one or starts over.

    Raises:
        ValueError: if one was not written by this code; then nothing is removed.
    """
    paths = [path for path in (model, previous(last), last) if path.exists()]
    for path in paths:
        trained_origin(path) if path == model else _read(path, tensors=False)
    for path in paths:
        path.unlink()


def _read(path: Path, tensors: bool = True) -> dict:
    state = read_torch(path, REMEDY, tensors)
    if not isinstance(state, dict) or not isinstance(state.get('origin'), dict):
        raise ValueError(f'{path} is not a checkpoint; {REMEDY}')
    return state
