"""The origin of a file, carried in the file itself: what it was made from, as JSON.

PNG: a text chunk before the pixels. JPEG: a comment. .npz: the first member, stored as it is. .npy: behind the pickle.
.pth: an entry of its meta, see lib/net/weights.py. A file is whole if it has its format's end as well.
"""
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngInfo

KEYWORD = 'origin'
MEMBER = 'origin.json'
HEAD = 1 << 16                      # bytes in which the origin is looked for
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


def read_origin(path: Path) -> dict | None:
    """The origin of a PNG, JPEG, .npz or .npy file; None for a file without one.

    Only its beginning and end are read. A file that was cut still has its origin (but for .npy); see is_whole.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    suffix = Path(path).suffix
    with open(path, 'rb') as file:
        try:
            origin = json.loads(_TEXT[suffix](file))
        except UNREADABLE:
            return None
    return origin if isinstance(origin, dict) else None


def is_whole(path: Path) -> bool:
    """Whether a file has its format's end, so was not cut; tells nothing of the bytes between."""
    mark, more = ENDS[Path(path).suffix]
    with open(path, 'rb') as file:
        return _tail(file, len(mark) + more)[:len(mark)] == mark


def _tail(file, count: int) -> bytes:
    size = file.seek(0, 2)
    file.seek(max(0, size - count))
    return file.read(count)


def _from_png(file) -> bytes:
    head = file.read(HEAD)
    place = 8
    while (kind := head[place + 4:place + 8]) not in (b'IDAT', b'IEND', b''):
        length, = struct.unpack('>I', head[place:place + 4])
        data = head[place + 8:place + 8 + length]
        if kind == b'tEXt' and data.startswith(KEYWORD.encode() + b'\0'):
            return data[len(KEYWORD) + 1:]
        place += 12 + length
    raise ValueError('no origin')


def _from_jpeg(file) -> bytes:
    head = file.read(HEAD)
    place = 2
    while head[place:place + 1] == b'\xff' and head[place + 1] != 0xda:
        length, = struct.unpack('>H', head[place + 2:place + 4])
        if head[place + 1] == 0xfe:
            return head[place + 4:place + 2 + length]
        place += 2 + length
    raise ValueError('no origin')


def _from_npz(file) -> bytes:
    head = file.read(HEAD)
    signature, *_, size, name, extra = struct.unpack('<4s5H3I2H', head[:30])
    if signature != b'PK\x03\x04' or head[30:30 + name] != MEMBER.encode():
        raise ValueError('no origin')
    return head[30 + name + extra:30 + name + extra + size]


def _from_npy(file) -> bytes:
    tail = _tail(file, HEAD)
    if tail[-4 - len(TRAILER):-4] != TRAILER:
        raise ValueError('no origin')
    length, = struct.unpack('<I', tail[-4:])
    end = len(tail) - 4 - len(TRAILER)
    return tail[end - length:end]


_TEXT = {'.png': _from_png, '.jpg': _from_jpeg, '.npz': _from_npz, '.npy': _from_npy}
