"""Pixel affinities: pairs of neighbouring pixels, their labels from CRF seeds, the loss, and the random walk.

A pair consists of a source pixel and a neighbour at one of the offsets. Affinities are stored as [offsets, positions],
where positions are the sources in row-major order. Everything is a shifted view of a map, without index tables.

Source: Ahn & Kwak, CVPR 2018.
"""
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import dia_array
from torch import Tensor
from torch.nn import functional as F

from tool.camutils import labels_of, with_background
from tool.crfutils import crf_scores
from tool.densecrf import SEED_CRF
from tool.imutils import IGNORED, pad_to_multiple
from tool.probutils import EPS
from tool.torchutils import full_precision

STRIDE = 8      # pixels per position


class Pairs(NamedTuple):
    """Kinds of pairs, three bool tensors [N, offsets, positions]; a pair with an ignored pixel is in none."""
    bg_pos: Tensor
    fg_pos: Tensor
    neg: Tensor


def fit_radius(radius: int, size: tuple[int, int]) -> int:
    """The radius, or (short side - 1) // 2 if a map [h, w] is too small for it."""
    short = min(size)
    return radius if short >= 2 * radius + 1 else (short - 1) // 2


def offsets(radius: int = 5) -> list[tuple[int, int]]:
    """Offsets (dy, dx) shorter than radius, one of each opposite two: right, then row by row below. 34 for radius 5."""
    right = [(0, dx) for dx in range(1, radius)]
    below = [(dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius) if dy * dy + dx * dx < radius ** 2]
    return right + below


