"""The paper's own losses: importance sampling (ISL) and feature similarity (FSL), for maps of any network.

Both take maps [N,K,h,w] of any size on any device, know nothing of the network, and return a scalar.

Source: Jonnarth, Zhang, Felsberg, High-fidelity Pseudo-labels for Boosting Weakly-Supervised Segmentation, WACV 2024.
"""
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.process.batchpart import batch_rows
from tool.torchutils import full_precision, no_autocast

EPS = 1e-5
# Pairs weighed at a time: tiles that nearly fit a CPU's second-level cache, and tiles that fill a GPU. On the CPU
# smaller tiles gain nothing, and lose much where threads share their cores and so wait for each other at every step.
TILE_PAIRS = {'cpu': 2 ** 19, 'cuda': 2 ** 24}
TILE_COLUMNS = 64

Rectangle = tuple[slice, slice]


# ---------------------------------------------------------------------------------------- importance sampling


def draw_pixels(probs: Tensor, num_samples: int = 10, generator: torch.Generator | None = None) -> Tensor:
    """Draw pixels of each map, with replacement, with probability proportional to probs + EPS.

    Drawn in float32 whatever the type of probs, so that autocast does not change the draw.

    Args:
        probs: [N,K,h,w], not negative; the maps are independent and need not sum to 1.
        num_samples: pixels S drawn a map.
        generator: source of randomness on the device of probs; the global one by default.

    Returns:
        Pixel numbers y * w + x, int64 [N,K,S].

    Raises:
        ValueError: on the CPU, if a value is negative, infinite or NaN. On CUDA looking would make the host wait, and
            torch.multinomial would end the process; such values count as 0 there (see isl_loss).
    """
    weights = probs.detach().float().flatten(2)
    if weights.device.type != 'cpu':
        weights = weights.nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
    elif not (weights.isfinite() & (weights >= 0)).all():
        raise ValueError('draw_pixels got probabilities that are NaN, infinite or negative, expected finite values '
                         'from 0; the network has diverged: lower the learning rate or turn autocast off')
    # Where the batch is shared, the others' maps are drawn from too, uniformly: only the count of draws matters.
    count, mine = batch_rows(len(weights))
    rows = weights.new_ones(count, *weights.shape[1:])
    rows[mine] = weights + EPS
    drawn = torch.multinomial(rows.flatten(0, 1), num_samples, replacement=True, generator=generator)
    return drawn.view(count, probs.shape[1], num_samples)[mine]


def isl_loss(logits: Tensor, image_labels: Tensor, num_samples: int = 10, indices: Tensor | None = None,
             generator: torch.Generator | None = None) -> Tensor:
    """Importance-sampling loss: classify the image by pixels drawn where the class is believed to be.

    For every image and class, S pixels are drawn with probability proportional to sigmoid(logit); the loss is the
    multi-label soft margin of their logits against the image's label. Classes are drawn independently (the paper's
    binomial form). No gradient flows through the choice of pixels.

    Args:
        logits: [N,K,h,w], foreground only.
        image_labels: [N,K] 0/1.
        num_samples: pixels S drawn for each image and class.
        indices: pixels to use instead of drawing, int64 [N,K,S] as draw_pixels returns them.
        generator: source of randomness for the draw.

    Returns:
        Scalar, mean over images, classes and draws, in float32 at least. NaN if a logit is not finite (on CUDA; on
        the CPU the draw raises).
    """
    logits = full_precision(logits)
    if indices is None:
        indices = draw_pixels(logits.sigmoid(), num_samples, generator)
    drawn = logits.flatten(2).gather(2, indices)
    labels = image_labels.to(logits.dtype)[:, :, None].expand_as(drawn)
    loss = F.binary_cross_entropy_with_logits(drawn, labels)
    # Pixels that are not finite are never drawn on CUDA; the loss must show them all the same.
    return torch.where(logits.detach().isfinite().all(), loss, math.nan)


# ------------------------------------------------------------------------------------------ feature similarity


