"""Files of CAMs and CRF seeds: compressed .npz without pickle, written whole or not at all.

How the numbers are stored is known to this module only; a version in each file says which way it was.

1   float16 values
2   a byte each: 0, or the number i of the interval ((i - 1) / 200, i / 200] that holds the value. All thresholds of
    the evaluation are ends of intervals, and a CAM that is not its pixel's strongest falls by one interval where it
    would win a tie: so labels made of CAMs are the same before and after. What is stored is the difference to the
    plane through three neighbours, nearly always a small number. Seeds leave out background where it is what the
    classes leave, as a CRF makes it.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lib.files.fileio import replacing
from lib.files.origin import write_npz
from tool.camutils import strongest_class

VERSION = 2
INTERVALS = 200
EDGES = (np.arange(INTERVALS + 1) / INTERVALS).astype(np.float32)
# Middles of the intervals: sums of many values, as the affinity labels are, stay right. 0 and 1 come back as they were.
VALUES = np.concatenate([[0], (np.arange(INTERVALS - 1) + 0.5) / INTERVALS, [1]]).astype(np.float32)
REMEDY = 'python infer_cam.py --dataset NAME --split SPLIT'


def write_maps(path: Path, keys: Sequence[int], maps: np.ndarray, origin: str = '') -> None:
    """Write the CAMs of one image; they come back within 0.01, and their labels at the evaluation's thresholds exactly.

    Args:
        path: .npz file; its folder is made where absent.
        keys: ascending foreground class indices [k], from 0.
        maps: [k, H, W] in [0, 1]; k may be 0.
        origin: what the file is made from, see lib/files/origin.py.

    Raises:
        ValueError: if keys and maps do not belong together or a value is outside [0, 1].
    """
    keys = _checked(path, keys, maps, len(maps))
    _write(path, origin, maps_version=VERSION, keys=keys, maps=_encode(_keep_strongest(maps, _number(maps))))


def read_maps(path: Path, num_fg: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read what write_maps wrote. `num_fg`: number of classes of the data set, which none may exceed.

    Returns:
        Class indices int64 [k] and CAMs float32 [k, H, W] in [0, 1].

    Raises:
        FileNotFoundError: if there is no such file; names the command that makes it.
        ValueError: if the file is corrupt, was not written by this code, or has a class too many; the same.
    """
    data = _read(path, 'CAM', 'maps_version', ('keys', 'maps'))
    if data['maps'].ndim != 3 or data['keys'].shape != data['maps'].shape[:1]:
        raise ValueError(f'{path} holds {data["keys"].size} classes and maps {list(data["maps"].shape)}, which do not '
                         f'fit; delete it and make it again with {REMEDY}')
    return _known_keys(path, data['keys'], num_fg), _decode(path, data['maps'])


def write_seeds(path: Path, keys: Sequence[int], scores: Mapping[float, np.ndarray], origin: str = '') -> None:
    """Write the CRF seeds of one image; they come back within 0.005, background within as much for each class.

    Args:
        path: .npz file; its folder is made where absent.
        keys: ascending foreground class indices [k], from 0.
        scores: background strength alpha -> scores [1 + k, H, W] in [0, 1], background first.

    Raises:
        ValueError: as write_maps.
    """
    stacked = np.stack(list(scores.values()))
    keys = _checked(path, keys, stacked, stacked.shape[1] - 1)
    if stacked.size and np.abs(stacked.sum(1) - 1).max() < 1 / (2 * INTERVALS):
        stacked = stacked[:, 1:]
    _write(path, origin, seeds_version=VERSION, keys=keys, alphas=np.array(list(scores), np.float64),
           scores=_encode(_number(stacked)))


def read_seeds(path: Path, num_fg: int | None = None) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """Read what write_seeds wrote. `num_fg`: as in read_maps.

    Returns:
        Class indices int64 [k], and alpha -> scores float32 [1 + k, H, W] in [0, 1], background first.

    Raises:
        FileNotFoundError, ValueError: as read_maps.
    """
    data = _read(path, 'seed', 'seeds_version', ('keys', 'alphas', 'scores'))
    keys, alphas, scores = _known_keys(path, data['keys'], num_fg), data['alphas'], data['scores']
    if alphas.ndim != 1 or alphas.dtype != np.float64 or not (alphas > 0).all() or not np.isfinite(alphas).all():
        raise ValueError(f'{path} holds strengths of background that cannot be; delete it and make it again with '
                         f'{REMEDY}')
    if scores.ndim != 4 or scores.shape[:2] not in ((len(alphas), 1 + len(keys)), (len(alphas), len(keys))):
        raise ValueError(f'{path} holds {keys.size} classes, {alphas.size} strengths and scores {list(scores.shape)}, '
                         f'which do not fit; delete it and make it again with {REMEDY}')
    scores = _decode(path, scores)
    if scores.shape[1] == len(keys):
        background = np.maximum(1 - scores.sum(1, keepdims=True), 0)
        scores = np.concatenate([background, scores], axis=1)
    return keys, {float(alpha): part for alpha, part in zip(alphas, scores)}


