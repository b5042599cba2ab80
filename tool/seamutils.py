"""SEAM's parts: class seed, pixel correlation, normalisations and the equivariance losses.

Source: Wang et al., Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation,
CVPR 2020.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tool.torchutils import full_precision, no_autocast

EPS = 1e-5
# Rows of the affinity matrix held at a time; more are no faster.
BLOCK = 512


class SeamOutput(NamedTuple):
    """What the network returns for one view of N images; H x W is the view, h x w its eighth.

    cam: class maps [N,C,H,W] without bounds, channel 0 background: the logits upsampled.
    refined: maps [N,C,H,W] after pixel correlation, in [0, 1].
    logits: class scores [N,C,h,w].
    """

    cam: Tensor
    refined: Tensor
    logits: Tensor


@torch.no_grad()
def class_seed(logits: Tensor) -> Tensor:
    """Rough class maps, free of gradient, that pixel correlation spreads.

    Each channel is divided by its own maximum, background becomes 1 - strongest foreground, and foreground stays only
    where it is the strongest of its pixel.

    Args:
        logits: [N,C,h,w], channel 0 background (its values are not used).

    Returns:
        Maps [N,C,h,w] in [0, 1].
    """
    positive = F.relu(full_precision(logits))
    return onehot_max(with_background(F.relu(positive - EPS) / (positive.amax((2, 3), keepdim=True) + EPS)))


def pixel_correlation(features: Tensor, seed: Tensor) -> Tensor:
    """Replace the seed of every pixel by the mean over all pixels, weighted with feature similarity (SEAM's PCM).

    Similarity is the cosine, negatives counting 0. The N x N similarities exist only BLOCK rows at a time and are
    computed again in the backward pass. Computed in float32 at least, under autocast too.

    Args:
        features: [N,c,h,w].
        seed: class maps [N,C,h,w]; treated as constant.

    Returns:
        Maps [N,C,h,w] in the range of the seed; the gradient goes to the features.
    """
    features = full_precision(features).flatten(2)
    seed = seed.detach().to(features.dtype)
    with no_autocast(features):
        unit = features / (features.norm(dim=1, keepdim=True) + EPS)
        # A row of ones makes the sum of every column of similarities come with the same product.
        rows = F.pad(seed.flatten(2), (0, 0, 0, 1), value=1.0)
        spread = _Correlation.apply(unit, rows)
    return (spread[:, :-1] / (spread[:, -1:] + EPS)).view_as(seed)


class _Correlation(torch.autograd.Function):
    """rows [N,r,P] times relu(unit^T unit), for unit [N,c,P]; gradient to unit only."""

    @staticmethod
    def forward(ctx, unit: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(unit, rows)
        spread = torch.zeros_like(rows)
        for start in range(0, unit.shape[2], BLOCK):
            block, later = slice(start, start + BLOCK), slice(start + BLOCK, None)
            similar = (unit[:, :, block].transpose(1, 2) @ unit[:, :, start:]).relu_()
            spread[:, :, start:] += rows[:, :, block] @ similar
            # Similarity is symmetric: what the block is to later pixels, they are to it.
            spread[:, :, block] += rows[:, :, later] @ similar[:, :, BLOCK:].transpose(1, 2)
        return spread

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        unit, rows = ctx.saved_tensors
        grad_unit = torch.zeros_like(unit)
        with no_autocast(unit):
            for start in range(0, unit.shape[2], BLOCK):
                block = slice(start, start + BLOCK)
                similar = unit.transpose(1, 2) @ unit[:, :, block]
                grad_similar = (rows.transpose(1, 2) @ grad[:, :, block]).masked_fill_(similar <= 0, 0)
                # A pixel takes part as a row and as a column.
                grad_unit += unit[:, :, block] @ grad_similar.transpose(1, 2)
                grad_unit[:, :, block] += unit @ grad_similar
        return grad_unit, None


def max_norm(maps: Tensor) -> Tensor:
    """Stretch each map's positive part to [0, 1] by its own extremes: relu(p - min - EPS) / (max - min + EPS).

    Args:
        maps: [N,C,H,W] of any range; min and max are taken over the pixels of relu(maps).

    Returns:
        Maps [N,C,H,W] in [0, 1); a constant map becomes 0. Gradients flow through the extremes too.
    """
    positive = F.relu(full_precision(maps))
    low, high = positive.amin((2, 3), keepdim=True), positive.amax((2, 3), keepdim=True)
    return F.relu(positive - low - EPS) / (high - low + EPS)


def with_background(cam: Tensor) -> Tensor:
    """Maps [N,C,H,W] whose channel 0 is replaced by 1 - strongest foreground; the input stays as it is."""
    foreground = cam[:, 1:]
    return torch.cat([1 - foreground.amax(1, keepdim=True), foreground], dim=1)


def onehot_max(cam: Tensor) -> Tensor:
    """Maps [N,C,H,W] with foreground set to 0 where another foreground channel is larger; background is kept."""
    foreground = cam[:, 1:]
    strongest = foreground == foreground.amax(1, keepdim=True)
    return torch.cat([cam[:, :1], foreground * strongest], dim=1)


def adaptive_min_pooling(foreground: Tensor) -> Tensor:
    """Mean of the quarter of pixels where even the strongest class is weak: pulls background pixels to 0.

    Args:
        foreground: maps [N,K,H,W] of the classes present, the others 0.

    Returns:
        Scalar: mean over images of the relu of each image's floor(HW / 4) smallest pixel maxima (one at least).
    """
    strongest = full_precision(foreground).amax(1).flatten(1)
    smallest = strongest.topk(max(1, strongest.shape[1] // 4), largest=False).values
    return F.relu(smallest).mean()


def classification_loss(cam: Tensor, image_labels: Tensor) -> Tensor:
    """Multi-label soft margin of the mean class score over all pixels.

    Args:
        cam: [N,C,H,W], channel 0 background (not used).
        image_labels: [N,K] 0/1, foreground only.

    Returns:
        Scalar, mean over images and classes.
    """
    scores = full_precision(cam)[:, 1:].mean((2, 3))
    return F.multilabel_soft_margin_loss(scores, image_labels.to(scores.dtype))


def seam_losses(view1: SeamOutput, view2: SeamOutput, image_labels: Tensor,
                hard_share: float = 0.2) -> dict[str, Tensor]:
    """Equivariance of the maps of an image under rescaling (er), and across refinement (ecr).

    The maps of view 1 are brought to the size of view 2. ecr compares each view's refined maps with the plain maps of
    the other, which act as a constant target, on the hardest pixels only; these are chosen per image, over channels
    and pixels together, so the terms of a batch are the mean of the terms of its images.

    Args:
        view1, view2: outputs for the images and for their second view.
        image_labels: [N,K] 0/1, foreground only.
        hard_share: share of the C x H2 x W2 differences of an image that counts in ecr, in (0, 1].

    Returns:
        Scalars 'er', 'ecr1' (refined view 1), 'ecr2' (refined view 2).
    """
    size = view2.cam.shape[2:]
    present = F.pad(image_labels, (1, 0), value=1)[:, :, None, None]
    cam1 = resize(max_norm(view1.cam), size) * present
    refined1 = resize(max_norm(view1.refined), size) * present
    cam2, refined2 = max_norm(view2.cam) * present, max_norm(view2.refined) * present

    er = (cam1[:, 1:] - cam2[:, 1:]).abs().mean()
    target1 = onehot_max(with_background(cam1.detach()))
    target2 = onehot_max(with_background(cam2.detach()))
    return {'er': er,
            'ecr1': _hardest_mean((target2 - refined1).abs(), hard_share),
            'ecr2': _hardest_mean((target1 - refined2).abs(), hard_share)}


def _hardest_mean(differences: Tensor, share: float) -> Tensor:
    """Mean over images of the floor(share * count) largest of each image's values (one at least)."""
    flat = differences.flatten(1)
    return flat.topk(max(1, int(flat.shape[1] * share)), sorted=False).values.mean()


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize that keeps the corner pixels in place (align_corners), as everywhere in SEAM."""
    return F.interpolate(maps, size=tuple(size), mode='bilinear', align_corners=True)
