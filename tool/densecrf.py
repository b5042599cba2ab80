"""Dense CRF in plain PyTorch, on a CPU or a GPU, with the results of pydensecrf. Needs only torch.

    from tool.densecrf import SEED_CRF, dense_crf
    refined = dense_crf(image, probs, SEED_CRF)         # uint8 [H, W, 3], float [L, H, W] -> float32 [L, H, W]

All pairs of pixels are connected, weighted by two Gaussians: of distance, and of distance and colour. Each iteration of
mean-field inference filters the probabilities with both. The permutohedral lattice makes filtering over all pairs
cheap: pixels are points in feature space (position / width, colour / width), which is tiled by simplices. The values of
the pixels are added to the corners of their simplices (splat), mixed with those of neighbouring corners (blur), and
read back (slice). Splat and slice are products with a sparse matrix and its transpose.

Sources: Krähenbühl & Koltun, NIPS 2011 (the CRF); Adams, Baek & Davis, Eurographics 2010 (the lattice). The order of
operations is that of pydensecrf, because ten iterations can amplify rounding errors a thousandfold.
"""
import math
from collections.abc import Sequence
from ctypes import c_float
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn import functional as F


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


@torch.no_grad()
def dense_crf(image: torch.Tensor, probs: torch.Tensor, settings: CrfSettings) -> torch.Tensor:
    """Refine class scores along the image's edges with a fully connected CRF.

    Runs on the device of its inputs, reproducibly. On a GPU, the host synchronises once for each lattice.

    Args:
        image: RGB uint8 [H, W, 3].
        probs: finite scores [L, H, W], or [S, L, H, W] for S score maps of one image, which share its lattices. They
            are clipped to [1e-5, 1] before the logarithm and need not sum to 1.
        settings: SEED_CRF, FINAL_CRF or your own.

    Returns probabilities float32, shaped as probs, that sum to 1 over L. ValueError if the sizes disagree, or the image
    is too large for the widths.
    """
    labels, height, width = probs.shape[-3:]
    if image.shape != (height, width, 3) or image.dtype != torch.uint8:
        raise ValueError(f'CRF on scores of {height}x{width} needs a uint8 image [{height}, {width}, 3], found '
                         f'{image.dtype} {list(image.shape)}; resize the scores to the image')
    smooth = spatial_lattice(height, width, settings.smooth_xy, image.device)
    position, size = pixel_positions(height, width, settings.colour_xy, image.device)
    colour = Lattice(torch.cat([position, image.reshape(-1, 3).T / settings.colour_rgb]),
                     [*size, *3 * [255 / settings.colour_rgb]])
    unary = probs.reshape(-1, labels, height * width).float().clamp(1e-5, 1)
    found = unary / unary.sum(1, keepdim=True)
    unary.log_()
    for _ in range(settings.iterations):
        rows = found.flatten(0, 1).T.contiguous()       # one for each pixel
        message = smooth(rows).mul_(settings.smooth_compat).add_(colour(rows), alpha=settings.colour_compat).T
        if len(message) > 16:
            message = found.view(message.shape).copy_(message)          # only then faster, on a CPU
        found = torch.add(unary, message.view(unary.shape), out=found).softmax(1)
    return found.reshape(probs.shape)


def pixel_positions(height: int, width: int, xy: float, device: torch.device) -> tuple[torch.Tensor, list[float]]:
    """Column and row of each pixel, divided by xy, float32 [2, H W], and their upper bounds."""
    rows = torch.arange(height, dtype=torch.float32, device=device).repeat_interleave(width)
    columns = torch.arange(width, dtype=torch.float32, device=device).repeat(height)
    return torch.stack([columns, rows]) / xy, [width / xy, height / xy]


@lru_cache(maxsize=4)
def spatial_lattice(height: int, width: int, xy: float, device: torch.device) -> 'Lattice':
    """The lattice of positions alone, the same for all images of one size."""
    return Lattice(*pixel_positions(height, width, xy, device))


