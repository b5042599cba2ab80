"""The paper's two losses: importance sampling (ISL) and feature similarity (FSL), for class maps of any network.

This file needs only PyTorch: copy it into your project. With class maps `logits` [N,K,h,w] of foreground classes,
image-level labels [N,K] and input images [N,3,H,W] that were normalised with mean and std:

    isl = isl_loss(logits, image_labels)
    fsl = fsl_loss(fsl_maps(logits, image_labels), fsl_images(images, logits.shape[2:], mean, std))
    loss = 0.8 * your_classification_loss + 0.2 * isl + 1.0 * fsl

Each loss comes in two forms: read `..._plain`, the equation with the matrix of all pixel pairs; use the one without
`_plain`, which computes the same in a fraction of the time and memory. A test checks that they agree.

Source: Jonnarth, Zhang, Felsberg, High-fidelity Pseudo-labels for Boosting Weakly-Supervised Segmentation, WACV 2024.
"""
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5                                          # the epsilon of every equation
TILE_PAIRS = {'cpu': 2 ** 19, 'cuda': 2 ** 24}      # pairs weighted at a time, to fit a CPU's cache or fill a GPU
TILE_COLUMNS = 64


def isl_loss_plain(logits: Tensor, image_labels: Tensor, num_samples: int = 10, indices: Tensor | None = None,
                   generator: torch.Generator | None = None) -> Tensor:
    """Importance-sampling loss: classify each image by pixels sampled in proportion to the class probability.

        q = sigmoid(logits);   i_1 .. i_S drawn with replacement, p(i) proportional to q_i + EPS
        loss = -mean over images, classes and draws of  y ln q_i + (1 - y) ln(1 - q_i)
    """
    probs = logits.sigmoid().flatten(2)                                                     # [N,K,hw]
    if indices is None:
        indices = torch.multinomial(probs.detach().flatten(0, 1) + EPS, num_samples, True, generator=generator)
    drawn = probs.gather(2, indices.view(*image_labels.shape, -1))                          # [N,K,S]
    present = image_labels[:, :, None]
    return -(present * drawn.log() + (1 - present) * (1 - drawn).log()).mean()


def fsl_loss_plain(cam: Tensor, images: Tensor, mu: float = 2.5, sigma: float | None = 5.0) -> Tensor:
    """Feature-similarity loss: close pixels that look alike should agree, close pixels that differ should not.

        delta = |x_i - x_j|_1 / 3,   s = tanh(mu + ln((delta + EPS) / (1 - delta + EPS)))
        g = exp(-d^2 / 2 sigma^2) / (2 pi sigma^2)     or 1 / (h w) without sigma
        loss = -1 / (N h w)  sum over all pairs of pixels i, j:  g s |cam_i - cam_j|^2 / 2
    """
    count, channels, height, width = images.shape
    positions = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(cam)     # [hw,2]
    colours = images.detach().clamp(0, 1).flatten(2).transpose(1, 2)                        # [N,hw,3]
    values = cam.flatten(2).transpose(1, 2)                                                 # [N,hw,C]
    delta = torch.cdist(colours, colours, p=1) / channels                                   # [N,hw,hw]
    difference = torch.tanh(mu + torch.log((delta + EPS) / (1 - delta + EPS)))              # -1 alike, 1 different
    near = 1 / (height * width)
    if sigma is not None:
        near = torch.exp(-torch.cdist(positions, positions) ** 2 / (2 * sigma ** 2)) / (2 * math.pi * sigma ** 2)
    distance = torch.cdist(values, values) ** 2
    return -(near * difference * distance / 2).sum() / (count * height * width)


def isl_loss(logits: Tensor, image_labels: Tensor, num_samples: int = 10, indices: Tensor | None = None,
             generator: torch.Generator | None = None, batch_rows: tuple[int, slice] | None = None) -> Tensor:
    """The same as isl_loss_plain, but computed from the logits, which is numerically stable.

    Args:
        logits: [N,K,h,w], foreground only, before any sigmoid.
        image_labels: [N,K] 0/1.
        num_samples, generator, batch_rows: see draw_pixels; no gradient flows through the choice of pixels.
        indices: pixels to use instead of sampling, int64 [N,K,S].

    Returns the mean over images, classes and draws, in at least float32; NaN if any logit is not finite. ValueError for
    other shapes and for labels outside [0, 1]; on a GPU such labels give NaN, as raising would need a synchronisation.
    """
    _check_labels('isl_loss', logits, image_labels)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if indices is None:
        indices = draw_pixels(logits.sigmoid(), num_samples, generator, batch_rows)
    drawn = logits.flatten(2).gather(2, indices)
    loss = F.binary_cross_entropy_with_logits(drawn, image_labels.to(logits.dtype)[:, :, None].expand_as(drawn))
    # Non-finite pixels are almost never sampled, but the loss must reveal them.
    valid = logits.detach().isfinite().all() & ((image_labels >= 0) & (image_labels <= 1)).all()
    return torch.where(valid, loss, math.nan)


