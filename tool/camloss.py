"""The objective of CAM training, from top to bottom: SEAM's losses with importance sampling and feature similarity.

Sources: Wang et al., CVPR 2020 (SEAM); Jonnarth, Zhang, Felsberg, WACV 2024 (ISL, FSL: see tool/probutils.py).
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tool.probutils import add_background, fsl_images, fsl_loss, isl_loss, max_norm
from tool.seamutils import SeamOutput, onehot_max, resize
from tool.torchutils import full_precision

ChannelValues = tuple[float, float, float]


def second_view(images: Tensor, scale: float = 0.3) -> Tensor:
    """Images [N,3,H,W] at a smaller scale, sizes rounded down (one pixel at least)."""
    return resize(images, [max(1, math.floor(length * scale)) for length in images.shape[2:]])


def cam_objective(view1: SeamOutput, view2: SeamOutput, images1: Tensor, image_labels: Tensor, *,
                  norm: tuple[ChannelValues, ChannelValues], isl_weight: float = 0.2, isl_samples: int = 10,
                  isl_indices: Tensor | None = None, fsl_weight: float | None = 1.0, fsl_mu: float = 2.5,
                  fsl_sigma: float | None = 5.0, generator: torch.Generator | None = None,
                  batch_rows: tuple[int, slice] | None = None) -> dict[str, Tensor]:
    """All loss terms of CAM training and their sum. With isl_weight 0 and fsl_weight 0 this is plain SEAM.

    Args:
        view1, view2: the network's outputs for the images and for their second_view.
        images1: the images of view 1 [N,3,H,W], normalised.
        image_labels: [N,K] 0/1, foreground only.
        norm: mean and standard deviation per channel that images1 were normalised with.
        isl_weight: weight of the importance-sampling loss in the classification of view 1, in [0, 1]; that of the mean
            score is 1 - isl_weight. 0 skips it.
        isl_samples: pixels sampled per image and class.
        isl_indices: pixels [N,K,S] to use instead of sampling.
        fsl_weight: weight of the feature-similarity loss; 0 or None skips it.
        fsl_mu, fsl_sigma: see fsl_loss.
        generator, batch_rows: see draw_pixels.

    Returns scalars by name: 'cls1' (with the importance-sampling loss mixed in), 'cls2', 'isl', 'rvmin1', 'rvmin2',
    'er', 'ecr1', 'ecr2', 'fsl' (before its weight), 'cls' ((cls1 + cls2) / 2 + (rvmin1 + rvmin2) / 2) and 'loss'.
    Skipped terms are absent.
    """
    # Classification of both views; in view 1 also of the sampled pixels (ISL).
    terms = {'cls1': classification_loss(view1.cam, image_labels), 'cls2': classification_loss(view2.cam, image_labels)}
    if isl_weight:
        terms['isl'] = isl_loss(view1.logits[:, 1:], image_labels, isl_samples, isl_indices, generator, batch_rows)
        terms['cls1'] = (1 - isl_weight) * terms['cls1'] + isl_weight * terms['isl']

    # The weakest pixels of the refined maps are background.
    terms['rvmin1'] = adaptive_min_pooling(view1.refined[:, 1:] * image_labels[:, :, None, None])
    terms['rvmin2'] = adaptive_min_pooling(view2.refined[:, 1:] * image_labels[:, :, None, None])
    terms['cls'] = (terms['cls1'] + terms['cls2']) / 2 + (terms['rvmin1'] + terms['rvmin2']) / 2

    # Maps follow the image when it is rescaled.
    terms |= seam_losses(view1, view2, image_labels)
    loss = terms['cls'] + terms['er'] + terms['ecr1'] + terms['ecr2']

    # Maps follow the edges of the image (FSL).
    if fsl_weight:
        # fsl_maps of the foreground logits, up to the last digit of gradients: background is dropped later.
        cam = add_background(max_norm(view1.logits)[:, 1:] * image_labels[:, :, None, None])
        terms['fsl'] = fsl_loss(cam, fsl_images(images1, cam.shape[2:], *norm), fsl_mu, fsl_sigma)
        loss = loss + fsl_weight * terms['fsl']
    return terms | {'loss': loss}


def classification_loss(cam: Tensor, image_labels: Tensor) -> Tensor:
    """Multi-label soft-margin loss of the mean class score over all pixels; a scalar, the mean over images and classes.

    Takes maps [N,C,H,W], channel 0 background (not used), and labels [N,K] 0/1, foreground only.
    """
    scores = full_precision(cam)[:, 1:].mean((2, 3))
    return F.multilabel_soft_margin_loss(scores, image_labels.to(scores.dtype))


def adaptive_min_pooling(foreground: Tensor) -> Tensor:
    """Mean over the quarter of pixels whose strongest class is weakest: pulls background pixels towards 0.

    Takes maps [N,K,H,W] of the classes present, the others 0; returns the mean over images of the relu of each image's
    floor(HW / 4) smallest pixel maxima (one at least).
    """
    strongest = full_precision(foreground).amax(1).flatten(1)
    smallest = strongest.topk(max(1, strongest.shape[1] // 4), largest=False).values
    return F.relu(smallest).mean()


def seam_losses(view1: SeamOutput, view2: SeamOutput, image_labels: Tensor,
                hard_fraction: float = 0.2) -> dict[str, Tensor]:
    """Equivariance of an image's maps under rescaling (er), and across refinement (ecr).

    The maps of view 1 are resized to view 2. ecr compares each view's refined maps with the plain maps of the other,
    which are a constant target, at the hardest pixels only. These are selected per image, over channels and pixels
    together, so the terms of a batch are the mean of the terms of its images.

    Takes the outputs for the images and for their second view, labels [N,K] 0/1, foreground only, and the fraction of
    an image's C x H2 x W2 differences that ecr uses. Returns scalars 'er', 'ecr1' (refined view 1), 'ecr2' (view 2).
    """
    size = view2.cam.shape[2:]
    present = F.pad(image_labels, (1, 0), value=1)[:, :, None, None]
    cam1, refined1 = (resize(max_norm(maps), size) * present for maps in (view1.cam, view1.refined))
    cam2, refined2 = (max_norm(maps) * present for maps in (view2.cam, view2.refined))

    er = (cam1[:, 1:] - cam2[:, 1:]).abs().mean()
    target1, target2 = (onehot_max(add_background(cam.detach()[:, 1:])) for cam in (cam1, cam2))
    return {'er': er, 'ecr1': _hardest_mean((target2 - refined1).abs(), hard_fraction),
            'ecr2': _hardest_mean((target1 - refined2).abs(), hard_fraction)}


def _hardest_mean(differences: Tensor, fraction: float) -> Tensor:
    """Mean over images of the floor(fraction * count) largest values of each image (at least one)."""
    flat = differences.flatten(1)
    return flat.topk(max(1, int(flat.shape[1] * fraction)), sorted=False).values.mean()