class Lattice:
    """Gaussian filter between N points: values v -> n K (n v), where K is its matrix and n = 1 / sqrt(K 1).

    Args:
        features: float32 [d, N], in standard deviations of the Gaussian.
        extent: upper bound of each feature, which is in [0, extent].
    """

    def __init__(self, features: torch.Tensor, extent: Sequence[float]):
        (dims, count), keys = features.shape, Keys(extent)
        found, weights = corners(features, keys)

        # Number the vertices, and sort the points by vertex. A corner r coincides only with corners r of other points.
        found, points = (torch.stack(part) for part in zip(*(row.sort(stable=True) for row in found)))
        found = torch.cat([row + r * keys.size for r, row in enumerate(found)])
        is_first = found != F.pad(found[:-1], (1, 0), value=-1)
        first = is_first.nonzero()[:, 0]                # the host synchronises here
        number = is_first.cumsum(0, dtype=torch.int32).sub_(1).view(points.shape)
        self.vertices = torch.empty_like(number).scatter_(1, points, number).T.contiguous()     # of each point
        self.points = points.flatten().int()                                                    # of all vertices
        # One more vertex, without points, stands for those that do not exist.
        self.starts = F.pad(first.int(), (0, 2), value=found.numel())
        self.neighbours = neighbours(found[first], keys)

        # Entries of the sparse matrix in both orders, and then with the normalisation.
        self.splat_weights = weights.gather(1, points).flatten()
        self.slice_weights = weights.T.contiguous() / (1 + 2 ** -dims)
        scale = self(features.new_ones(count, 1)).add_(1e-20).rsqrt_()
        self.splat_weights *= scale[:, 0].index_select(0, self.points)
        self.slice_weights *= scale

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Filter values, float32 [N, C] and contiguous."""
        table = F.embedding_bag(self.points, values, self.starts, mode='sum', per_sample_weights=self.splat_weights,
                                include_last_offset=True)
        for pairs in self.neighbours:
            table.add_(F.embedding_bag(pairs, table, mode='sum'), alpha=0.5)
        return F.embedding_bag(self.vertices, table, mode='sum', per_sample_weights=self.slice_weights)


class Keys:
    """Numbers that identify the vertices of a lattice: `size` of them for corners 0, then as many for corners 1, ...

    The lattice lies in the hyperplane of d + 1 coordinates that sum to 0. All coordinates of corner r of a simplex are
    r modulo d + 1. The quotients of the first d, less `low`, are the digits of its key, with the place values `units`.
    """

    def __init__(self, extent: Sequence[float]):
        dims = len(extent)
        blur = c_float((dims + 1) * math.sqrt(2 / 3)).value             # rounded as in pydensecrf
        self.scales = [blur / math.sqrt(j * (j + 1)) for j in range(1, dims + 1)]
        reach = [0, *(scale * length / (dims + 1) for scale, length in zip(self.scales, extent))]
        # Three more at both ends: for rounding, for the other corners and for neighbours.
        self.low = [-math.ceil(j * reach[j]) - 3 for j in range(dims)]
        counts = [math.ceil(sum(reach[j + 1:])) + 4 - self.low[j] for j in range(dims)]
        self.units = [math.prod(counts[:j]) for j in range(dims)] + [0]
        self.size = math.prod(counts)
        if max(extent) > 1e4 or self.size * (dims + 1) >= 2 ** 63:
            raise ValueError(f'the dense CRF cannot span {max(extent):.0f} times its width; use larger widths or a '
                             'smaller image')
        self.dtype = torch.int32 if self.size * (dims + 1) < 2 ** 31 else torch.int64


def corners(features: torch.Tensor, keys: Keys) -> tuple[torch.Tensor, torch.Tensor]:
    """Corners of the simplex around each point: their keys, less r times keys.size, and weights; both [d + 1, N]."""
    dims, count = features.shape
    # Embed in the hyperplane.
    point, total = features.new_empty(dims + 1, count), features.new_zeros(count)
    for j in range(dims, 0, -1):
        scaled = features[j - 1] * keys.scales[j - 1]
        torch.sub(total, j * scaled, out=point[j])
        total += scaled
    point[0] = total

    # The nearest corner 0, and the rank of each coordinate's difference from it, the largest first.
    corner = (point * (1 / (dims + 1))).round_()
    point.sub_(corner, alpha=dims + 1)
    rank = corner.sum(0).to(torch.int8) + torch.arange(dims + 1, dtype=torch.int8, device=features.device)[:, None]
    for i in range(dims + 1):
        for j in range(i + 1, dims + 1):
            less = (point[i] < point[j]).view(torch.int8)
            rank[i] += less
            rank[j] -= less
    wrapped = (rank < 0).to(torch.int8) - (rank > dims).to(torch.int8)
    rank = (rank + wrapped * (dims + 1)).long()
    corner += wrapped
    point.sub_(wrapped, alpha=dims + 1).mul_(1 / (dims + 1))

    # Barycentric weights, and keys: from corner to corner the quotient of the next smaller rank falls by one.
    ranked, steps = torch.empty_like(point).scatter_(0, rank, point), torch.empty_like(rank, dtype=keys.dtype)
    weights = torch.cat([1 - ranked[:1] + ranked[-1:], (ranked[:-1] - ranked[1:]).flip(0)])
    found = torch.zeros_like(steps)
    for j, unit in enumerate(keys.units):
        steps.scatter_(0, rank[j:j + 1], unit)
        if unit:
            found[0].add_(corner[j].sub_(keys.low[j]).to(keys.dtype), alpha=unit)
    for r in range(1, dims + 1):
        torch.sub(found[r - 1], steps[dims + 1 - r], out=found[r])
    return found, weights


def neighbours(vertices: torch.Tensor, keys: Keys) -> list[torch.Tensor]:
    """Both neighbours of each of M vertices (ascending keys) along each of the d + 1 axes: int32 [M + 1, 2], M where
    there is none. One differs by d in the axis' own coordinate and by -1 in all others, the other by the opposite.
    """
    count, dims, result = len(vertices), len(keys.low), []
    lowered = torch.where(vertices < keys.size, vertices + (dims * keys.size - sum(keys.units)), vertices - keys.size)
    wanted = torch.stack([lowered + unit for unit in keys.units])
    # Sorted among the vertices, each follows the largest vertex that is not larger. Faster than a binary search.
    order = torch.cat([vertices, wanted.flatten()]).sort(stable=True)[1]
    largest = torch.empty_like(order).scatter_(0, order, (order < count).cumsum(0) - 1)[count:].view(wanted.shape)
    numbers = torch.arange(count, dtype=torch.int32, device=vertices.device)
    for near, key in zip(largest.clamp_(min=0), wanted):
        near = F.pad(torch.where(vertices[near] == key, near, count), (0, 1), value=count).int()
        opposite = torch.full_like(near, count).scatter_(0, near[:-1].long(), numbers)
        opposite[count:].fill_(count)   # where those without a neighbour have written
        result.append(torch.stack([near, opposite], dim=1))
    return result
