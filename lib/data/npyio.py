"""The reference's label files: a pickled NumPy dict {class index: float32 [H, W]} in .npy, used by many codebases.

Unpickling can run code, and even NumPy's own __setstate__ can be made to take a file's bytes for pointers. So the
unpickler here resolves the names of arrays to one stand-in, refuses all others, and is used on request alone.
"""
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lib.data.labelio import read_maps
from lib.files.fileio import replacing
from lib.files.origin import npy_trailer

ALLOWED = ('numpy.ndarray', 'numpy.dtype', 'numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct')
NUMBERS = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8')
TOLERANCE = 1e-3


def write_npy_maps(path: Path, keys: Sequence[int], maps: np.ndarray, origin: str = '') -> None:
    """Write the CAMs of one image as {class index from 0: float32 [H, W]}, with the arguments of labelio.write_maps."""
    content = {int(key): np.array(values, np.float32) for key, values in zip(keys, maps, strict=True)}
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        np.lib.format.write_array_header_1_0(file, {'descr': '|O', 'fortran_order': False, 'shape': ()})
        _Pickler(file, protocol=3).dump(np.array(content, object))
        file.write(npy_trailer(origin))


def write_npy_scores(path: Path, keys: Sequence[int], scores: np.ndarray, origin: str = '') -> None:
    """Write CRF scores [1 + k, H, W], background first, as {0: background, class index + 1: ...}.

    This is AffinityNet's convention: unlike in CAM files, class 0 of the data set has key 1.
    """
    write_npy_maps(path, [0, *(int(key) + 1 for key in keys)], scores, origin)


def read_npy_maps(path: Path, size: tuple[int, int], num_fg: int) -> tuple[np.ndarray, np.ndarray]:
    """Read CAMs as write_npy_maps and the reference write them; size: (H, W) of the image, for files without any class.

    Returns and raises what labelio.read_maps does; a file that asks for code is an error. The lowest pixels of the
    reference's maps are below 0, see tool/seamutils.fuse_scales; they become 0.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing; check the folder and the list of images')
    try:
        with open(path, 'rb') as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)     # np.save writes no other version of objects
            if shape or dtype.char != 'O':
                raise ValueError(f'it is an array of {dtype}, shape {list(shape)}')
            (content,) = _decode(_Unpickler(file).load())
        keys, maps = sorted(content), [_decode(content[key]) for key in sorted(content)]
        if not all(type(key) is int and key >= 0 for key in keys):
            raise ValueError('the keys are not class indices')
        if not all(item.ndim == 2 and item.shape == maps[0].shape and np.isfinite(item).all() for item in maps):
            raise ValueError('it does not hold finite maps [H, W] of one size')
    except Exception as error:                  # a corrupt pickle can end in any error
        reason = f'{type(error).__name__}: {" ".join(str(error).split())[:150]}'
        raise ValueError(f'{path} is corrupt or not a pickled dict of maps ({reason})') from error
    if keys and keys[-1] >= num_fg:
        raise ValueError(f'{path} has key {keys[-1]}, this data set has keys below {num_fg}; check --dataset')
    maps = np.stack(maps).astype(np.float32) if maps else np.zeros((0, *size), np.float32)
    for values in maps:
        # All pixels that the reference puts below 0 share one value of the map; logits would have many.
        below = values[values < -TOLERANCE]
        if values.max(initial=0) > 1 + TOLERANCE or (below.size and np.ptp(below) > TOLERANCE * -below.min()):
            raise ValueError(f'{path}: maps must be in [0, 1], found {values.min()} to {values.max()}; normalise them')
    return np.array(keys, np.int64), maps.clip(0, 1)


def read_npy_seeds(paths: Mapping[float, Path], size: tuple[int, int],
                   num_fg: int) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """The CRF scores of one image at several background strengths, as labelio.read_seeds gives them.

    `paths` are files by background strength; one without any key is background. The rest is as in read_npy_maps.
    """
    all_keys, seeds = [], {}
    for alpha, path in paths.items():
        keys, scores = read_npy_maps(path, size, num_fg + 1)
        if not len(keys):
            keys, scores = np.zeros(1, np.int64), np.ones((1, *size), np.float32)
        if keys[0] != 0:
            raise ValueError(f'{path} has keys {keys.tolist()} but no background, key 0; are these CAMs?')
        all_keys.append(keys.tolist())
        seeds[alpha] = scores
    if any(keys != all_keys[0] for keys in all_keys) or len({scores.shape for scores in seeds.values()}) > 1:
        raise ValueError(f'{" and ".join(map(str, paths.values()))} differ in classes or size; '
                         'they must come from the same CAMs')
    return np.array(all_keys[0][1:], np.int64) - 1, seeds


def read_any_maps(path: Path, size: tuple[int, int], num_fg: int) -> tuple[np.ndarray, np.ndarray]:
    """CAMs of an .npy or .npz file."""
    return read_npy_maps(path, size, num_fg) if path.suffix == '.npy' else read_maps(path, num_fg)


def seed_folders(folder: Path) -> dict[float, Path]:
    """The two folders alpha_<strength> of CRF scores in a folder, by strength, the lower one first."""
    folders = {float(match[1]): path for path in sorted(folder.glob('alpha_*'))
               if (match := re.fullmatch(r'alpha_(\d+\.?\d*)', path.name))}
    if len(folders) != 2:
        raise ValueError(f'{folder} holds {len(folders)} folders alpha_<strength>, not 2; name the folder above '
                         'alpha_1.0 and alpha_24.0, and move any others away')
    return dict(sorted(folders.items()))


def label_source(given: Path | None, own: Path, unpickle: bool, flag: str) -> tuple[Path, str]:
    """The folder to read label files from, the one `given` by a flag or the run's `own`, and their suffix."""
    if unpickle and given is None:
        raise ValueError(f'--unpickle reads .npy files from a folder of yours; name it with {flag} DIR')
    folder = given or own
    if not unpickle and not any(folder.glob('*.npz')) and (any(folder.glob('*.npy')) or any(folder.glob('*/*.npy'))):
        raise ValueError(f'{folder} holds .npy files, which are pickled and can contain code; give --unpickle to read '
                         'them')
    return folder, '.npy' if unpickle else '.npz'


class _Pickler(pickle.Pickler):
    """Arrays as calls of numpy.ndarray, whose name is the same in NumPy 1 and 2; np.save's files name numpy._core."""

    def reducer_override(self, value):
        return (np.ndarray, ((0,),), value.__reduce__()[2]) if isinstance(value, np.ndarray) else NotImplemented


class _StandIn:
    """The arguments that a file passes to NumPy for a dtype or an array: checked before anything is made of them."""

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if f'{module}.{name}' not in ALLOWED:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}, which a label file does not need')
        return _StandIn


def _decode(array: _StandIn) -> np.ndarray | list:
    """An array of numbers, or the list of what an array of objects holds."""
    _, shape, dtype, by_columns, data = array.state
    code, order = dtype.args[0], dtype.state[1]
    if code == 'O8':
        return data
    if code not in NUMBERS:
        raise ValueError(f'it holds values of type {code}')
    return np.frombuffer(data, order + code).reshape(shape, order='F' if by_columns else 'C')
