"""Reader of MXNet's .params files, the form in which the ImageNet weights of ResNet-38d are published.

MXNet is retired and cannot be installed beside current packages; its file format is simple. All numbers are
little-endian. Layout: u64 magic, u64 0, u64 count, the arrays, u64 count, the names.
"""
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

FILE_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA     # first word of an array; files of 2016 have ndim there instead
DTYPES = {0: '<f4', 1: '<f8', 2: '<f2', 3: 'u1', 4: '<i4', 5: 'i1', 6: '<i8'}
MOST_DIMENSIONS = 32
UNKNOWN_SHAPE = 0xFFFFFFFF                          # ndim -1 of v3
UNIT_NAME = re.compile(r'(?P<kind>res|bn)(?P<stage>\d)(?P<unit>a|b\d+)_(?P<branch>branch\d\w*?)_(?P<field>[a-z_]+)')
FIELDS = {'weight': 'weight', 'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean',
          'moving_var': 'running_var'}
IMAGENET_CLASSIFIER = 'linear1000_'


def read_mxnet_params(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a .params file by name ('arg:conv1a_weight', 'aux:bn7_moving_mean').

    Reads the layouts v3, v2, v1 and the one before them, which has no version.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, ends early, or holds what this reader does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing')
    with open(path, 'rb') as file:
        try:
            return _read_file(_Reader(file))
        except ValueError as error:
            raise ValueError(f'{path}: {error}; fetch the file again') from error


def resnet38d_from_mxnet(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """State dict of ResNet38d, float32, of the arrays of its MXNet file; the ImageNet classifier is dropped.

    Raises:
        ValueError: if a name belongs to another network, or two arrays have one name.
    """
    state = {}
    for full_name, array in arrays.items():
        name = full_name.removeprefix('arg:').removeprefix('aux:')
        if name.startswith(IMAGENET_CLASSIFIER):
            continue
        ours = _our_name(name)
        if ours is None:
            raise ValueError(f'{full_name} is no array of ResNet-38d (A1 of "Wider or Deeper"); use its own file')
        if ours in state:
            raise ValueError(f'{full_name} is there twice')
        state[ours] = torch.from_numpy(np.array(array, dtype=np.float32))
    return state


def _our_name(name: str) -> str | None:
    """res4b3_branch2a_weight -> b4_3.conv_branch2a.weight; None for a name of another network."""
    if match := UNIT_NAME.fullmatch(name):
        block = f'b{match["stage"]}' if match['unit'] == 'a' else f'b{match["stage"]}_{match["unit"][1:]}'
        layer = {'res': 'conv', 'bn': 'bn'}[match['kind']]
        module, field = f'{block}.{layer}_{match["branch"]}', match['field']
    else:
        module, _, field = name.partition('_')
        if module not in ('conv1a', 'bn7'):
            return None
    return f'{module}.{FIELDS[field]}' if field in FIELDS else None


class _Reader:
    """Little-endian numbers from a file; never asks for more than is left."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.left = os.fstat(file.fileno()).st_size

    def take(self, dtype: str, count: int) -> np.ndarray:
        """The next numbers as a new array [count]."""
        size = np.dtype(dtype).itemsize * count
        if size > self.left:
            raise ValueError(f'corrupt or cut off: {size} bytes are announced where {self.left} are left')
        self.left -= size
        return np.fromfile(self.file, dtype, count)

    def number(self, dtype: str) -> int:
        return int(self.take(dtype, 1)[0])


def _read_file(reader: _Reader) -> dict[str, np.ndarray]:
    magic, reserved = reader.number('<u8'), reader.number('<u8')
    if magic != FILE_MAGIC or reserved:
        raise ValueError(f'no MXNet .params file: starts with {magic:#x} {reserved:#x}, not {FILE_MAGIC:#x} 0x0')
    count = reader.number('<u8')
    arrays = []
    while len(arrays) < count:
        arrays.append(_read_array(reader))
    named = reader.number('<u8')
    if named != count:
        raise ValueError(f'corrupt: {count} arrays but {named} names')
    names = [_read_name(reader) for _ in range(named)]
    if len(set(names)) < len(names):
        raise ValueError('corrupt: a name is there twice')
    if reader.left:
        raise ValueError(f'corrupt: {reader.left} bytes follow the last name')
    return dict(zip(names, arrays, strict=True))


def _read_name(reader: _Reader) -> str:
    try:
        return reader.take('u1', reader.number('<u8')).tobytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError('corrupt: a name is no text') from error


def _read_array(reader: _Reader) -> np.ndarray:
    first = reader.number('<u4')
    if first in (V2, V3):
        storage = reader.number('<i4')
        if storage:
            raise ValueError(f'holds an array of storage type {storage} (sparse); only dense ones, type 0, are read')
    ndim = reader.number('<u4') if first in (V1, V2, V3) else first
    # An array without a shape ends here. From v3 on, ndim 0 is a single number, and -1 says that there is none.
    if ndim == (UNKNOWN_SHAPE if first == V3 else 0):
        return np.empty(0, np.float32)
    if ndim > MOST_DIMENSIONS:
        raise ValueError(f'corrupt or of an unknown layout: an array starts with {first:#x} and has {ndim} dimensions')
    shape = reader.take('<i8' if first in (V1, V2, V3) else '<u4', ndim).tolist()
    if any(size < 0 for size in shape):
        raise ValueError(f'corrupt: an array has the shape {tuple(shape)}')
    reader.take('<i4', 2)       # device type and id: where it lay when it was saved
    code = reader.number('<i4')
    if code not in DTYPES:
        raise ValueError(f'holds an array of data type {code}; known are {sorted(DTYPES)}')
    return reader.take(DTYPES[code], math.prod(shape)).reshape(shape)