def fsl_loss(cam: Tensor, images: Tensor, mu: float = 2.5, sigma: float | None = 5.0,
             cut: float | None = 5.0) -> Tensor:
    """Feature-similarity loss: close pixels that look alike should agree, close pixels that differ should not.

        delta = |x_i - x_j|_1 / 3,   s = tanh(mu + ln((delta + EPS) / (1 - delta + EPS)))
        g = exp(-d^2 / 2 sigma^2) / (2 pi sigma^2)     or 1 / (h w) without sigma
        loss = -1 / (N h w)  sum over all pairs of pixels i, j:  g s |cam_i - cam_j|^2 / 2

    With W = g s, symmetric and free of gradient, and R = diag(W 1), the loss is the quadratic form
    -1 / (N h w) cam^T (R - W) cam, and its gradient -2 / (N h w) (R - W) cam. So one pass over the pairs yields both,
    tile by tile, and no matrix of all pairs is kept.

    Args:
        cam: maps [N,C,h,w]; in the paper normalised to [0, 1] with background = 1 - strongest foreground.
        images: [N,3,h,w] of the same size, in [0, 1] (clamped here); no gradient. Any channel count works.
        mu: larger makes more pairs count as different; 2.5 in the paper.
        sigma: width of the neighbourhood in pixels of cam, or None: all pairs count alike.
        cut: pairs further apart than cut * sigma are left out, in rows or in columns; at 5 the relative error is
            below 1e-5. None: leave out none.

    Returns:
        Scalar, in float32 at least under autocast too; negative where maps follow the image's edges.

    Raises:
        ValueError: if the sizes of cam and images differ, or sigma is not positive.
    """
    if cam.shape[0] != images.shape[0] or cam.shape[2:] != images.shape[2:]:
        raise ValueError(f'fsl_loss got cam {list(cam.shape)} and images {list(images.shape)}, expected one image of '
                         'the same height and width for each map; resize the images (fsl_images does)')
    if sigma is not None and sigma <= 0:
        raise ValueError(f'fsl_loss got sigma {sigma}, expected a width above 0, or None for no window')
    cam = full_precision(cam)
    images = images.detach().to(cam.dtype).clamp(0, 1)
    return _QuadraticForm.apply(cam, images, mu, sigma, cut)


