"""Files of CAMs, CRF seeds and probabilities: compressed .npz without pickle, written atomically.

Only this module knows how the numbers of CAMs and seeds are stored; a version in each file names the encoding.

1   float16 values
2   one byte each: 0, or the number i of the interval ((i - 1) / 200, i / 200] that holds the value. All thresholds of
    the evaluation are ends of intervals, and a CAM that is not its pixel's strongest falls by one interval where it
    would win a tie: so labels made of CAMs are the same before and after. What is stored is the difference to the
    plane through three neighbours, nearly always a small number. Seeds leave out the background where it is 1 minus
    the sum of the classes, as a CRF makes it.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lib.files.origin import write_npz
from tool.camutils import strongest_class

VERSION = 2
INTERVALS = 200
EDGES = (np.arange(INTERVALS + 1) / INTERVALS).astype(np.float32)
# Middles of the intervals: sums of many values, as in affinity labels, are unbiased. 0 and 1 are restored exactly.
VALUES = np.concatenate([[0], (np.arange(INTERVALS - 1) + 0.5) / INTERVALS, [1]]).astype(np.float32)
REMEDY = 'python infer_cam.py --dataset NAME --split SPLIT'


def write_maps(path: Path, keys: Sequence[int], maps: np.ndarray, origin: str = '',
               probs: np.ndarray | None = None) -> None:
    """Write the CAMs of one image; they are restored to within 0.01, and their labels at all thresholds exactly.

    Args:
        path: .npz file.
        keys: ascending foreground class indices [k], from 0.
        maps: [k, H, W] in [0, 1]; k may be 0.
        origin: what the file is made from, see lib/files/origin.py.
        probs: the classifier's probabilities [K] of all foreground classes.

    Raises ValueError if keys and maps do not belong together or a value is outside [0, 1].
    """
    keys, number = _checked(path, keys, maps, len(maps)), _keep_strongest(maps, _number(maps))
    extra = {} if probs is None else {'probs': probs.astype(np.float32)}
    write_npz(path, origin, maps_version=VERSION, keys=keys, maps=_encode(number), **extra)


def read_maps(path: Path, num_fg: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Class indices int64 [k] and CAMs float32 [k, H, W] in [0, 1], as write_maps wrote them.

    Raises FileNotFoundError, or ValueError if the file is corrupt, not written by this code, or has a class index of
    num_fg, the number of classes of the data set, or more; both name the command that makes it.
    """
    keys, maps = _read(path, 'CAM', num_fg, 'maps_version', 'keys', 'maps')
    _require(maps.ndim == 3 and len(maps) == len(keys), path, f'holds {len(keys)} classes but maps {list(maps.shape)}')
    return keys, _decode(path, maps)


def read_image_probs(path: Path, num_fg: int) -> np.ndarray | None:
    """The classifier's probabilities float32 [K] in a CAM file; None in an earlier version. Errors of read_maps."""
    _, probs = _read(path, 'CAM', num_fg, 'maps_version', 'keys', 'probs')
    _require(probs is None or probs.shape == (num_fg,) and np.isfinite(probs).all(), path,
             f'holds probabilities {list(np.shape(probs))}')
    return probs


def write_seeds(path: Path, keys: Sequence[int], scores: Mapping[float, np.ndarray], origin: str = '') -> None:
    """Write the CRF seeds of one image; they are restored to within 0.005, background to within that for each class.

    scores: background strength alpha -> scores [1 + k, H, W] in [0, 1], background first. The rest, and the errors, are
    those of write_maps.
    """
    stacked = np.stack(list(scores.values()))
    keys = _checked(path, keys, stacked, stacked.shape[1] - 1)
    if stacked.size and np.abs(stacked.sum(1) - 1).max() < 1 / (2 * INTERVALS):
        stacked = stacked[:, 1:]
    write_npz(path, origin, seeds_version=VERSION, keys=keys, alphas=np.array(list(scores), np.float64),
              scores=_encode(_number(stacked)))