def draw_pixels(probs: Tensor, num_samples: int = 10, generator: torch.Generator | None = None,
                batch_rows: tuple[int, slice] | None = None) -> Tensor:
    """Sample pixels of each map with replacement, with probability proportional to probs + EPS, in float32.

    Args:
        probs: [N,K,h,w], not negative; the maps are independent and need not sum to 1. Invalid values (negative,
            infinite, NaN) count as 0: on CUDA torch.multinomial would abort the process.
        num_samples, generator: pixels S per map; random generator on the device of probs, or None.
        batch_rows: if several processes share a batch and a random state: the number of images in the whole batch,
            and which of them these N are. Each process draws for all, so the result equals that of one process.
    Returns pixel numbers y * w + x, int64 [N,K,S].
    """
    weights = probs.detach().float().flatten(2).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
    count, own = batch_rows or (len(weights), slice(None))
    rows = weights.new_ones(count, *weights.shape[1:])      # images of other processes: only their number matters
    rows[own] = weights + EPS
    drawn = torch.multinomial(rows.flatten(0, 1), num_samples, replacement=True, generator=generator)
    return drawn.view(count, -1, num_samples)[own]


def fsl_loss(cam: Tensor, images: Tensor, mu: float = 2.5, sigma: float | None = 5.0,
             cut: float | None = 5.0) -> Tensor:
    """The same as fsl_loss_plain, tile by tile, without a matrix of all pairs.

    Args:
        cam: maps [N,C,h,w] in [0, 1] with background, see fsl_maps.
        images: [N,3,h,w] of the same size, in [0, 1] (clamped here), see fsl_images; they get no gradient.
        mu: with a larger mu, more pairs count as different; 2.5 in the paper.
        sigma: width of the neighbourhood in pixels of cam, or None to weight all pairs equally.
        cut: pairs more than cut * sigma rows or columns apart are omitted; at 5 the relative error is below 1e-5.
            None keeps all.

    Returns a scalar, in at least float32, negative if the maps follow the image's edges. ValueError if the sizes of cam
    and images differ, or if sigma is not positive.
    """
    if cam.ndim != 4 or cam.shape[0] != images.shape[0] or cam.shape[2:] != images.shape[2:]:
        raise ValueError(f'fsl_loss got cam {list(cam.shape)} and images {list(images.shape)}, expected one image per '
                         'map, of the same height and width; resize the images with fsl_images')
    if sigma is not None and sigma <= 0:
        raise ValueError(f'fsl_loss got sigma {sigma}, expected a width above 0, or None for no window')
    cam = cam.to(torch.promote_types(cam.dtype, torch.float32))
    return _QuadraticForm.apply(cam, images.detach().to(cam.dtype).clamp(0, 1), mu, sigma, cut)


def fsl_maps(logits: Tensor, image_labels: Tensor) -> Tensor:
    """Maps [N,1+K,h,w] for fsl_loss: background first, then max_norm of the logits [N,K,h,w], 0 for absent classes."""
    _check_labels('fsl_maps', logits, image_labels)
    return add_background(max_norm(logits) * image_labels[:, :, None, None])


