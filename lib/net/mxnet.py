"""Reader of MXNet's .params files, the format in which the ImageNet weights of ResNet-38d are published.

MXNet is retired and cannot be installed next to current packages, but its file format is simple. All numbers are
little-endian. Layout: u64 magic, u64 0, u64 count, the arrays, u64 count, the names.
"""
import math
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

FILE_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA     # first word of an array; files from 2016 have ndim there instead
DTYPES = {0: '<f4', 1: '<f8', 2: '<f2', 3: 'u1', 4: '<i4', 5: 'i1', 6: '<i8'}
MOST_DIMENSIONS = 32
UNKNOWN_SHAPE = 0xFFFFFFFF                          # ndim -1 of v3
BLOCK_NAME = re.compile(r'(res|bn)(\d)(a|b\d+)_(branch\d\w*?)_([a-z_]+)')
LAYER_NAME = re.compile(r'(conv1a|bn7)_([a-z_]+)')
FIELDS = {'weight': 'weight', 'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean',
          'moving_var': 'running_var'}
IMAGENET_CLASSIFIER = 'linear1000_'


def read_mxnet_params(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a .params file by name ('arg:conv1a_weight', 'aux:bn7_moving_mean').

    Reads the layouts v3, v2, v1 and the one before them, which has no version. Raises FileNotFoundError, or ValueError
    if it is not such a file, is truncated, or has content that this reader does not support.
    """
    try:
        return _read_file(BytesIO(Path(path).read_bytes()))
    except ValueError as error:
        raise ValueError(f'{path}: {error}; download the file again') from error


def resnet38d_from_mxnet(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """State dict of ResNet38d, float32, from the arrays of its MXNet file; the ImageNet classifier is dropped.

    Raises ValueError if a name belongs to another network, or two arrays have the same name.
    """
    state = {}
    for full_name, array in arrays.items():
        name = full_name.removeprefix('arg:').removeprefix('aux:')
        if name.startswith(IMAGENET_CLASSIFIER):
            continue
        ours = _our_name(name)
        if ours is None:
            raise ValueError(f'{full_name} is not an array of ResNet-38d (A1 of "Wider or Deeper"); use its own file')
        if ours in state:
            raise ValueError(f'{full_name} appears twice')
        state[ours] = torch.from_numpy(np.array(array, dtype=np.float32))
    return state


def _our_name(name: str) -> str | None:
    """res4b3_branch2a_weight -> b4_3.conv_branch2a.weight; None for a name of another network."""
    if match := BLOCK_NAME.fullmatch(name):
        kind, stage, unit, branch, field = match.groups()
        block = f'b{stage}' if unit == 'a' else f'b{stage}_{unit[1:]}'
        module = f'{block}.{"bn" if kind == "bn" else "conv"}_{branch}'
    elif match := LAYER_NAME.fullmatch(name):
        module, field = match.groups()
    return f'{module}.{FIELDS[field]}' if match and field in FIELDS else None


def _take(file: BytesIO, dtype: str, count: int) -> np.ndarray:
    """The next numbers of a file as an array [count]."""
    size, left = np.dtype(dtype).itemsize * count, len(file.getbuffer()) - file.tell()
    if size > left:
        raise ValueError(f'corrupt or truncated: {size} bytes are announced where {left} are left')
    return np.frombuffer(file.read(size), dtype)


def _number(file: BytesIO, dtype: str) -> int:
    return int(_take(file, dtype, 1)[0])


def _read_file(file: BytesIO) -> dict[str, np.ndarray]:
    magic = _take(file, '<u8', 2).tolist()
    if magic != [FILE_MAGIC, 0]:
        raise ValueError(f'not an MXNet .params file: starts with {magic[0]:#x} {magic[1]:#x}, not {FILE_MAGIC:#x} 0x0')
    arrays = []
    for _ in range(count := _number(file, '<u8')):
        arrays.append(_read_array(file))      # one at a time: the count may be wrong
    named = _number(file, '<u8')
    if named != count:
        raise ValueError(f'corrupt: {count} arrays but {named} names')
    names = [_take(file, 'u1', _number(file, '<u8')).tobytes().decode() for _ in arrays]
    left = len(file.read())
    if len(set(names)) < len(names) or left:
        raise ValueError(f'corrupt: a name appears twice, or {left} bytes follow the last')
    return dict(zip(names, arrays))


def _read_array(file: BytesIO) -> np.ndarray:
    first = _number(file, '<u4')
    if first in (V2, V3) and (storage := _number(file, '<i4')):
        raise ValueError(f'holds an array of storage type {storage} (sparse); only dense ones, type 0, are read')
    ndim = _number(file, '<u4') if first in (V1, V2, V3) else first
    # An array without a shape ends here. From v3 on, ndim 0 means a single number, -1 no array.
    if ndim == (UNKNOWN_SHAPE if first == V3 else 0):
        return np.empty(0, np.float32)
    if ndim > MOST_DIMENSIONS:
        raise ValueError(f'corrupt or of an unknown layout: an array starts with {first:#x} and has {ndim} dimensions')
    shape = _take(file, '<i8' if first in (V1, V2, V3) else '<u4', ndim).tolist()
    if any(size < 0 for size in shape):
        raise ValueError(f'corrupt: an array has the shape {tuple(shape)}')
    _take(file, '<i4', 2)       # device type and id: where it was when it was saved
    code = _number(file, '<i4')
    if code not in DTYPES:
        raise ValueError(f'holds an array of data type {code}; known are {sorted(DTYPES)}')
    return _take(file, DTYPES[code], math.prod(shape)).reshape(shape)