def fsl_images(images: Tensor, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images for fsl_loss: resized to the maps (bilinear, corners kept), de-normalised, clamped to [0, 1].

    Args:
        images: [N,3,H,W], normalised with mean and std per channel.
        size: height and width of the maps.
    """
    with torch.no_grad():
        small = F.interpolate(full_precision(images), size=tuple(size), mode='bilinear', align_corners=True)
        # Channel by channel with plain numbers: tensors of them would have to be copied to the device.
        channels = [channel * s + m for channel, m, s in zip(small.unbind(1), mean, std, strict=True)]
        return torch.stack(channels, dim=1).clamp(0, 1)


class _QuadraticForm(torch.autograd.Function):
    """-1 / (N h w) cam^T (R - W) cam; the forward pass leaves nothing for the backward but one product."""

    @staticmethod
    def forward(ctx, cam: Tensor, images: Tensor, mu: float, sigma: float | None, cut: float | None) -> Tensor:
        # Constants cancel in R - W; without them the two products stay small and float32 suffices.
        centred = cam - cam.mean((2, 3), keepdim=True)
        with no_autocast(cam):
            residual = _apply_form(centred, images, mu, sigma, cut)
        scale = -1 / (cam.shape[0] * cam.shape[2] * cam.shape[3])
        ctx.save_for_backward(residual)
        ctx.scale = scale
        return scale * (centred * residual).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        residual, = ctx.saved_tensors
        return residual * (2 * ctx.scale * grad), None, None, None, None


def _apply_form(cam: Tensor, images: Tensor, mu: float, sigma: float | None, cut: float | None) -> Tensor:
    """(R - W) cam, [N,C,h,w]."""
    count, _, height, width = cam.shape
    reach = max(height, width) if sigma is None or cut is None else math.ceil(cut * sigma)
    near_y, near_x = (_window(length, sigma, cam) for length in (height, width))
    if sigma is None:
        near_y = near_y / (height * width)
    # A channel of ones makes R come with the same products as W cam. Channels last, for matrix products.
    maps = F.pad(cam, (0, 0, 0, 0, 0, 1), value=1.0).permute(0, 2, 3, 1).contiguous()
    colours = images / images.shape[1]
    total = torch.zeros_like(maps)
    budget = TILE_PAIRS.get(cam.device.type, TILE_PAIRS['cpu'])
    for source, partner in _rectangles(height, width, reach, budget):
        near = near_y[source[0], None, partner[0], None] * near_x[None, source[1], None, partner[1]]
        near = near.flatten(2).flatten(0, 1)
        group = max(1, budget // near.numel())
        for n in (slice(start, start + group) for start in range(0, count, group)):
            weight = _pair_weight(colours[(n, slice(None), *source)], colours[(n, slice(None), *partner)], near, mu)
            _add_product(total, maps, weight, (n, *source), (n, *partner))
            if source != partner:
                _add_product(total, maps, weight.transpose(1, 2), (n, *partner), (n, *source))
    total = total.permute(0, 3, 1, 2)
    return torch.addcmul(total[:, :-1], total[:, -1:], cam, value=-1).neg_()


def _add_product(total: Tensor, maps: Tensor, weight: Tensor, to: tuple, of: tuple) -> None:
    """total at `to` += weight times maps at `of`, in place."""
    target = total[to]
    target += torch.bmm(weight, maps[of].flatten(1, 2)).view_as(target)


def _window(length: int, sigma: float | None, like: Tensor) -> Tensor:
    """Factor of the Gaussian along one axis, [length,length]; ones without sigma."""
    place = torch.arange(length, dtype=like.dtype, device=like.device)
    if sigma is None:
        return torch.ones_like(place).expand(length, length)
    return torch.exp((place[:, None] - place) ** 2 / (-2 * sigma ** 2)) / (math.sqrt(2 * math.pi) * sigma)


def _pair_weight(first: Tensor, second: Tensor, near: Tensor, mu: float) -> Tensor:
    """W = near * s between pixels of two rectangles, [n,P,Q].

    tanh(mu + ln(a / b)) = 1 - 2 / (1 + r^2) with r = e^mu a / b: no transcendental function per pair. Written in
    place because the passes over memory are the whole cost.

    Args:
        first, second: colours / number of channels, [n,c,...] with P and Q pixels.
        near: weight of distance, [P,Q].
    """
    first, second = first.flatten(2)[:, :, :, None], second.flatten(2)[:, :, None]
    delta = (first[:, 0] - second[:, 0]).abs_()
    spare = torch.empty_like(delta)
    for channel in range(1, first.shape[1]):
        delta += torch.sub(first[:, channel], second[:, channel], out=spare).abs_()
    rest = torch.rsub(delta, 1 + EPS)
    ratio = delta.add_(EPS).mul_(math.exp(mu)).div_(rest)
    square = torch.addcmul(torch.ones((), dtype=near.dtype, device=near.device), ratio, ratio, out=spare)
    return torch.addcdiv(near, near, square, value=-2, out=ratio)


def _rectangles(height: int, width: int, reach: int, budget: int) -> Iterator[tuple[Rectangle, Rectangle]]:
    """Cover every unordered pair of pixels within reach (in rows and in columns) by one pair of rectangles.

    A rectangle paired with itself holds both orders of its pairs; all other pairs of rectangles are disjoint.

    Yields:
        (source, partner), each (rows, columns).
    """
    columns = min(width, TILE_COLUMNS)
    widest = columns * min(width, columns + 2 * reach) * min(height, reach)
    # Many rows would waste work: those of one source are paired in both orders.
    rows = max(1, min(budget // widest, reach // 4))
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        below = slice(bottom, min(height, bottom + reach))
        for left in range(0, width, columns):
            right = min(width, left + columns)
            source = slice(top, bottom), slice(left, right)
            yield source, source
            if right < width:
                yield source, (source[0], slice(right, min(width, right + reach)))
            if bottom < height:
                yield source, (below, slice(max(0, left - reach), min(width, right + reach)))
