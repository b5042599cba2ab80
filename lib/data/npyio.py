"""The reference's label files: a pickled NumPy dict {class index: float32 [H, W]} in .npy, as related codes use them.

Unpickling runs whatever a file asks for. Here it can ask for stand-ins that hold numbers and for nothing else, and not
even NumPy's own unpickling sees the file; but as the format is what it is, the scripts read it on request alone.
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
        num_fg: number of classes of the data set, which none may exceed.

    Returns:
        As labelio.read_maps: ascending class indices int64 [k] and CAMs float32 [k, H, W] in [0, 1]. The lowest pixels
        of the reference's maps lie below 0, see tool/camutils.fuse_scales; they become 0.

    Raises:
        FileNotFoundError, ValueError: if the file is missing, corrupt, asks for code or holds something else.
    """
    keys, maps = _read(path, num_fg)
    if not len(keys):
        return keys, np.zeros((0, *_known(path, size)), np.float32)
    for key, values in zip(keys, maps):
        below = values[values < -TOLERANCE]
        # All pixels that the reference puts below 0 share one value of the map; logits would have many.
        if not values.max(initial=0) <= 1 + TOLERANCE or (below.size and np.ptp(below) > TOLERANCE * -below.min()):
            raise ValueError(f'{path}: CAMs lie in [0, 1], found {values.min()} to {values.max()} for class {key}; '
                             'normalise the maps before they are read here')
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
    keys, scores = _read(path, None if num_fg is None else num_fg + 1)
    if not len(keys):
        return keys, np.ones((1, *_known(path, size)), np.float32)
    if keys[0] != 0:
        raise ValueError(f'{path} has keys {keys.tolist()} but no background, key 0; are these CAMs, not CRF scores?')
    if not (scores.min(initial=0) >= -TOLERANCE and scores.max(initial=0) <= 1 + TOLERANCE):
        raise ValueError(f'{path}: CRF scores lie in [0, 1], found {scores.min()} to {scores.max()}')
    return keys[1:] - 1, scores.clip(0, 1)


def read_npy_seeds(paths: Mapping[float, Path], size: tuple[int, int],
                   num_fg: int | None = None) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """The CRF scores of one image at several background strengths, as labelio.read_seeds gives them.

    Raises:
        FileNotFoundError, ValueError: as read_npy_maps; also if the files differ in classes or size.
    """
    found = {alpha: read_npy_scores(path, size, num_fg) for alpha, path in paths.items()}
    (keys, scores), *others = found.values()
    if any(other.shape != scores.shape or (their_keys != keys).any() for their_keys, other in others):
        raise ValueError(f'{" and ".join(map(str, paths.values()))} differ in classes or size; '
                         'they are to come from the same CAMs')
    return keys, {alpha: scores for alpha, (_, scores) in found.items()}


def read_any_maps(path: Path, size: tuple[int, int], num_fg: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """CAMs of a file of either kind, told by its ending."""
    return read_npy_maps(path, size, num_fg) if path.suffix == '.npy' else read_maps(path, num_fg)


def seed_folders(folder: Path) -> dict[float, Path]:
    """The two folders alpha_<strength> of CRF scores in a folder, by strength, lower one first.

    Raises:
        ValueError: if there are not two.
    """
    found = {}
    for path in sorted(Path(folder).glob('alpha_*')):
        try:
            found[float(path.name.removeprefix('alpha_'))] = path
        except ValueError:
            continue
    if len(found) != 2:
        raise ValueError(f'{folder} holds {len(found)} folders alpha_<strength>, not 2; '
                         'name the folder above alpha_1.0 and alpha_24.0, and move further ones away')
    return dict(sorted(found.items()))


def label_place(given: Path | None, own: Path, unpickle: bool, flag: str) -> tuple[Path, str]:
    """The folder to read label files from, and their ending.

    Args:
        given: folder that the user named with `flag`, or None for the run's own.
        unpickle: whether pickled files are to be read.

    Raises:
        ValueError: if unpickling is asked for in the run's own folder, which has no pickled files, or if it is not
            asked for and the folder holds nothing else.
    """
    if unpickle and given is None:
        raise ValueError(f'--unpickle reads .npy files from a folder of yours; name it with {flag} DIR')
    folder = given or own
    if not unpickle and not any(folder.glob('*.npz')) and (any(folder.glob('*.npy')) or any(folder.glob('*/*.npy'))):
        raise ValueError(f'{folder} holds .npy files, which are pickled: a format that can carry code, so it is read '
                         'on request alone; --unpickle reads them')
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

    def known(self):
        if self.code not in NUMBERS:
            raise ValueError(f'values of type {self.code}')
        return np.dtype(self.order + self.code)


class _Array:
    """Stands in for numpy.ndarray. `values`: an array of numbers, or the list of what an object array holds."""

    def __init__(self, *_):
        self.values = None

    def __setstate__(self, state):
        _, shape, dtype, by_columns, data = state
        self.values = (data if dtype.code == 'O8' else
                       np.frombuffer(data, dtype.known()).reshape(shape, order='F' if by_columns else 'C'))


def _number(dtype, data):
    return np.frombuffer(data, dtype.known())[0].item()


STAND_INS = {('numpy', 'ndarray'): _Array, ('numpy', 'dtype'): _Dtype,
             ('numpy._core.multiarray', '_reconstruct'): _Array, ('numpy._core.multiarray', 'scalar'): _number}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        found = STAND_INS.get((module.replace('numpy.core.', 'numpy._core.'), name))
        if found is None:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}, which a label file does not need')
        return found


def _read(path, count):
    """Ascending keys int64 [k] and maps float32 [k, H, W] of a file; an empty one gives maps [0, 0, 0]."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing; check the folder and the list of images')
    try:
        with open(path, 'rb') as file:
            _skip_header(file)
            (content,) = _Unpickler(file).load().values
    except Exception as error:                  # a corrupt pickle can end in any error
        reason = ' '.join(str(error).split())[:150]
        raise ValueError(f'{path} is corrupt or no pickled dict of maps ({type(error).__name__}: {reason}); it was '
                         'not read') from error
    if not isinstance(content, dict) or not all(type(key) is int and key >= 0 for key in content):
        raise ValueError(f'{path} holds no dict from class indices to maps')
    if count is not None and max(content, default=-1) >= count:
        raise ValueError(f'{path} has the key {max(content)}, this data set has keys below {count}; check --dataset')
    keys = sorted(content)
    maps = [getattr(content[key], 'values', None) for key in keys]
    if not all(isinstance(values, np.ndarray) and values.ndim == 2 and values.shape == maps[0].shape
               for values in maps):
        raise ValueError(f'{path} holds something else than maps [H, W] of one size')
    stacked = np.stack(maps).astype(np.float32) if maps else np.zeros((0, 0, 0), np.float32)
    if not np.isfinite(stacked).all():
        raise ValueError(f'{path} holds values that are not finite; make it again')
    return np.array(keys, np.int64), stacked


def _skip_header(file):
    """Read the header of an .npy file; what follows is the pickle."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = read[np.lib.format.read_magic(file)](file)
    if shape or dtype.char != 'O':
        raise ValueError(f'it is an array of {dtype}, shape {list(shape)}')


def _known(path, size):
    if size is None:
        raise ValueError(f'{path} has no class, so it does not tell its size; read it with the size of its image')
    return size
