"""Pixel affinities: pairs of near pixels, their labels from CRF seeds, the loss, and the random walk.

A pair is a source pixel and a near pixel at one of the offsets; affinities are kept as [offsets, positions], where
positions are the sources in row-major order. Everything is a shifted view of a map, so there are no index tables.

Source: Ahn & Kwak, CVPR 2018.
"""
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import dia_array
from torch.nn import functional as F

from tool.camutils import labels_of, with_background

EPS = 1e-5
IGNORE = 255
STRIDE = 8


class Pairs(NamedTuple):
    """Kind of each pair, three bool tensors [N, offsets, positions]; a pair with an ignored pixel is in none."""
    bg_pos: torch.Tensor
    fg_pos: torch.Tensor
    neg: torch.Tensor


def fit_radius(radius: int, size: tuple[int, int]) -> int:
    """Radius that a map [h, w] has room for: radius, or (short side - 1) // 2 where the short side is too short."""
    short = min(size)
    return radius if short >= 2 * radius + 1 else (short - 1) // 2


def offsets(radius: int = 5) -> list[tuple[int, int]]:
    """Steps (dy, dx) shorter than radius, one of each opposite two: right, then row by row below. 34 for radius 5."""
    right = [(0, dx) for dx in range(1, radius)]
    below = [(dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius) if dy * dy + dx * dx < radius ** 2]
    return right + below


