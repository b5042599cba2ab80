"""Dense CRF with the two published settings, and the CRF seeds of the affinity stage."""
from typing import NamedTuple

import numpy as np

from tool.camutils import with_background


class CrfSettings(NamedTuple):
    """Widths in pixels (xy) and grey levels (rgb), weights (compat), and mean-field iterations."""
    smooth_xy: float
    smooth_compat: float
    colour_xy: float
    colour_rgb: float
    colour_compat: float
    iterations: int


SEED_CRF = CrfSettings(3, 3, 80, 13, 10, 10)   # on CAMs, before the affinity stage
FINAL_CRF = CrfSettings(3, 3, 32, 13, 10, 1)   # on the segmentation network's probabilities


def dense_crf(image: np.ndarray, probs: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Refine class scores along the image's edges with a fully connected CRF.

    Args:
        image: RGB uint8 [H, W, 3].
        probs: scores [L, H, W] in [0, 1], clipped to [1e-5, 1] before the logarithm; need not sum to 1.
        settings: SEED_CRF or FINAL_CRF.

    Returns:
        Probabilities float32 [L, H, W] that sum to 1 over L.

    Raises:
        ImportError: if pydensecrf is not installed.
        ValueError: if the sizes disagree or a score is not finite.

    Source: Krähenbühl & Koltun, NIPS 2011.
    """
    try:
        from pydensecrf.densecrf import DenseCRF2D
        from pydensecrf.utils import unary_from_softmax
    except ImportError as error:
        raise ImportError('the dense CRF needs pydensecrf; install it with: pip install pydensecrf2 '
                          '(compiled during installation; needs a C++ compiler)') from error
    labels, height, width = probs.shape
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise ValueError(f'CRF on scores of {height}x{width} needs a uint8 image [{height}, {width}, 3], found '
                         f'{image.dtype} {list(image.shape)}; resize the scores to the image')
    if not np.isfinite(probs).all():
        raise ValueError('CRF scores must be finite, found NaN or infinity; check the weights they came from')
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probs.astype(np.float32))))
    crf.addPairwiseGaussian(sxy=settings.smooth_xy, compat=settings.smooth_compat)
    crf.addPairwiseBilateral(sxy=settings.colour_xy, srgb=settings.colour_rgb, compat=settings.colour_compat,
                             rgbim=np.array(image, order='C'))      # a copy: it must be writable
    return np.array(crf.inference(settings.iterations), np.float32).reshape(labels, height, width)


def seed_scores(image: np.ndarray, cam: np.ndarray, alpha: float) -> np.ndarray:
    """CRF scores float32 [1 + k, H, W] of background and the k classes present; background alone needs no CRF.

    Args:
        image: RGB uint8 [H, W, 3].
        cam: maps [k, H, W] of the classes present in [0, 1]; k may be 0.
        alpha: power of the background score; 1 gives much background, 24 little.
    """
    scores = with_background(cam, alpha)
    return dense_crf(image, scores, SEED_CRF) if len(cam) else scores
