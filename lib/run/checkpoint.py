"""Files of a training run: its last checkpoint and the trained network."""
from collections.abc import Mapping
from pathlib import Path

from lib.files.torchfile import read_torch
from lib.run.origin import NEW_OR_BOTH, difference

REMEDY = 'move it away'
AGAIN = NEW_OR_BOTH.format('it')
FORMER = ('previous.pth', 'next.pth')       # further checkpoints that earlier versions kept


def load_checkpoint(path: Path, origin: Mapping) -> dict | None:
    """The last checkpoint of a run, or None if there is none yet.

    Raises:
        ValueError: if it is corrupt, or its origin is not that of this run.
    """
    state = _read(path) if path.exists() else None
    if state and (changed := difference(state['origin'], origin)):
        raise ValueError(f'{path} belongs to a run with other settings or inputs ({changed}); {AGAIN}')
    return state


def is_trained(path: Path, origin: Mapping) -> bool:
    """Whether a network's file exists and has this origin; ValueError if it has another one."""
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
    """Remove the files of an earlier training: the network, then the last checkpoint.

    In this order, a run that is killed in between never looks finished: it resumes from the checkpoint or starts over.

    Raises:
        ValueError: if one was not written by this code; then nothing is removed.
    """
    if model.exists():
        trained_origin(model)
    if last.exists():
        _read(last, tensors=False)
    model.unlink(missing_ok=True)
    for path in (last, *map(last.with_name, FORMER)):
        path.unlink(missing_ok=True)


def _read(path: Path, tensors: bool = True) -> dict:
    state = read_torch(path, REMEDY, tensors)
    if not isinstance(state, dict) or not isinstance(state.get('origin'), dict):
        raise ValueError(f'{path} is not a checkpoint; {REMEDY}')
    return state