def fsl_images(images: Tensor, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images for fsl_loss: [N,3,H,W], normalised with mean and std, become [N,3,*size] in [0, 1] (bilinear). ValueError
    (NaN on a GPU) for images from 0 to 255."""
    with torch.no_grad():
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        small = F.interpolate(images, size=tuple(size), mode='bilinear', align_corners=True)
        # Channel by channel, with plain numbers: tensors would have to be copied to the device.
        small = torch.stack([x * s + m for x, m, s in zip(small.unbind(1), mean, std, strict=True)], 1)
        if small.device.type == 'cpu' and small.amax() > 10:
            raise ValueError(f'fsl_images got values up to {images.amax():g}, expected images in [0, 1], normalised '
                             'with mean and std; divide by 255, then normalise')
        return torch.where(small.amax() > 10, math.nan, small.clamp(0, 1))


def _check_labels(name: str, logits: Tensor, image_labels: Tensor) -> None:
    if logits.ndim != 4 or image_labels.shape != logits.shape[:2]:
        raise ValueError(f'{name} got logits {list(logits.shape)} and image_labels {list(image_labels.shape)}, '
                         'expected [N,K,h,w] and [N,K], both without background')
    if image_labels.device.type == 'cpu' and not ((image_labels >= 0) & (image_labels <= 1)).all():
        raise ValueError(f'{name} got image_labels up to {image_labels.max():g}, expected 0 or 1; make others 0')


def max_norm(maps: Tensor) -> Tensor:
    """Stretch the positive part p of each map [N,C,H,W] to [0, 1]: relu(p - min - EPS) / (max - min + EPS)."""
    positive = F.relu(maps.to(torch.promote_types(maps.dtype, torch.float32)))
    low, high = positive.amin((2, 3), keepdim=True), positive.amax((2, 3), keepdim=True)
    return F.relu(positive - low - EPS) / (high - low + EPS)


def add_background(foreground: Tensor) -> Tensor:
    """Foreground maps [N,K,h,w] in [0, 1] preceded by background, 1 - strongest foreground: [N,1+K,h,w]."""
    return torch.cat([1 - foreground.amax(1, keepdim=True), foreground], dim=1)


class _QuadraticForm(torch.autograd.Function):
    """Loss and gradient in one pass over the pairs of pixels: with W = g s, symmetric and free of gradient, and
    R = diag(W 1), the loss is -1 / (N h w) cam^T (R - W) cam and its gradient -2 / (N h w) (R - W) cam.
    """

    @staticmethod
    def forward(ctx, cam: Tensor, images: Tensor, mu: float, sigma: float | None, cut: float | None) -> Tensor:
        # Constants cancel in R - W; without them the two products stay small and float32 suffices.
        centred = cam - cam.mean((2, 3), keepdim=True)
        with torch.autocast(cam.device.type, enabled=False):
            product = _apply_form(centred, images, mu, sigma, cut)
        ctx.scale = -1 / cam[:, 0].numel()
        ctx.save_for_backward(product)
        return ctx.scale * (centred * product).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * (2 * ctx.scale * grad), None, None, None, None


def _apply_form(cam: Tensor, images: Tensor, mu: float, sigma: float | None, cut: float | None) -> Tensor:
    """(R - W) cam, [N,C,h,w]."""
    count, _, height, width = cam.shape
    reach = max(height, width) if sigma is None or cut is None else math.ceil(cut * sigma)
    position = torch.arange(max(height, width), dtype=cam.dtype, device=cam.device)
    square = (position[:, None] - position) ** 2
    line, area = torch.ones_like(square), height * width
    if sigma is not None:       # the factor of g along one axis
        line, area = torch.exp(square / (-2 * sigma ** 2)) / (math.sqrt(2 * math.pi) * sigma), 1
    # A channel of ones yields R in the same products as W cam. Channels last, for matrix products.
    maps = F.pad(cam, (0, 0, 0, 0, 0, 1), value=1.0).permute(0, 2, 3, 1).contiguous()
    total, colours = torch.zeros_like(maps), images / images.shape[1]
    budget = TILE_PAIRS.get(cam.device.type, TILE_PAIRS['cpu'])
    for (ys, xs), (vs, us) in _rectangles(height, width, reach, budget):
        near = (line[ys, None, vs, None] * line[None, xs, None, us] / area).flatten(2).flatten(0, 1)
        group = max(1, budget // near.numel())
        for n in (slice(start, start + group) for start in range(0, count, group)):
            weight = _pair_weight(colours[n, :, ys, xs], colours[n, :, vs, us], near, mu)
            first, second = maps[n, ys, xs], maps[n, vs, us]
            total[n, ys, xs].add_(torch.bmm(weight, second.flatten(1, 2)).view_as(first))
            if (ys, xs) != (vs, us):
                total[n, vs, us].add_(torch.bmm(weight.mT, first.flatten(1, 2)).view_as(second))
    total = total.permute(0, 3, 1, 2)
    return torch.addcmul(total[:, :-1], total[:, -1:], cam, value=-1).neg_()


def _pair_weight(first: Tensor, second: Tensor, near: Tensor, mu: float) -> Tensor:
    """W = near * s [n,P,Q] between two rectangles of P and Q pixels: near [P,Q], colours / channels [n,c,...].

    tanh(mu + ln(a / b)) = 1 - 2 / (1 + r^2), r = e^mu a / b: no transcendental function per pair. In place for speed.
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


def _rectangles(height: int, width: int, reach: int, budget: int) -> Iterator:
    """Cover every unordered pair of pixels within reach (in rows and in columns) by one pair of rectangles, each two
    slices. A rectangle paired with itself holds both orders; all others are disjoint."""
    columns = min(width, TILE_COLUMNS)
    widest = columns * min(width, columns + 2 * reach) * min(height, reach)
    # More rows would waste work: pairs within one source are visited in both orders.
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
