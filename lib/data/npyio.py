"""The reference's label files: a pickled NumPy dict {class index: float32 [H, W]} in .npy, shared by many codebases.

Unpickling can run code, and even NumPy's own __setstate__ can be made to take a file's bytes for pointers. So the
unpickler here resolves four names, to stand-ins that hold numbers, and refuses all others. It is used on request alone.
"""
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lib.data.labelio import read_maps
from lib.files.fileio import replacing
from lib.files.origin import npy_trailer

NUMBERS = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8')
TOLERANCE = 1e-3


def write_npy_maps(path: Path, keys: Sequence[int], maps: np.ndarray, origin: str = '') -> None:
    """Write the CAMs of one image as {class index from 0: float32 [H, W]}.

    Args:
        path: .npy file; its folder is made where absent.
        keys: foreground class indices [k], from 0.
        maps: [k, H, W] in [0, 1]; k may be 0, and the file then does not tell H and W.
        origin: what the file is made from, see lib/files/origin.py.
    """
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


def read_npy_maps(path: Path, size: tuple[int, int] | None = None,
                  num_fg: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read CAMs as write_npy_maps and the reference write them.

    Args:
        size: (H, W) of the image; needed for a file without any class, unused for others.
        num_fg: number of classes of the data set, which no key may reach.

    Returns:
        As labelio.read_maps: ascending class indices int64 [k] and CAMs float32 [k, H, W] in [0, 1]. The lowest pixels
        of the reference's maps are below 0, see tool/camutils.normalise_sum; they come out as 0.

    Raises:
        FileNotFoundError, ValueError: if the file is missing, corrupt, asks for code or holds something else.
    """
    keys, maps = _read(path, size, num_fg)
    for values in maps:
        # All pixels that the reference puts below 0 share one value of the map; logits would have many.
        below = values[values < -TOLERANCE]
        if values.max(initial=0) > 1 + TOLERANCE or (below.size and np.ptp(below) > TOLERANCE * -below.min()):
            raise ValueError(f'{path}: CAMs must be in [0, 1], found {values.min()} to {values.max()}; normalise them')
    return keys, maps.clip(0, 1)


def read_npy_scores(path: Path, size: tuple[int, int] | None = None,
                    num_fg: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read CRF scores as write_npy_scores and the reference write them.

    Returns:
        Class indices int64 [k] from 0, and scores float32 [1 + k, H, W] in [0, 1], background first. An empty file is
        background everywhere.

    Raises:
        FileNotFoundError, ValueError: as read_npy_maps.
    """
    keys, scores = _read(path, size, None if num_fg is None else num_fg + 1)
    if not len(keys):
        return keys, np.ones((1, *scores.shape[1:]), np.float32)
    if keys[0] != 0:
        raise ValueError(f'{path} has keys {keys.tolist()} but no background, key 0; are these CAMs, not CRF scores?')
    if scores.min(initial=0) < -TOLERANCE or scores.max(initial=0) > 1 + TOLERANCE:
        raise ValueError(f'{path}: CRF scores must be in [0, 1], found {scores.min()} to {scores.max()}')
    return keys[1:] - 1, scores.clip(0, 1)


def read_npy_seeds(paths: Mapping[float, Path], size: tuple[int, int],
                   num_fg: int | None = None) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """The CRF scores of one image at several background strengths, as labelio.read_seeds gives them.

    Raises:
        FileNotFoundError, ValueError: as read_npy_maps; also if the files differ in classes or size.
    """
    seeds = {alpha: read_npy_scores(path, size, num_fg) for alpha, path in paths.items()}
    (keys, first), *others = seeds.values()
    if any(scores.shape != first.shape or (its_keys != keys).any() for its_keys, scores in others):
        raise ValueError(f'{" and ".join(map(str, paths.values()))} differ in classes or size; '
                         'they must come from the same CAMs')
    return keys, {alpha: scores for alpha, (_, scores) in seeds.items()}


def read_any_maps(path: Path, size: tuple[int, int], num_fg: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """CAMs of an .npy or .npz file."""
    return read_npy_maps(path, size, num_fg) if path.suffix == '.npy' else read_maps(path, num_fg)


def seed_folders(folder: Path) -> dict[float, Path]:
    """The two folders alpha_<strength> of CRF scores in a folder, by strength, the lower one first.

    Raises:
        ValueError: if there are not two.
    """
    folders = {path.name.removeprefix('alpha_'): path for path in Path(folder).glob('alpha_[0-9]*')}
    if len(folders) != 2:
        raise ValueError(f'{folder} holds {len(folders)} folders alpha_<strength>, not 2; name the folder above '
                         'alpha_1.0 and alpha_24.0, and move any others away')
    return dict(sorted((float(alpha), path) for alpha, path in folders.items()))


def label_source(given: Path | None, own: Path, unpickle: bool, flag: str) -> tuple[Path, str]:
    """The folder to read label files from, and their suffix.

    Args:
        given: folder that the user named with `flag`, or None for the run's own.
        own: the run's own folder.
        unpickle: whether pickled files are to be read.

    Raises:
        ValueError: if unpickling is asked for in the run's own folder, which has no pickled files, or if it is not
            asked for and the folder holds nothing else.
    """
    if unpickle and given is None:
        raise ValueError(f'--unpickle reads .npy files from a folder of yours; name it with {flag} DIR')
    folder = given or own
    if not unpickle and not any(folder.glob('*.npz')) and (any(folder.glob('*.npy')) or any(folder.glob('*/*.npy'))):
        raise ValueError(f'{folder} holds .npy files, which are pickled: a format that can carry code, so they are '
                         'read only on request; --unpickle reads them')
    return folder, '.npy' if unpickle else '.npz'


class _Pickler(pickle.Pickler):
    """Arrays as calls of numpy.ndarray, whose name is the same in NumPy 1 and 2; np.save's files name numpy._core."""

    def reducer_override(self, value):
        return (np.ndarray, ((0,),), value.__reduce__()[2]) if isinstance(value, np.ndarray) else NotImplemented


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code, *_):
        self.code, self.order = code, '='

    def __setstate__(self, state):
        self.order = state[1]

    def decode(self, data):
        if self.code not in NUMBERS:
            raise ValueError(f'values of type {self.code}')
        return np.frombuffer(data, self.order + self.code)


class _Array:
    """Stands in for numpy.ndarray. `values`: an array of numbers, or the list of what an object array holds."""

    def __init__(self, *_):
        self.values = None

    def __setstate__(self, state):
        _, shape, dtype, by_columns, data = state
        order = 'F' if by_columns else 'C'
        self.values = data if dtype.code == 'O8' else dtype.decode(data).reshape(shape, order=order)


STAND_INS = {'numpy.ndarray': _Array, 'numpy.dtype': _Dtype, 'numpy._core.multiarray._reconstruct': _Array,
             'numpy._core.multiarray.scalar': lambda dtype, data: dtype.decode(data)[0].item()}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        wanted = f'{module}.{name}'
        if (stand_in := STAND_INS.get(wanted.replace('numpy.core.', 'numpy._core.'))) is None:
            raise pickle.UnpicklingError(f'it asks for {wanted}, which a label file does not need')
        return stand_in


def _read(path, size, num_keys):
    """Ascending keys int64 [k] and finite maps float32 [k, H, W] of a file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing; check the folder and the list of images')
    try:
        with open(path, 'rb') as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)     # np.save writes no other version of objects
            if shape or dtype.char != 'O':
                raise ValueError(f'it is an array of {dtype}, shape {list(shape)}')
            (content,) = _Unpickler(file).load().values
    except Exception as error:                  # a corrupt pickle can end in any error
        reason = f'{type(error).__name__}: {" ".join(str(error).split())[:150]}'
        raise ValueError(f'{path} is corrupt or not a pickled dict of maps ({reason})') from error
    if not isinstance(content, dict) or not all(type(key) is int and key >= 0 for key in content):
        raise ValueError(f'{path} does not hold a dict from class indices to maps')
    if num_keys is not None and max(content, default=-1) >= num_keys:
        raise ValueError(f'{path} has key {max(content)}, this data set has keys below {num_keys}; check --dataset')
    keys = sorted(content)
    maps = [getattr(content[key], 'values', None) for key in keys]
    if not all(isinstance(values, np.ndarray) and values.ndim == 2 and values.shape == maps[0].shape
               and np.isfinite(values).all() for values in maps):
        raise ValueError(f'{path} does not hold finite maps [H, W] of one size')
    if not keys and size is None:
        raise ValueError(f'{path} has no class, so it does not tell its size; read it with the size of its image')
    return np.array(keys, np.int64), np.stack(maps).astype(np.float32) if keys else np.zeros((0, *size), np.float32)
