"""Files of torch.save, written whole or not at all; nothing but tensors and plain values is unpickled."""
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from tool.fileio import replacing

UNREADABLE = (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError, TypeError,
              zipfile.BadZipFile)


def write_torch(path: Path, content: Any) -> None:
    """Write tensors and plain values. The bytes depend on the content alone, not on the name of the file."""
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        torch.save(content, file)


def has_wrong_checksum(path: Path) -> bool:
    """Whether a part of a zip archive differs from what was written; torch.load does not look."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is not None


def read_torch(path: Path, mmap: bool = False) -> Any:
    """Read what write_torch wrote, onto the CPU; with mmap, tensors stay on the disk and are not checked.

    Raises:
        ValueError: if the file is damaged or holds Python objects, which could run code when read.
    """
    try:
        if not mmap and has_wrong_checksum(path):
            raise ValueError('wrong checksum')
        return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except UNREADABLE as error:
        if 'GLOBAL' in str(error):          # so torch calls a Python object that it will not make
            raise ValueError(f'{path} holds pickled Python objects, which could run code when read') from error
        raise ValueError(f'{path} is damaged') from error
