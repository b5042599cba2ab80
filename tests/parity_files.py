"""Where the parity tests find the outputs of the public reference implementation.

PARITY_DIR names another folder of files with the same names and layout; the default is tests/parity.
"""
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

PARITY_DIR = Path(os.environ.get('PARITY_DIR') or Path(__file__).with_name('parity'))


def path(name: str) -> Path:
    """Path of a parity file; the test that asks for an absent one is skipped."""
    found = PARITY_DIR / name
    if not found.exists():
        pytest.skip(f'{found} is absent')
    return found


def arrays(name: str) -> dict[str, np.ndarray]:
    """All arrays of a parity .npz."""
    with np.load(path(name)) as file:
        return {key: file[key] for key in file.files}


def text(name: str) -> list[str]:
    """The lines of a parity text file."""
    return path(name).read_text().splitlines()


def fill_weights(module: torch.nn.Module) -> torch.nn.Module:
    """Fill a module with weights that depend only on tensor names, as the reference outputs were made.

    Standard normals z of PCG64 seeded with the CRC-32 of the name: running variances 1 + 0.1 |z|; running means and
    biases 0.1 z; other vectors 1 + 0.1 z; convolutions 0.7 sqrt(2 / fan_in) z.
    """
    state = module.state_dict()
    for name, tensor in state.items():
        if name.endswith('num_batches_tracked'):
            continue
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        z = rng.standard_normal(tuple(tensor.shape)).astype(np.float32)
        if name.endswith('running_var'):
            value = 1 + 0.1 * np.abs(z)
        elif name.endswith(('running_mean', 'bias')):
            value = 0.1 * z
        elif tensor.dim() == 1:
            value = 1 + 0.1 * z
        else:
            value = z * np.float32(0.7 * np.sqrt(2.0 / np.prod(tensor.shape[1:])))
        state[name] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    module.load_state_dict(state)
    return module
