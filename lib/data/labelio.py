"""Files of CAMs and CRF seeds: compressed .npz without pickle, written whole or not at all.

How the numbers are stored is known to this module only; a version in each file says which way it was.
"""
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tool.fileio import replacing

VERSION = 1   # float16 values
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
REMEDY = 'python infer_cam.py --dataset NAME --split SPLIT'


def write_maps(path: Path, keys: Sequence[int], maps: np.ndarray) -> None:
    """Write the CAMs of one image.

    Args:
        path: .npz file; its folder is made where absent.
        keys: ascending foreground class indices [k], from 0.
        maps: [k, H, W] in [0, 1]; k may be 0.

    Raises:
        ValueError: if keys and maps do not belong together or a value is outside [0, 1].
    """
    keys = _checked(path, keys, maps, len(maps))
    _write(path, maps_version=VERSION, keys=keys, maps=maps.astype(np.float16))


def read_maps(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read what write_maps wrote.

    Returns:
        Class indices int64 [k] and CAMs float32 [k, H, W] in [0, 1].

    Raises:
        FileNotFoundError: if there is no such file; names the command that makes it.
        ValueError: if the file is damaged or none of ours; the same.
    """
    data = _read(path, 'CAM', 'maps_version', ('keys', 'maps'))
    if data['maps'].ndim != 3 or data['keys'].shape != data['maps'].shape[:1]:
        raise ValueError(f'{path} holds {data["keys"].size} classes and maps {list(data["maps"].shape)}, which do not '
                         f'fit; delete it and make it again with {REMEDY}')
    return data['keys'].astype(np.int64), data['maps'].astype(np.float32)


def write_seeds(path: Path, keys: Sequence[int], scores: Mapping[float, np.ndarray]) -> None:
    """Write the CRF seeds of one image.

    Args:
        path: .npz file; its folder is made where absent.
        keys: ascending foreground class indices [k], from 0.
        scores: background strength alpha -> scores [1 + k, H, W] in [0, 1], background first.

    Raises:
        ValueError: as write_maps.
    """
    stacked = np.stack(list(scores.values()))
    keys = _checked(path, keys, stacked, stacked.shape[1] - 1)
    _write(path, seeds_version=VERSION, keys=keys, alphas=np.array(list(scores), np.float64),
           scores=stacked.astype(np.float16))


def read_seeds(path: Path) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """Read what write_seeds wrote.

    Returns:
        Class indices int64 [k], and alpha -> scores float32 [1 + k, H, W] in [0, 1], background first.

    Raises:
        FileNotFoundError, ValueError: as read_maps.
    """
    data = _read(path, 'seed', 'seeds_version', ('keys', 'alphas', 'scores'))
    keys, alphas, scores = data['keys'], data['alphas'], data['scores']
    if scores.ndim != 4 or scores.shape[:2] != (len(alphas), 1 + len(keys)):
        raise ValueError(f'{path} holds {keys.size} classes, {alphas.size} strengths and scores {list(scores.shape)}, '
                         f'which do not fit; delete it and make it again with {REMEDY}')
    return keys.astype(np.int64), {float(alpha): part.astype(np.float32) for alpha, part in zip(alphas, scores)}


def _checked(path, keys, values, count):
    """Class indices as an int16 array, after checking them and the values."""
    keys = np.asarray(keys, np.int16)
    if keys.shape != (count,) or (np.diff(keys) <= 0).any() or (keys < 0).any():
        raise ValueError(f'{path}: maps of {count} classes need as many ascending class indices, found {keys.tolist()}')
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f'{path}: values must lie in [0, 1], found {values.min()} to {values.max()}; '
                         'check the weights they came from')
    return keys


def _write(path, **arrays):
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        np.savez_compressed(file, **arrays)


def _read(path, kind, version_key, names):
    """The named arrays of a file of ours, as a dict."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing; make the {kind} files of {path.parent} with {REMEDY}')
    try:
        # Never unpickle: that would run code from the file.
        with np.load(path, allow_pickle=False) as file:
            version = int(file[version_key])
            data = {name: file[name] for name in names}
    except DAMAGE as error:
        reason = ' '.join(str(error).split())[:100]
        raise ValueError(f'{path} is damaged or no {kind} file of ours ({type(error).__name__}: {reason}); '
                         f'delete it and make it again with {REMEDY}') from error
    if version != VERSION:
        raise ValueError(f'{path} is a {kind} file of version {version}, this code reads {VERSION}; '
                         f'delete it and make it again with {REMEDY}')
    return data