def _number(values: np.ndarray) -> np.ndarray:
    """Intervals that values in [0, 1] lie in, uint8."""
    return np.searchsorted(EDGES, values.astype(np.float32)).astype(np.uint8)


def _keep_strongest(maps: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Intervals of maps [k, H, W], a lower one where the first of equal intervals is not that of the strongest map."""
    if len(maps) < 2:
        return number
    index, _ = strongest_class(maps)
    top = np.take_along_axis(number, index[None].astype(np.int64), axis=0)
    return number - ((number == top) & (np.arange(len(maps))[:, None, None] < index))


def _encode(number: np.ndarray) -> np.ndarray:
    """Intervals [..., H, W] as bytes of the same shape that compress well."""
    for axis in (-1, -2):
        number = np.diff(number, axis=axis, prepend=np.uint8(0))        # modulo 256, as the sums of _decode are
    return number


def _decode(path: Path, stored: np.ndarray) -> np.ndarray:
    """Values float32 of an array that was stored in either version."""
    values = None
    if stored.dtype == np.float16:
        values = stored.astype(np.float32)
    elif stored.dtype == np.uint8:
        number = stored.cumsum(-2, dtype=np.uint8).cumsum(-1, dtype=np.uint8)
        values = VALUES[number] if number.max(initial=0) <= INTERVALS else None
    if values is None or not (values.min(initial=0) >= 0 and values.max(initial=0) <= 1):      # so NaN is refused too
        raise ValueError(f'{path} holds values outside of [0, 1]; delete it and make it again with {REMEDY}')
    return values


def _known_keys(path: Path, keys: np.ndarray, num_fg: int | None) -> np.ndarray:
    """Class indices of a file as int64, after checking that they ascend and that the data set has such classes."""
    if keys.ndim != 1 or keys.dtype.kind not in 'iu' or (np.diff(keys.astype(np.int64)) <= 0).any() or (keys < 0).any():
        raise ValueError(f'{path} holds class indices that do not ascend from 0: {keys.tolist()!s:.60}; delete it and '
                         f'make it again with {REMEDY}')
    if num_fg is not None and len(keys) and keys[-1] >= num_fg:
        raise ValueError(f'{path} has class index {keys[-1]}, the data set has {num_fg} classes; delete it and make it '
                         f'again with {REMEDY}')
    return keys.astype(np.int64)


def write_probs(path: Path, probs: np.ndarray, classes: Sequence[str], origin: str = '') -> None:
    """Write a segmentation's probabilities [C, H, W] as `probs` (float16) and the names by channel as `classes`."""
    _write(path, origin, probs_version=1, probs=probs.astype(np.float16), classes=np.array(classes))


def read_probs(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read a file of write_probs: probabilities float16 [C, H, W] and the names by channel.

    Raises:
        FileNotFoundError, ValueError: if the file is absent or corrupt.
    """
    data = _read(path, 'probability', 'probs_version', ('probs', 'classes'))
    probs, classes = data['probs'], data['classes']
    if probs.ndim != 3 or probs.dtype != np.float16 or classes.dtype.kind != 'U' or classes.shape != probs.shape[:1]:
        raise ValueError(f'{path} holds probabilities {list(probs.shape)} and names {list(classes.shape)}, which do '
                         'not fit; delete it and make it again with python infer_seg.py --probs')
    if not (probs.min(initial=0) >= 0 and probs.max(initial=0) <= 1):
        raise ValueError(f'{path} holds values outside of [0, 1]; delete it and make it again with python infer_seg.py '
                         '--probs')
    return probs, classes.tolist()


def _checked(path, keys, values, count):
    """Class indices as an int16 array, after checking them and the values."""
    keys = np.asarray(keys, np.int16)
    if keys.shape != (count,) or (np.diff(keys) <= 0).any() or (keys < 0).any():
        raise ValueError(f'{path}: maps of {count} classes need as many ascending class indices, found {keys.tolist()}')
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f'{path}: values must lie in [0, 1], found {values.min()} to {values.max()}; '
                         'check the weights they came from')
    return keys


def _write(path, origin, **arrays):
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        write_npz(file, origin, arrays)


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
    except Exception as error:                  # a corrupt archive can end in any error
        reason = ' '.join(str(error).split())[:100]
        raise ValueError(f'{path} is corrupt or not a {kind} file of this code ({type(error).__name__}: {reason}); '
                         f'delete it and make it again with {REMEDY}') from error
    if not 1 <= version <= VERSION:
        raise ValueError(f'{path} is a {kind} file of version {version}, this code reads 1 to {VERSION}; '
                         f'delete it and make it again with {REMEDY}')
    return data
