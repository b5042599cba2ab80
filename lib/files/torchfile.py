"""PyTorch files, written atomically; only tensors and plain values are unpickled."""
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
    """Read a file of torch.save, ours or anyone's, onto the CPU; remedy: what to do about a missing or corrupt one.

    tensors=False leaves the tensors on disk, which is quick: only the rest of the content may be used then. Raises
    FileNotFoundError, or ValueError if it is corrupt, or holds Python objects, which could run code when read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing; {remedy}')
    try:
        zipped = zipfile.is_zipfile(path)       # unlike files of torch before 1.6
        if zipped and tensors:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():           # torch.load does not check
                    raise ValueError('wrong checksum')
        with warnings.catch_warnings(action='ignore'):      # about pickle protocols
            return torch.load(path, map_location='cpu', weights_only=True, mmap=zipped and not tensors)
    except Exception as error:                  # a corrupt pickle can raise anything
        if 'GLOBAL' in str(error):              # torch's word for a Python object that it refuses to create
            raise ValueError(f'{path} holds pickled Python objects besides tensors, which could run code when read; '
                             'save its state_dict alone: torch.save(net.state_dict(), path)') from error
        raise ValueError(f'{path} is corrupt or not a PyTorch file; {remedy}') from error


def unsound(tensor: torch.Tensor) -> str:
    """Why a tensor read from a file cannot be used as numbers; '' if it can."""
    if tensor.layout != torch.strided or tensor.device.type != 'cpu' or tensor.is_quantized or tensor.is_complex():
        return f'is not a plain tensor of numbers ({tensor.layout}, {tensor.dtype}, {tensor.device})'
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f'has shape {tuple(tensor.shape)}, but the file lacks the values'
    if tensor.is_floating_point() and not tensor.float().isfinite().all():      # float64 may overflow
        return 'holds NaN or infinite values'
    return ''