def source_size(radius: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of sources: radius - 1 rows stay free below, radius - 1 columns at the left and right."""
    margin = max(radius - 1, 0)
    return size[0] - margin, size[1] - 2 * margin


def shifted(maps, radius: int, dy: int = 0, dx: int = 0):
    """View of maps [..., h, w] (array or tensor) on the sources, moved by (dy, dx)."""
    rows, columns = source_size(radius, maps.shape[-2:])
    left = max(radius - 1, 0) + dx
    return maps[..., dy:dy + rows, left:left + columns]


class _PairAffinity(torch.autograd.Function):
    """exp(-mean |difference|), which keeps the features only; plain autograd keeps a feature map per offset."""

    @staticmethod
    def forward(ctx, features, radius):
        source = shifted(features, radius)
        steps = offsets(radius)
        rows, columns = source.shape[-2:]
        affinity = features.new_empty(len(features), len(steps), rows, columns)
        for i, step in enumerate(steps):
            affinity[:, i] = (source - shifted(features, radius, *step)).abs_().mean(1)
        affinity.neg_().exp_()
        ctx.save_for_backward(features, affinity)
        ctx.radius = radius
        return affinity.flatten(2)

    @staticmethod
    def backward(ctx, grad):
        features, affinity = ctx.saved_tensors
        source = shifted(features, ctx.radius)
        slope = -grad.view_as(affinity) * affinity / features.shape[1]
        result = torch.zeros_like(features)
        for i, step in enumerate(offsets(ctx.radius)):
            pull = (source - shifted(features, ctx.radius, *step)).sign_().mul_(slope[:, i, None])
            shifted(result, ctx.radius).add_(pull)
            shifted(result, ctx.radius, *step).sub_(pull)
        return result, None


def pair_affinity(features: torch.Tensor, radius: int = 5) -> torch.Tensor:
    """Affinity exp(-mean over channels |f_i - f_j|) of all pairs within the radius.

    Args:
        features: [N, c, h, w]; half precision is raised to float32.
        radius: shrinks to what the map has room for.

    Returns:
        [N, offsets, positions] in (0, 1]; no offsets at all if the short side is below 5.
    """
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    return _PairAffinity.apply(features, fit_radius(radius, features.shape[-2:]))


def mean_pool(maps: np.ndarray, stride: int = STRIDE) -> np.ndarray:
    """Mean over stride x stride blocks, zero-padded: [k, H, W] -> [k, ceil(H/stride), ceil(W/stride)]."""
    k, height, width = maps.shape
    padded = np.pad(maps, ((0, 0), (0, -height % stride), (0, -width % stride)))
    # Rows first: their sums run over contiguous memory.
    rows = padded.reshape(k, padded.shape[1] // stride, stride, padded.shape[2]).mean(2)
    return rows.reshape(k, rows.shape[1], -1, stride).mean(3)


def affinity_label(low: np.ndarray, high: np.ndarray, stride: int = STRIDE) -> np.ndarray:
    """Label map of a crop from its two CRF seeds: sure objects, sure background, and the rest ignored.

    Args:
        low: scores [1 + k, H, W] of the seeds with much background (alpha 1), background first, padding 0;
            where they name a class, it is trusted.
        high: the same of the seeds with little background (alpha 24); where they say background, it is trusted.
        stride: pixels per position.

    Returns:
        uint8 [ceil(H/stride), ceil(W/stride)]: 0 background, i for channel i, 255 ignored (unsure or padding).
    """
    low, high = mean_pool(low, stride), mean_pool(high, stride)
    label = low.argmax(0).astype(np.uint8)
    label[label == 0] = IGNORE
    label[high.argmax(0) == 0] = 0
    label[np.maximum(low.max(0), high.max(0)) < EPS] = IGNORE
    return label


def pair_labels(label: torch.Tensor, radius: int = 5) -> Pairs:
    """Kind of each pair of a label map [N, h, w] (0 background, 255 ignored), laid out like pair_affinity's result."""
    radius = fit_radius(radius, label.shape[-2:])
    source = shifted(label, radius)[:, None]
    steps = offsets(radius)
    if steps:
        target = torch.stack([shifted(label, radius, *step) for step in steps], 1)
    else:
        target = source[:, :0]
    valid = (source != IGNORE) & (target != IGNORE)
    equal = valid & (source == target)
    background = source == 0
    return Pairs(*(kind.flatten(2) for kind in (equal & background, equal & ~background, valid & ~equal)))


def pair_counts(pairs: Pairs) -> torch.Tensor:
    """Number of background, foreground and negative pairs, float [3]."""
    return torch.stack([kind.sum() for kind in pairs]).float()


def affinity_loss(affinity: torch.Tensor, pairs: Pairs, counts: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Cross-entropy of the affinities, a mean over each kind of pair; the stage weighs bg/4 + fg/4 + neg/2.

    The counts are those of this batch: under several processes or accumulation steps each sees its share only, unless
    counts gives their mean over the shares; then the mean of the shares' losses is the loss of the whole batch.

    Args:
        affinity: [N, offsets, positions] in (0, 1].
        pairs: of the same shape, from pair_labels.
        counts: [3] like pair_counts(pairs), which it defaults to.

    Returns:
        {'bg', 'fg', 'neg'}, scalars; 0 where there is no such pair.
    """
    counts = (pair_counts(pairs) if counts is None else counts) + EPS
    attract, repel = -torch.log(affinity + EPS), -torch.log(1 + EPS - affinity)
    terms = [(pairs.bg_pos, attract), (pairs.fg_pos, attract), (pairs.neg, repel)]
    return {name: (kind * cost).sum() / count for name, (kind, cost), count in zip(('bg', 'fg', 'neg'), terms, counts)}


def affinity_matrix(affinity: np.ndarray, size: tuple[int, int], radius: int = 5, beta: float = 8) -> dia_array:
    """Symmetric sparse matrix of affinity ** beta over the pixels of a map, diagonal 1.

    An offset is one diagonal on each side, so storage is by diagonals: 69 for radius 5.

    Args:
        affinity: [offsets, positions] in (0, 1], float.
        size: (h, w) of the map the affinities are of.

    Raises:
        ValueError: if the affinities do not fit the size.
    """
    radius = fit_radius(radius, size)
    steps = offsets(radius)
    rows, columns = source_size(radius, size)
    if affinity.shape != (len(steps), rows * columns):
        raise ValueError(f'a map of {size[0]}x{size[1]} at radius {radius} has {len(steps)} offsets x {rows * columns} '
                         f'positions, found affinities {list(affinity.shape)}; give the size of the feature map')
    planes = np.zeros((len(steps), *size), np.float32)
    shifted(planes, radius)[:] = (affinity ** beta).reshape(-1, rows, columns)
    forward = planes.reshape(len(steps), size[0] * size[1])
    distance = [dy * size[1] + dx for dy, dx in steps]
    # Storage by column: entry (i, i + d) is at i + d, its mirror image (i + d, i) at i. Sources keep clear of the
    # margins, so what np.roll carries around the end is 0.
    backward = [np.roll(row, d) for row, d in zip(forward, distance)]
    data = np.stack([np.ones(size[0] * size[1], np.float32), *backward, *forward])
    return dia_array((data, [0, *distance, *(-d for d in distance)]), shape=(data.shape[1],) * 2)


def random_walk(affinity: np.ndarray, size: tuple[int, int], cam: np.ndarray, beta: float = 8, log_steps: int = 6,
                radius: int = 5) -> np.ndarray:
    """Spread scores along affinities: cam · T^(2^log_steps), T the affinities with each column divided by its sum.

    Args:
        affinity: [offsets, positions] in (0, 1], of a map [h, w].
        size: (h, w).
        cam: scores [1 + k, h, w], only the rows that are present; each row walks alone.
        beta: power of the affinities, larger keeps closer to edges.
        log_steps: 2^log_steps steps.

    Returns:
        float32 [1 + k, h, w].
    """
    matrix = affinity_matrix(affinity, size, radius, beta)
    share = 1 / matrix.sum(0, dtype=np.float32)
    rows = [row.astype(np.float32) for row in cam.reshape(len(cam), -1)]
    # 2^log_steps sparse products instead of log_steps squarings of a dense matrix. The matrix is symmetric, so
    # row · matrix is matrix · row; dividing the columns is a product with the vector of shares.
    for _ in range(2 ** log_steps):
        rows = [(matrix @ row) * share for row in rows]
    return np.stack(rows).reshape(-1, *size)


def mean_affinity(affinity: np.ndarray, size: tuple[int, int], radius: int = 5) -> np.ndarray:
    """Mean affinity of each pixel of a map to its neighbours: low at edges. For pictures.

    Args:
        affinity: [offsets, positions] in (0, 1], of a map [h, w].
        size: (h, w).

    Returns:
        float32 [h, w] in [0, 1]; 1 where a pixel is in no pair, as at the lower corners.
    """
    total, count = (affinity_matrix(values, size, radius, beta=1).sum(0) - 1
                    for values in (affinity, np.ones_like(affinity)))
    return np.where(count > 0, total / np.maximum(count, 1), 1).astype(np.float32).reshape(size)


def pool_cams(cam: np.ndarray, alpha: float = 6, stride: int = STRIDE) -> np.ndarray:
    """What enters the walk: background and CAMs [k, H, W], zero-padded and mean-pooled to [1 + k, h, w]."""
    return mean_pool(with_background(cam, alpha), stride)


def walk_label(walked: np.ndarray, keys: np.ndarray, size: tuple[int, int], stride: int = STRIDE) -> np.ndarray:
    """Label map of walked scores, upsampled to the image.

    Args:
        walked: [1 + k, h, w], background first.
        keys: foreground class indices [k], from 0.
        size: (H, W) of the image; H <= stride h, W <= stride w, the rest is padding and cut off.
        stride: pixels per position.

    Returns:
        uint8 [H, W]: 0 background, class index + 1 elsewhere.
    """
    scores = F.interpolate(torch.from_numpy(walked)[None], scale_factor=stride, mode='bilinear', align_corners=False)
    channel = scores[0].argmax(0)[:size[0], :size[1]].numpy()
    return labels_of(keys)[channel]
