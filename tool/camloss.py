"""The whole objective of CAM training: SEAM's losses with the importance-sampling and feature-similarity losses.

Sources: Wang et al., CVPR 2020 (SEAM); Jonnarth, Zhang, Felsberg, WACV 2024 (ISL, FSL).
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tool.probutils import fsl_images, fsl_loss, isl_loss
from tool.seamutils import (
    SeamOutput,
    adaptive_min_pooling,
    classification_loss,
    max_norm,
    resize,
    seam_losses,
    with_background,
)

ChannelValues = tuple[float, float, float]


def second_view(images: Tensor, scale: float = 0.3) -> Tensor:
    """Images [N,3,H,W] at a smaller scale, sizes rounded down (one pixel at least)."""
    return resize(images, [max(1, math.floor(length * scale)) for length in images.shape[2:]])


def cam_objective(view1: SeamOutput, view2: SeamOutput, images1: Tensor, image_labels: Tensor, *,
                  norm: tuple[ChannelValues, ChannelValues], isl_weight: float = 0.2, isl_samples: int = 10,
                  isl_indices: Tensor | None = None, fsl_weight: float | None = 1.0, fsl_mu: float = 2.5,
                  fsl_sigma: float | None = 5.0, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Every term of CAM training and their sum. With isl_weight 0 and fsl_weight 0 it is plain SEAM.

    Args:
        view1, view2: the network's outputs for the images and for second_view of them.
        images1: the images of view 1 [N,3,H,W], normalised.
        image_labels: [N,K] 0/1, foreground only.
        norm: mean and standard deviation per channel that images1 were normalised with.
        isl_weight: share of the importance-sampling loss in the classification of view 1, in [0, 1]; 0 skips it.
        isl_samples: pixels drawn for each image and class.
        isl_indices: pixels to use instead of drawing [N,K,S].
        fsl_weight: factor of the feature-similarity loss; 0 or None skips it.
        fsl_mu, fsl_sigma: see fsl_loss.
        generator: source of randomness of the importance sampling.

    Returns:
        Scalars by name: 'cls1' (with the importance-sampling loss mixed in), 'cls2', 'isl', 'rvmin1', 'rvmin2',
        'er', 'ecr1', 'ecr2', 'fsl' (before its factor), 'cls' (the first five together) and 'loss'. Skipped terms
        are absent.
    """
    terms = {'cls1': classification_loss(view1.cam, image_labels), 'cls2': classification_loss(view2.cam, image_labels)}
    if isl_weight:
        terms['isl'] = isl_loss(view1.logits[:, 1:], image_labels, isl_samples, isl_indices, generator)
        terms['cls1'] = (1 - isl_weight) * terms['cls1'] + isl_weight * terms['isl']
    present = image_labels[:, :, None, None]
    terms['rvmin1'] = adaptive_min_pooling(view1.refined[:, 1:] * present)
    terms['rvmin2'] = adaptive_min_pooling(view2.refined[:, 1:] * present)
    terms['cls'] = (terms['cls1'] + terms['cls2']) / 2 + (terms['rvmin1'] + terms['rvmin2']) / 2
    terms |= seam_losses(view1, view2, image_labels)
    loss = terms['cls'] + terms['er'] + terms['ecr1'] + terms['ecr2']
    if fsl_weight:
        terms['fsl'] = cam_fsl(view1.logits, images1, image_labels, norm, fsl_mu, fsl_sigma)
        loss = loss + fsl_weight * terms['fsl']
    return terms | {'loss': loss}


def cam_fsl(logits: Tensor, images: Tensor, image_labels: Tensor, norm: tuple[ChannelValues, ChannelValues],
            mu: float = 2.5, sigma: float | None = 5.0) -> Tensor:
    """Feature-similarity loss of a network's logits [N,C,h,w] for normalised images [N,3,H,W]; scalar.

    The logits are stretched to [0, 1], absent classes set to 0 and background to 1 - strongest foreground.
    """
    present = F.pad(image_labels, (1, 0), value=1)[:, :, None, None]
    cam = with_background(max_norm(logits) * present)
    return fsl_loss(cam, fsl_images(images, logits.shape[2:], *norm), mu, sigma)