def source_size(radius: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of sources: all but radius - 1 rows at the bottom and radius - 1 columns at either side."""
    margin = max(radius - 1, 0)
    return size[0] - margin, size[1] - 2 * margin


def shifted(maps, radius: int, dy: int = 0, dx: int = 0):
    """View of maps [..., h, w] (array or tensor) on the sources, moved by (dy, dx)."""
    rows, columns = source_size(radius, maps.shape[-2:])
    left = max(radius - 1, 0) + dx
    return maps[..., dy:dy + rows, left:left + columns]


def pair_affinity(features: Tensor, radius: int = 5) -> Tensor:
    """Affinity exp(-mean over channels |f_i - f_j|) of all pairs within the radius, which is smaller on small maps.

    Takes features [N, c, h, w]; returns [N, offsets, positions] in (0, 1], in at least float32; no offsets if the short
    side is below 5.
    """
    return _PairAffinity.apply(full_precision(features), fit_radius(radius, features.shape[-2:]))


class _PairAffinity(torch.autograd.Function):
    """Keeps the features only; plain autograd would keep a feature map per offset."""

    @staticmethod
    def forward(ctx, features: Tensor, radius: int) -> Tensor:
        source, steps = shifted(features, radius), offsets(radius)
        affinity = features.new_empty(len(features), len(steps), *source.shape[-2:])
        for i, step in enumerate(steps):
            affinity[:, i] = (source - shifted(features, radius, *step)).abs_().mean(1)
        affinity.neg_().exp_()
        ctx.save_for_backward(features, affinity)
        ctx.radius = radius
        return affinity.flatten(2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        features, affinity = ctx.saved_tensors
        source, result = shifted(features, ctx.radius), torch.zeros_like(features)
        slope = -grad.view_as(affinity) * affinity / features.shape[1]
        for i, step in enumerate(offsets(ctx.radius)):
            pull = (source - shifted(features, ctx.radius, *step)).sign_().mul_(slope[:, i, None])
            shifted(result, ctx.radius).add_(pull)
            shifted(result, ctx.radius, *step).sub_(pull)
        return result, None


def mean_pool(maps: np.ndarray, stride: int = STRIDE) -> np.ndarray:
    """Mean over stride x stride blocks, zero-padded: [k, H, W] -> [k, ceil(H/stride), ceil(W/stride)]."""
    padded = pad_to_multiple(maps, stride)
    # Rows first: their sums run over contiguous memory.
    rows = padded.reshape(len(maps), padded.shape[1] // stride, stride, padded.shape[2]).mean(2)
    return rows.reshape(len(maps), rows.shape[1], -1, stride).mean(3)


def affinity_label(low: np.ndarray, high: np.ndarray, stride: int = STRIDE) -> np.ndarray:
    """Label map of a crop from its two CRF seeds: certain objects, certain background, and the rest ignored.

    Args:
        low: scores [1 + k, H, W] of the seeds with much background (alpha 1), background first, padding 0; trusted
            for objects.
        high: the same for the seeds with little background (alpha 24); trusted for background.
        stride: pixels per position.

    Returns uint8 [ceil(H/stride), ceil(W/stride)]: 0 background, i for channel i, 255 ignored (uncertain or padding).
    """
    low, high = mean_pool(low, stride), mean_pool(high, stride)
    label = low.argmax(0).astype(np.uint8)
    label[label == 0] = IGNORED
    label[high.argmax(0) == 0] = 0
    label[np.maximum(low.max(0), high.max(0)) < EPS] = IGNORED
    return label


def pair_labels(label: Tensor, radius: int = 5) -> Pairs:
    """Kind of each pair of a label map [N, h, w] (0 background, 255 ignored), laid out like pair_affinity's result."""
    radius = fit_radius(radius, label.shape[-2:])
    source = shifted(label, radius)[:, None]
    target = torch.cat([source[:, :0], *(shifted(label, radius, *step)[:, None] for step in offsets(radius))], dim=1)
    valid = (source != IGNORED) & (target != IGNORED)
    equal = valid & (source == target)
    background = source == 0
    return Pairs(*(kind.flatten(2) for kind in (equal & background, equal & ~background, valid & ~equal)))


def pair_counts(pairs: Pairs) -> Tensor:
    """Number of background, foreground and negative pairs, float [3]."""
    return torch.stack([kind.sum() for kind in pairs]).float()


def affinity_loss(affinity: Tensor, pairs: Pairs, counts: Tensor | None = None) -> dict[str, Tensor]:
    """Mean cross-entropy of the affinities for each kind of pair; the stage weights them bg/4 + fg/4 + neg/2.

    Args:
        affinity: [N, offsets, positions] in (0, 1].
        pairs: of the same shape, from pair_labels.
        counts: [3], by default pair_counts(pairs), which in a process with part of the batch count that part only.
            With the mean of all processes' counts, the mean of their losses is the loss of the whole batch.

    Returns scalars 'bg', 'fg' and 'neg'; 0 for a kind without pairs.
    """
    counts = (pair_counts(pairs) if counts is None else counts) + EPS
    attract, repel = -torch.log(affinity + EPS), -torch.log(1 + EPS - affinity)
    terms = [(pairs.bg_pos, attract), (pairs.fg_pos, attract), (pairs.neg, repel)]
    return {name: (kind * cost).sum() / count for name, (kind, cost), count in zip(('bg', 'fg', 'neg'), terms, counts)}


def affinity_matrix(affinity: np.ndarray, size: tuple[int, int], radius: int = 5, beta: float = 8) -> dia_array:
    """Symmetric sparse matrix of affinity ** beta between the pixels of a map of this size (h, w), with diagonal 1.

    An offset is one diagonal on each side, so storage is by diagonals: 69 for radius 5. Affinities are
    [offsets, positions] in (0, 1]; ValueError if they do not fit the size.
    """
    radius = fit_radius(radius, size)
    steps, (rows, columns) = offsets(radius), source_size(radius, size)
    if affinity.shape != (len(steps), rows * columns):
        raise ValueError(f'a map of {size[0]}x{size[1]} at radius {radius} has {len(steps)} offsets x {rows * columns} '
                         f'positions, found affinities {list(affinity.shape)}; give the size of the feature map')
    planes = np.zeros((len(steps), *size), np.float32)
    shifted(planes, radius)[:] = (affinity ** beta).reshape(-1, rows, columns)
    forward = planes.reshape(len(steps), size[0] * size[1])
    distance = [dy * size[1] + dx for dy, dx in steps]
    # Storage by column: entry (i, i + d) is at i + d, its mirror image (i + d, i) at i. Sources stay off the
    # margins, so the values that np.roll wraps around are 0.
    backward = [np.roll(row, d) for row, d in zip(forward, distance)]
    data = np.stack([np.ones(size[0] * size[1], np.float32), *backward, *forward])
    return dia_array((data, [0, *distance, *(-d for d in distance)]), shape=(data.shape[1],) * 2)


def random_walk(affinity: np.ndarray, size: tuple[int, int], cam: np.ndarray, beta: float = 8, log_steps: int = 6,
                radius: int = 5) -> np.ndarray:
    """Propagate scores: cam · T^(2^log_steps), where T is the affinity matrix with each column divided by its sum;
    float32 [1 + k, h, w].

    Args:
        affinity: [offsets, positions] in (0, 1], of a map of this size (h, w).
        cam: scores [1 + k, h, w] of background and the classes present; each map is propagated separately.
        beta: exponent of the affinities; larger values respect edges more.
        log_steps: log2 of the number of steps.
    """
    matrix = affinity_matrix(affinity, size, radius, beta)
    scale = 1 / matrix.sum(0, dtype=np.float32)
    rows = [row.astype(np.float32) for row in cam.reshape(len(cam), -1)]
    # 2^log_steps sparse products instead of log_steps squarings of a dense matrix. The matrix is symmetric, so
    # row · matrix is matrix · row; dividing the columns is a product with the vector scale.
    for _ in range(2 ** log_steps):
        rows = [(matrix @ row) * scale for row in rows]
    return np.stack(rows).reshape(-1, *size)


def mean_affinity(affinity: np.ndarray, size: tuple[int, int], radius: int = 5) -> np.ndarray:
    """Mean affinity of each pixel to its neighbours, for visualisation: float32 [h, w] in [0, 1], low at edges.

    Expects affinities [offsets, positions] of a map of this size. A pixel in no pair, as at the lower corners, gets 1.
    """
    total, count = (affinity_matrix(values, size, radius, beta=1).sum(0) - 1
                    for values in (affinity, np.ones_like(affinity)))
    return np.where(count > 0, total / np.maximum(count, 1), 1).astype(np.float32).reshape(size)


def pool_cams(cam: np.ndarray, alpha: float = 6, stride: int = STRIDE) -> np.ndarray:
    """Input of the walk: background and CAMs [k, H, W], zero-padded and mean-pooled to [1 + k, h, w]."""
    return mean_pool(with_background(cam, alpha), stride)


def walk_label(walked: np.ndarray, keys: np.ndarray, size: tuple[int, int], stride: int = STRIDE,
               crf_image: np.ndarray | None = None, crf_backend: str = 'torch') -> np.ndarray:
    """Label map of walked scores, upsampled to the image: uint8 [H, W], 0 background, class index + 1 elsewhere.

    Args:
        walked: [1 + k, h, w], background first.
        keys: foreground class indices [k], from 0.
        size: (H, W) of the image; H <= stride h, W <= stride w, the rest is padding and is cut off.
        stride: pixels per position.
        crf_image: RGB uint8 [H, W, 3]; if given, the dense CRF of the seeds refines the scores along its edges.
        crf_backend: see tool/crfutils.py.
    """
    scores = F.interpolate(torch.from_numpy(walked)[None], scale_factor=stride, mode='bilinear', align_corners=False)
    scores = scores[0, :, :size[0], :size[1]]
    if crf_image is not None and len(keys):
        scores = crf_scores(crf_image, scores, SEED_CRF, crf_backend)
    return labels_of(keys)[scores.argmax(0).numpy()]
