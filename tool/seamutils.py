"""The network side of SEAM: the class seed, its refinement by pixel correlation, and the fusion of scales into CAMs.

Source: Wang et al., Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic Segmentation,
CVPR 2020.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tool.probutils import EPS, add_background
from tool.torchutils import full_precision

# Rows of the similarity matrix in memory at a time; more are not faster.
BLOCK = 512


class SeamOutput(NamedTuple):
    """Network output for one view of N images; H x W is the view's size, h x w an eighth of it.

    cam: class maps [N,C,H,W] of any range, channel 0 background: the logits upsampled.
    refined: maps [N,C,H,W] after pixel correlation, in [0, 1].
    logits: class scores [N,C,h,w].
    """

    cam: Tensor
    refined: Tensor
    logits: Tensor


@torch.no_grad()
def class_seed(logits: Tensor) -> Tensor:
    """Rough class maps, without gradient, to be refined by pixel correlation.

    Each channel is divided by its maximum, background becomes 1 - strongest foreground, and a foreground class is kept
    only where it is the strongest at its pixel. Takes logits [N,C,h,w], channel 0 background (its values are not used);
    returns maps [N,C,h,w] in [0, 1].
    """
    positive = F.relu(full_precision(logits[:, 1:]))
    return onehot_max(add_background(F.relu(positive - EPS) / (positive.amax((2, 3), keepdim=True) + EPS)))


def onehot_max(cam: Tensor) -> Tensor:
    """Maps [N,C,H,W] with foreground set to 0 where another foreground channel is larger; background is kept."""
    foreground = cam[:, 1:]
    strongest = foreground == foreground.amax(1, keepdim=True)
    return torch.cat([cam[:, :1], foreground * strongest], dim=1)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize that keeps the corner pixels in place (align_corners), as everywhere in SEAM."""
    return F.interpolate(maps, size=tuple(size), mode='bilinear', align_corners=True)


def pixel_correlation(features: Tensor, seed: Tensor) -> Tensor:
    """Replace the seed of every pixel by its mean over all pixels, weighted by feature similarity (SEAM's PCM).

        A_ij = relu(cosine of f_i and f_j);   refined_j = sum_i seed_i A_ij / (sum_i A_ij + EPS)

    Takes features [N,c,h,w] and class maps [N,C,h,w], which are treated as constant. Returns maps [N,C,h,w] in the
    range of the seed, in at least float32; the gradient goes to the features. The similarities exist only BLOCK rows at
    a time and are recomputed in the backward pass.
    """
    features = full_precision(features).flatten(2)
    seed = seed.detach().to(features.dtype)
    with torch.autocast(features.device.type, enabled=False):
        unit = features / (features.norm(dim=1, keepdim=True) + EPS)
        # A row of ones yields every column sum of the similarities in the same product.
        rows = F.pad(seed.flatten(2), (0, 0, 0, 1), value=1.0)
        sums = _Correlation.apply(unit, rows)
    return (sums[:, :-1] / (sums[:, -1:] + EPS)).view_as(seed)


class _Correlation(torch.autograd.Function):
    """rows [N,r,P] times relu(unit^T unit), for unit [N,c,P]; gradient to unit only."""

    @staticmethod
    def forward(ctx, unit: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(unit, rows)
        sums = torch.zeros_like(rows)
        for start in range(0, unit.shape[2], BLOCK):
            block, later = slice(start, start + BLOCK), slice(start + BLOCK, None)
            similarity = (unit[:, :, block].transpose(1, 2) @ unit[:, :, start:]).relu_()
            sums[:, :, start:] += rows[:, :, block] @ similarity
            # Similarity is symmetric: the block's similarities to later pixels are also theirs to it.
            sums[:, :, block] += rows[:, :, later] @ similarity[:, :, BLOCK:].transpose(1, 2)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        unit, rows = ctx.saved_tensors
        grad_unit = torch.zeros_like(unit)
        with torch.autocast(unit.device.type, enabled=False):
            for start in range(0, unit.shape[2], BLOCK):
                block = slice(start, start + BLOCK)
                similarity = unit.transpose(1, 2) @ unit[:, :, block]
                grad_similarity = (rows.transpose(1, 2) @ grad[:, :, block]).masked_fill_(similarity <= 0, 0)
                # Each pixel contributes as a row and as a column.
                grad_unit += unit[:, :, block] @ grad_similarity.transpose(1, 2)
                grad_unit[:, :, block] += unit @ grad_similarity
        return grad_unit, None


def fuse_scales(maps: Tensor) -> Tensor:
    """Fuse the maps of all scales and flips of one image into CAMs: their sum, each class stretched to [0, 1].

    Differs from the original, whose lowest pixels are slightly below 0; here they are 0, which means the same and
    compresses better. Takes maps [S, k, H, W] of any range, flipped back and resized to the image; returns CAMs
    [k, H, W] in [0, 1], float32.
    """
    total = maps.float().sum(0).relu()
    if not total.numel():
        return total
    low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    raised = torch.where(total < low + EPS, 0, total)
    return ((raised - low - EPS) / (high - low + EPS)).clamp(0, 1)
