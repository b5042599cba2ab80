"""Files of a training run: its checkpoint, the one before it, and the trained network."""
import os
from collections.abc import Mapping
from pathlib import Path

from lib.files.torchfile import read_torch, write_torch
from lib.run.origin import NEW_OR_BOTH, difference

REMEDY = 'move it away'
AGAIN = NEW_OR_BOTH.format('it')


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one is."""
    return path.with_name('previous.pth')


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint; the last one becomes the one before it, and that one goes only when the new one is whole."""
    draft = path.with_name('next.pth')
    write_torch(draft, state)
    if path.exists():
        os.replace(path, previous(path))
    os.replace(draft, path)


def trained_origin(path: Path) -> dict | None:
    """The origin of a trained network's file; None where there is no file.

    Raises:
        ValueError: if the file is corrupt or does not say what it was trained on.
    """
    if not path.exists():
        return None
    content = read_torch(path, REMEDY, tensors=False)
    meta = content.get('meta') if isinstance(content, dict) else None
    origin = meta.get('origin') if isinstance(meta, dict) else None
    if not isinstance(origin, dict):
        raise ValueError(f'{path} does not say what it was trained on, so it is not replaced; move it away, or give '
                         '--run NAME')
    return origin


def is_trained(path: Path, origin: Mapping) -> bool:
    """Whether a network's file is there and the one that this training makes.

    Raises:
        ValueError: if it is another one.
    """
    then = trained_origin(path)
    if then is not None and (changed := difference(then, origin)):
        raise ValueError(f'{path} was trained with other settings or inputs ({changed}); {AGAIN}')
    return then is not None


def remove_training(model: Path, last: Path) -> None:
    """Remove what an earlier training left: the network, the older checkpoint, the newer one.

    In this order a run killed meanwhile is never taken for finished, and resumes from the newer one or starts over.

    Raises:
        ValueError: as trained_origin, and if a checkpoint is not one of ours.
    """
    trained_origin(model)
    for path in (previous(last), last):
        if path.exists():
            _read(path, tensors=False)
    for path in (model, previous(last), last):
        path.unlink(missing_ok=True)


def load_checkpoint(path: Path, origin: Mapping) -> dict | None:
    """The checkpoint of a run, or None where there is none yet. A corrupt one is replaced by the one before it.

    Args:
        path: the file.
        origin: this run's, compared with that of the checkpoint.

    Raises:
        ValueError: if both are corrupt, or belong to a training with other settings or inputs; shows the difference.
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
            print(f'warning: {problems[0].split(";")[0]}; resuming from {file}, the checkpoint before it', flush=True)
        if changed := difference(state['origin'], origin):
            raise ValueError(f'{path} belongs to a run with other settings or inputs ({changed}); {AGAIN}')
        return state
    if problems:
        raise ValueError(problems[0])
    return None


def _read(path: Path, tensors: bool = True) -> dict:
    state = read_torch(path, REMEDY, tensors)
    if not isinstance(state, dict) or not isinstance(state.get('origin'), dict):
        raise ValueError(f'{path} is not a checkpoint; {REMEDY}')
    return state