def read_seeds(path: Path, num_fg: int | None = None) -> tuple[np.ndarray, dict[float, np.ndarray]]:
    """Class indices int64 [k], and alpha -> scores float32 [1 + k, H, W] in [0, 1], background first; as read_maps."""
    keys, alphas, scores = _read(path, 'seed', num_fg, 'seeds_version', 'keys', 'alphas', 'scores')
    _require(alphas.ndim == 1 and alphas.dtype == np.float64 and np.isfinite(alphas).all() and (alphas > 0).all(),
             path, 'holds background strengths that are not positive numbers')
    _require(scores.ndim == 4 and scores.shape[:2] in ((len(alphas), 1 + len(keys)), (len(alphas), len(keys))),
             path, f'holds {len(keys)} classes and {len(alphas)} strengths but scores {list(scores.shape)}')
    scores = _decode(path, scores)
    if scores.shape[1] == len(keys):
        background = np.maximum(1 - scores.sum(1, keepdims=True), 0)
        scores = np.concatenate([background, scores], axis=1)
    return keys, {float(alpha): part for alpha, part in zip(alphas, scores)}


def write_probs(path: Path, probs: np.ndarray, classes: Sequence[str], origin: str = '') -> None:
    """Write a segmentation's probabilities [C, H, W] as `probs` (float16) and the names by channel as `classes`."""
    write_npz(path, origin, probs_version=1, probs=probs.astype(np.float16), classes=np.array(classes))


def _number(values: np.ndarray) -> np.ndarray:
    """Numbers of the intervals that hold the values in [0, 1], uint8."""
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
    values = np.full(1, np.nan)
    if stored.dtype == np.float16:
        values = stored.astype(np.float32)
    elif stored.dtype == np.uint8:
        number = stored.cumsum(-2, dtype=np.uint8).cumsum(-1, dtype=np.uint8)
        values = VALUES[number] if number.max(initial=0) <= INTERVALS else values
    # So written that NaN is refused too.
    _require(values.min(initial=0) >= 0 and values.max(initial=0) <= 1, path, 'holds values outside of [0, 1]')
    return values


def _checked(path: Path, keys: Sequence[int], values: np.ndarray, count: int) -> np.ndarray:
    """Class indices as an int16 array, after checking them and the values."""
    keys = np.asarray(keys, np.int16)
    if keys.shape != (count,) or (np.diff(keys) <= 0).any() or (keys < 0).any():
        raise ValueError(f'{path}: maps of {count} classes need as many ascending class indices, found {keys.tolist()}')
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f'{path}: values must be in [0, 1], found {values.min()} to {values.max()}; '
                         'check the weights they came from')
    return keys


def _read(path: Path, kind: str, num_fg: int | None, version_key: str, *names: str) -> list[np.ndarray]:
    """The named arrays of a CAM or seed file, after checking the first, which are its class indices."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing; make the {kind} files of {path.parent} with {REMEDY}')
    try:
        with np.load(path, allow_pickle=False) as file:         # unpickling would run code from the file
            version = int(file[version_key])
            keys, *arrays = [file.get(name) if name == 'probs' else file[name] for name in names]
    except Exception as error:                                  # a corrupt archive can end in any error
        reason = f'{type(error).__name__}: {" ".join(str(error).split())[:100]}'
        _require(False, path, f'is corrupt or not a {kind} file of this code ({reason})')
    _require(1 <= version <= VERSION, path, f'is a {kind} file of version {version}; this code reads 1 to {VERSION}')
    ascending = keys.ndim == 1 and keys.dtype.kind in 'iu' and (np.diff(keys.astype(np.int64), prepend=-1) > 0).all()
    _require(ascending, path, f'holds class indices that do not ascend from 0: {keys.tolist()!s:.60}')
    _require(num_fg is None or keys.max(initial=-1) < num_fg, path,
             f'has class index {keys.max(initial=0)}, the data set has {num_fg} classes')
    return [keys.astype(np.int64), *arrays]


def _require(condition: bool, path: Path, problem: str) -> None:
    if not condition:
        raise ValueError(f'{path} {problem}; delete it and regenerate it with {REMEDY}')
