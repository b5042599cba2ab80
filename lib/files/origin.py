"""The origin of a file, carried in the file itself: what it was made from, as JSON.

PNG: a text chunk before the pixels. JPEG: a comment. .npz: the first member, stored as it is. .npy: behind the pickle.
.pth: an entry of its meta, see lib/net/weights.py. A file is whole if it has its format's end as well.
"""
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL.PngImagePlugin import PngInfo

KEYWORD = 'origin'
MEMBER = 'origin.json'
NEAR, FAR = 1 << 12, 1 << 16        # bytes in which the origin is looked for: where nearly all are, where all are
TAIL = 64                           # bytes in which a file's end is looked for
TRAILER = b'\nHFPL origin '         # in .npy, followed by the length of the JSON before it
# What a format ends with, and how many more bytes there are.
ENDS = {'.png': (b'IEND\xaeB`\x82', 0), '.jpg': (b'\xff\xd9', 0), '.npz': (b'PK\x05\x06', 18), '.npy': (TRAILER, 4)}
UNREADABLE = (ValueError, KeyError, IndexError, struct.error, zlib.error)


def origin_text(origin: Mapping) -> str:
    """An origin as it stands in files: JSON in ASCII, the same for equal origins."""
    return json.dumps(origin, sort_keys=True, separators=(',', ':'))


def png_info(text: str) -> PngInfo:
    """What PIL's save(pnginfo=...) writes into a PNG."""
    info = PngInfo()
    info.add_text(KEYWORD, text)
    return info


def write_npz(file, text: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz whose first member is the origin, uncompressed; np.load reads the arrays as ever."""
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        if text:
            archive.writestr(zipfile.ZipInfo(MEMBER), text, zipfile.ZIP_STORED)
        for name, array in arrays.items():
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def npy_trailer(text: str) -> bytes:
    """Bytes to write behind a pickled array; readers of .npy files do not look there."""
    return text.encode() + TRAILER + struct.pack('<I', len(text)) if text else b''


class State(NamedTuple):
    """What a file's beginning and end tell."""

    origin: dict | None     # None for a file without one
    whole: bool             # see is_whole
    empty: bool


def read_origin(path: Path) -> dict | None:
    """The origin of a PNG, JPEG, .npz or .npy file; None for a file without one.

    Only its beginning and end are read. A file that was cut still has its origin (but for .npy); see is_whole.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    return read_state(path).origin


def is_whole(path: Path) -> bool:
    """Whether a file has its format's end, so was not cut; tells nothing of the bytes between."""
    return read_state(path).whole


def read_state(path: Path) -> State:
    """The origin of a PNG, JPEG, .npz or .npy file and whether it is whole, at the cost of opening it once.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    suffix = os.path.splitext(path)[1]
    with open(path, 'rb') as file:
        tail = _tail(file, TAIL)
        origin = _origin(file, suffix, NEAR) or _origin(file, suffix, FAR)
    mark, more = ENDS.get(suffix, ENDS['.npy'])         # files of other formats have no origin
    return State(origin, tail[-len(mark) - more:][:len(mark)] == mark, not tail)


def _origin(file, suffix: str, count: int) -> dict | None:
    """The origin within so many bytes of a file's beginning (.npy: end)."""
    try:
        origin = json.loads(_TEXT[suffix](_tail(file, count) if suffix == '.npy' else _head(file, count)))
    except UNREADABLE:
        return None
    return origin if isinstance(origin, dict) else None


def _head(file, count: int) -> bytes:
    file.seek(0)
    return file.read(count)


def _tail(file, count: int) -> bytes:
    size = file.seek(0, 2)
    file.seek(max(0, size - count))
    return file.read(count)


def _from_png(head: bytes) -> bytes:
    place = 8
    while (kind := head[place + 4:place + 8]) not in (b'IDAT', b'IEND', b''):
        length, = struct.unpack('>I', head[place:place + 4])
        data = head[place + 8:place + 8 + length]
        if kind == b'tEXt' and data.startswith(KEYWORD.encode() + b'\0'):
            return data[len(KEYWORD) + 1:]
        place += 12 + length
    raise ValueError('no origin')


def _from_jpeg(head: bytes) -> bytes:
    place = 2
    while head[place:place + 1] == b'\xff' and head[place + 1] != 0xda:
        length, = struct.unpack('>H', head[place + 2:place + 4])
        if head[place + 1] == 0xfe:
            return head[place + 4:place + 2 + length]
        place += 2 + length
    raise ValueError('no origin')


def _from_npz(head: bytes) -> bytes:
    signature, *_, size, name, extra = struct.unpack('<4s5H3I2H', head[:30])
    if signature != b'PK\x03\x04' or head[30:30 + name] != MEMBER.encode():
        raise ValueError('no origin')
    return head[30 + name + extra:30 + name + extra + size]


def _from_npy(tail: bytes) -> bytes:
    if tail[-4 - len(TRAILER):-4] != TRAILER:
        raise ValueError('no origin')
    length, = struct.unpack('<I', tail[-4:])
    end = len(tail) - 4 - len(TRAILER)
    return tail[end - length:end]


_TEXT = {'.png': _from_png, '.jpg': _from_jpeg, '.npz': _from_npz, '.npy': _from_npy}
