"""Files of torch.save, written whole or not at all; nothing but tensors and plain values is unpickled."""
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from lib.files.fileio import replacing


def write_torch(path: Path, content: Any) -> None:
    """Write tensors and plain values. The bytes depend on the content alone, not on the name of the file."""
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        torch.save(content, file)


def read_torch(path: Path, remedy: str, tensors: bool = True) -> Any:
    """Read a file of torch.save, ours or another's, onto the CPU.

    Args:
        path: the file.
        remedy: what to do about one that is absent or corrupt.
        tensors: False leaves them on the disk, which is quick: only the rest of the content may be used then.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is corrupt, or holds Python objects, which could run code when read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing; {remedy}')
    try:
        zipped = zipfile.is_zipfile(path)       # files of torch before 1.6 are none
        if zipped and tensors:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():           # torch.load does not look
                    raise ValueError('wrong checksum')
        with warnings.catch_warnings(action='ignore'):      # about pickles that torch may not know
            return torch.load(path, map_location='cpu', weights_only=True, mmap=zipped and not tensors)
    except Exception as error:                  # a corrupt pickle can end in any error
        if 'GLOBAL' in str(error):              # so torch calls a Python object that it will not make
            raise ValueError(f'{path} holds pickled Python objects besides tensors, which could run code when read; '
                             'save its state_dict alone: torch.save(net.state_dict(), path)') from error
        raise ValueError(f'{path} is corrupt or not a PyTorch file; {remedy}') from error


def unsound(tensor: torch.Tensor) -> str:
    """What keeps a tensor that was read from a file from being used as numbers; '' for a sound one."""
    if tensor.layout != torch.strided or tensor.device.type != 'cpu' or tensor.is_quantized or tensor.is_complex():
        return f'is no plain tensor of numbers ({tensor.layout}, {tensor.dtype}, {tensor.device})'
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f'claims the shape {tuple(tensor.shape)}, for which the file has no numbers'
    if tensor.is_floating_point() and not tensor.float().isfinite().all():      # float64 may overflow
        return 'holds NaN or infinite values'
    return ''
