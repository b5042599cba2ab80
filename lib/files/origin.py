"""The origin of a file, stored in the file itself: what it was made from, as JSON.

PNG: a text chunk before the pixels. JPEG: a comment. .npz: the first member, uncompressed. .npy: after the pickle.
.pth: an entry of its meta, see lib/net/weights.py. In all but .pth the JSON is plain ASCII and starts with its
alphabetically first key, so one search finds it in every format.
"""
import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.files.fileio import replacing

START = b'{"classes":'
REACH = 1 << 16                     # bytes from the beginning (.npy: from the end) that are searched
TRAILER = b'\nHFPL origin '         # ends a .npy, followed by the length of the JSON before it
# What an intact file ends with, and how many more bytes follow.
ENDS = {'.png': (b'IEND\xaeB`\x82', 0), '.jpg': (b'\xff\xd9', 0), '.npz': (b'PK\x05\x06', 18), '.npy': (TRAILER, 4)}


class State(NamedTuple):
    """What the beginning and end of a file reveal."""

    origin: dict | None     # None for a file without one
    intact: bool            # whether it ends as its format does, so was not truncated
    empty: bool             # or absent


def origin_text(origin: Mapping) -> str:
    """An origin as it is stored: JSON in ASCII, the same for equal origins."""
    return json.dumps(origin, sort_keys=True, separators=(',', ':'))


def write_npz(path: Path, text: str, **arrays: np.ndarray) -> None:
    """Write a compressed .npz with an origin, atomically; np.load reads the arrays as usual."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, 'w', zipfile.ZIP_DEFLATED) as archive:
        if text:
            archive.writestr(zipfile.ZipInfo('origin.json'), text, zipfile.ZIP_STORED)
        for name, array in arrays.items():
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def npy_trailer(text: str) -> bytes:
    """Bytes to append to a pickled array, where readers of .npy files do not look."""
    return text.encode() + TRAILER + struct.pack('<I', len(text)) if text else b''


def read_origin(path: Path) -> dict | None:
    """The origin of a PNG, JPEG, .npz or .npy file; None if it has none."""
    return read_state(path).origin


def read_state(path: Path) -> State:
    """The state of a PNG, JPEG, .npz or .npy file. A truncated one still has its origin, except .npy."""
    if not os.path.exists(path):
        return State(None, intact=False, empty=True)
    suffix = os.path.splitext(path)[1]
    mark, more = ENDS.get(suffix, ENDS['.npy'])         # files of other formats have no origin
    with open(path, 'rb') as file:
        head = file.read(REACH)
        file.seek(max(0, file.seek(0, os.SEEK_END) - (REACH if suffix == '.npy' else 64)))
        tail = file.read()
    intact = tail[-len(mark) - more:][:len(mark)] == mark
    content = head if suffix != '.npy' else tail if intact else b''
    try:
        origin, _ = json.JSONDecoder().raw_decode(content[content.index(START):].decode('latin-1'))
    except ValueError:
        origin = None
    return State(origin, intact, not head)
