"""The dense CRF by either of two backends, and the CRF seeds of the affinity stage."""
from collections.abc import Sequence

import numpy as np
import torch

from tool.densecrf import SEED_CRF, CrfSettings, dense_crf

BACKENDS = ('torch', 'pydensecrf')


def crf_scores(image: np.ndarray, probs: np.ndarray | torch.Tensor, settings: CrfSettings,
               backend: str = 'torch') -> torch.Tensor:
    """Refine class scores along the image's edges with a fully connected CRF.

    Args:
        image: RGB uint8 [H, W, 3].
        probs: scores [L, H, W] or, for several score maps of the image, [S, L, H, W], on the device where the CRF is to
            run; see dense_crf in tool/densecrf.py.
        settings: SEED_CRF or FINAL_CRF.
        backend: torch, or pydensecrf, which runs on the CPU.

    Returns probabilities float32 that sum to 1 over L, shaped as probs and on their device. ValueError if the sizes
    disagree or, on a CPU, a score is not finite.
    """
    probs = torch.as_tensor(np.array(probs, np.float32, order='C') if isinstance(probs, np.ndarray) else probs)
    if probs.device.type == 'cpu' and not probs.sum().isfinite():
        raise ValueError('CRF scores must be finite, found NaN or infinity; check the weights they came from')
    pixels = torch.from_numpy(np.array(image, order='C'))
    if backend == 'torch':
        return dense_crf(pixels.to(probs.device, non_blocking=True), probs, settings)
    maps = [_pydensecrf(pixels.numpy(), part, settings) for part in probs.view(-1, *probs.shape[-3:]).cpu().numpy()]
    return torch.from_numpy(np.stack(maps)).view(probs.shape).to(probs.device)


def _pydensecrf(image: np.ndarray, probs: np.ndarray, settings: CrfSettings) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_softmax
    labels, height, width = probs.shape
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probs)))
    crf.addPairwiseGaussian(sxy=settings.smooth_xy, compat=settings.smooth_compat)
    crf.addPairwiseBilateral(sxy=settings.colour_xy, srgb=settings.colour_rgb, compat=settings.colour_compat,
                             rgbim=image)
    return np.array(crf.inference(settings.iterations), np.float32).reshape(labels, height, width)


def seed_scores(image: np.ndarray, cam: np.ndarray | torch.Tensor, alphas: Sequence[float],
                backend: str = 'torch') -> dict[float, np.ndarray]:
    """CRF scores float32 [1 + k, H, W] of background and the k classes present, by alpha.

    Args:
        image: RGB uint8 [H, W, 3].
        cam: maps [k, H, W] of the classes present in [0, 1], on the device where the CRF is to run. Without a class,
            background is 1 everywhere.
        alphas: powers of the background score (1 - strongest class); 1 gives much background, 24 little.
        backend: see crf_scores().
    """
    cam = torch.as_tensor(cam)
    if not len(cam):
        return {alpha: np.ones((1, *image.shape[:2]), np.float32) for alpha in alphas}
    background = 1 - cam.amax(0, keepdim=True).clamp(0, 1)
    stacks = torch.stack([torch.cat([background ** alpha, cam]) for alpha in alphas])
    return dict(zip(alphas, crf_scores(image, stacks, SEED_CRF, backend).cpu().numpy()))
