"""The checkpoint from which an interrupted training run goes on."""
import pickle
from pathlib import Path

import torch

from tool.fileio import replacing

REMEDY = '; remove it, or start over with --fresh'


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint; the former one stays until the new one is whole."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, settings: dict) -> dict | None:
    """The checkpoint of a run, or None where there is none yet.

    Args:
        path: the file.
        settings: this run's settings, compared with those the checkpoint was made with.

    Raises:
        ValueError: if the file is damaged, or was made with other settings; the message shows the difference.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is damaged{REMEDY}') from error
    if not isinstance(state, dict) or not isinstance(state.get('settings'), dict):
        raise ValueError(f'{path} is no checkpoint{REMEDY}')
    made_with = state['settings']
    changed = {key: (made_with.get(key), settings.get(key)) for key in sorted(made_with.keys() | settings.keys())
               if made_with.get(key) != settings.get(key)}
    if changed:
        shown = ', '.join(f'--{key.replace("_", "-")} was {old}, is {new}' for key, (old, new) in changed.items())
        raise ValueError(f'{path} belongs to a run with other settings ({shown}); give --fresh to start over, '
                         'or --run NAME to keep both')
    return state
