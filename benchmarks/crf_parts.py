"""The comparisons of compare.py with pydensecrf, both in one thread as in the worker processes of inference."""
from importlib.util import find_spec

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.measure import alternate, peak_memory
from benchmarks.real_looking import photo_like
from tool.camutils import with_background
from tool.crfutils import BACKENDS, crf_scores
from tool.densecrf import FINAL_CRF, SEED_CRF, CrfSettings, spatial_lattice

SIZE = (375, 500)
ROUNDS = 5


def smooth_maps(count: int) -> np.ndarray:
    """Maps float32 [count, *SIZE] in [0, 1]."""
    coarse = torch.rand(1, count, 12, 12, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, SIZE, mode='bicubic').clamp(0, 1)[0].numpy()


def compare(device: torch.device, name: str, scores: np.ndarray, settings: CrfSettings) -> dict:
    """Time of both on score maps [S, L, *SIZE] of one image; ours on the device, from the host and back."""
    if find_spec('pydensecrf') is None:
        return {}
    torch.set_num_threads(1)
    image, _ = photo_like(0, *SIZE)
    maps = {'ours': torch.from_numpy(scores).to(device), 'pydensecrf': torch.from_numpy(scores)}
    forms = {form: lambda backend=backend, form=form: crf_scores(image, maps[form], settings, backend).cpu()
             for backend, form in zip(BACKENDS, ('ours', 'pydensecrf'))}
    seconds, results = alternate(forms, device, ROUNDS)
    spatial_lattice.cache_clear()
    new_size, _ = alternate({'ours': forms['ours']}, device, rounds=1)
    difference = float((results['ours'] - results['pydensecrf']).abs().max())
    return {'values': {f'{name}_speedup': seconds['pydensecrf'] / seconds['ours']},
            'seconds': {f'{name} {form}': value for form, value in seconds.items()} | {
                f'{name} ours, first image of its size': new_size['ours']},
            'agreement': {f'{name}, probability': (difference, 1e-4)}}


def crf_seeds(device: torch.device, classes: int) -> dict:
    """Both seeds of an image, `classes` with the background."""
    cam = smooth_maps(classes - 1)
    return compare(device, f'crf_seeds_{classes}', np.stack([with_background(cam, alpha) for alpha in (1, 24)]),
                   SEED_CRF)


def final_scores(classes: int) -> np.ndarray:
    """Probabilities [1, classes, *SIZE]."""
    maps = smooth_maps(classes) ** 4 + 1e-3
    return (maps / maps.sum(0))[None]


def crf_final(device: torch.device, classes: int) -> dict:
    """The final CRF."""
    return compare(device, f'crf_final_{classes}', final_scores(classes), FINAL_CRF)


def crf_memory(device: torch.device, classes: int, backend: str) -> dict:
    """Bytes beyond the inputs of the final CRF."""
    if find_spec(backend) is None:
        return {}
    torch.set_num_threads(1)
    image, _ = photo_like(0, *SIZE)
    small, scores = torch.rand(1, 2, 8, 8), torch.from_numpy(final_scores(classes))
    crf_scores(image[:8, :8], small.to(device), FINAL_CRF, backend)        # loads what the first call loads
    scores = scores.to(device)
    return {'bytes': {f'crf_final_{classes} {"ours" if backend == "torch" else backend}':
                      peak_memory(lambda: crf_scores(image, scores, FINAL_CRF, backend), device)}}
