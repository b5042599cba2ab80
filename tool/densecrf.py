"""Dense CRF in plain PyTorch, on a CPU or a GPU, with the numbers of pydensecrf. This file needs nothing but torch.

Every pixel is connected with every other one by two Gaussian kernels: one of the distance, one of distance and colour.
Mean-field inference filters the class probabilities with both, again and again. A filter over all pairs of pixels is
cheap on a permutohedral lattice: pixels are points in feature space [position / width, colour / width], which simplices
tile; the values of the pixels go to the corners of their simplices (splat), the corners mix with their neighbours
(blur), and the pixels read them back (slice).

    from tool.densecrf import SEED_CRF, dense_crf
    refined = dense_crf(image, probs, SEED_CRF)         # uint8 [H, W, 3], float [L, H, W] -> float32 [L, H, W]

Sources: Krähenbühl & Koltun, NIPS 2011 (the CRF); Adams, Baek & Davis, Eurographics 2010 (the lattice).
"""
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn import functional as F

SMALLEST = 1e-5         # probabilities below count as this


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

    On one device the result is the same each time. On a GPU the host waits once for each lattice, for its size.

    Args:
        image: RGB uint8 [H, W, 3].
        probs: scores [L, H, W] or, of several score maps of the same image, [S, L, H, W]; in [0, 1], finite, on the
            image's device. They need not sum to 1; the logarithm is of at least 1e-5.
        settings: SEED_CRF, FINAL_CRF or others.

    Returns:
        Probabilities float32 that sum to 1 over L, shaped as probs.

    Raises:
        ValueError: if shapes or types disagree, or the image has too many times the widths.
    """
    labels, height, width = probs.shape[-3:]
    if image.shape != (height, width, 3) or image.dtype != torch.uint8:
        raise ValueError(f'CRF on scores of {height}x{width} needs a uint8 image [{height}, {width}, 3], found '
                         f'{str(image.dtype).removeprefix("torch.")} {list(image.shape)}; resize the scores to the image')
    smooth = spatial_lattice(height, width, settings.smooth_xy, image.device)
    position = pixel_positions(height, width, image.device) / settings.colour_xy
    colour = Lattice(torch.cat([position, image.reshape(-1, 3).T / settings.colour_rgb]),
                     (width / settings.colour_xy, height / settings.colour_xy, *3 * [255 / settings.colour_rgb]))

    # All channels of all score maps share the lattices.
    unary = probs.reshape(-1, labels, height * width).float().clamp(SMALLEST, 1).log()
    found = unary.softmax(1)
    for _ in range(settings.iterations):
        flat = found.flatten(0, 1)
        message = smooth(flat).mul_(settings.smooth_compat).add_(colour(flat), alpha=settings.colour_compat)
        found = message.view_as(unary).add_(unary).softmax(1)
    return found.reshape(probs.shape)


def pixel_positions(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Column and row of each pixel, float32 [2, H W]."""
    rows = torch.arange(height, dtype=torch.float32, device=device).repeat_interleave(width)
    return torch.stack([torch.arange(width, dtype=torch.float32, device=device).repeat(height), rows])


@lru_cache(maxsize=4)
def spatial_lattice(height: int, width: int, xy: float, device: torch.device) -> 'Lattice':
    """The lattice of positions alone, which all images of one size share."""
    return Lattice(pixel_positions(height, width, device) / xy, (width / xy, height / xy))


class Lattice:
    """Gaussian filter between N points: values v -> n K (n v), K all pairs' Gaussians, n = 1 / sqrt(K 1).

    Args:
        features: float32 [d, N], in units of the Gaussian's standard deviation.
        extent: largest value of each feature; the smallest is 0.

    Raises:
        ValueError: if the extent is too large for the lattice.
    """

    def __init__(self, features: torch.Tensor, extent: Sequence[float]):
        (dims, count), device = features.shape, features.device
        grid = Grid(extent)
        keys, weights = corners(features, grid)

        # Number the vertices, and list the points at each. Corner r of a point can only meet corner r of others.
        ordered, points = zip(*(row.sort(stable=True) for row in keys))
        points = torch.stack(points)
        keys = torch.cat([row + r * grid.size for r, row in enumerate(ordered)])
        is_first = keys != F.pad(keys[:-1], (1, 0), value=-1)
        first = is_first.nonzero()[:, 0]
        number = is_first.cumsum(0, dtype=torch.int32).sub_(1).view(points.shape)
        self.vertices = torch.empty_like(number).scatter_(1, points, number).T.flatten()
        self.vertex_starts = torch.arange(0, keys.numel() + 1, dims + 1, dtype=torch.int32, device=device)
        # The last vertex has no points: it stands for those that do not exist.
        self.points = points.flatten().int()
        self.point_starts = F.pad(first.int(), (0, 2), value=keys.numel())
        self.neighbours = neighbours(keys[first], grid)

        self.splat_weights = weights.gather(1, points).flatten()
        self.slice_weights = weights.T.flatten() / (1 + 2 ** -dims)
        self.scale = features.new_ones(count)
        self.scale = self(self.scale[None])[0].add_(1e-20).rsqrt_()

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Filter values, float32 [C, N]."""
        rows = torch.mul(values.T, self.scale[:, None], out=values.new_empty(values.T.shape))       # one for each point
        table = weighted_sums(self.points, rows, self.point_starts, self.splat_weights)
        for pairs in self.neighbours:
            table.add_(F.embedding_bag(pairs, table, mode='sum'), alpha=0.5)
        rows = weighted_sums(self.vertices, table, self.vertex_starts, self.slice_weights)
        columns = rows.T if len(values) < 16 else rows.T.contiguous()       # which is faster, on a CPU
        return torch.mul(columns, self.scale, out=torch.empty_like(values))


def weighted_sums(indices: torch.Tensor, table: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor
                  ) -> torch.Tensor:
    """Product of a sparse matrix, by rows (CSR), and a table [any, C]."""
    return F.embedding_bag(indices, table, starts, mode='sum', per_sample_weights=weights, include_last_offset=True)


class Grid:
    """How the vertices of a lattice are numbered: the keys of corners 0, 1, ..., d take `size` numbers each.

    The lattice lies in the hyperplane of d + 1 coordinates that sum to 0. All coordinates of a corner r are r modulo
    d + 1; the quotients of the first d make its key.
    """

    def __init__(self, extent: Sequence[float]):
        self.dims = len(extent)
        self.scales = [(self.dims + 1) * (2 / 3 / j / (j + 1)) ** 0.5 for j in range(1, self.dims + 1)]
        reach = [0, *(scale * length / (self.dims + 1) for scale, length in zip(self.scales, extent, strict=True))]
        self.low = [-math.ceil(j * reach[j]) - 3 for j in range(self.dims)]
        sizes = [math.ceil(sum(reach[j + 1:])) + 4 - self.low[j] for j in range(self.dims)]
        self.units = [math.prod(sizes[:j]) for j in range(self.dims)] + [0]
        self.size = math.prod(sizes)
        if self.size * (self.dims + 1) >= 2 ** 62:
            raise ValueError(f'the image has {max(extent):.0f} times a width of the CRF, which is too much; use larger '
                             'widths or a smaller image')
        self.dtype = torch.int32 if self.size * (self.dims + 1) < 2 ** 31 else torch.int64


def corners(features: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys (less r times grid.size) and weights float32, [d + 1, N] each, of the corners of each point's simplex."""
    dims, count = features.shape
    # Embed in the hyperplane.
    point, total = features.new_empty(dims + 1, count), features.new_zeros(count)
    for j in range(dims, 0, -1):
        scaled = features[j - 1] * grid.scales[j - 1]
        torch.sub(total, scaled, alpha=j, out=point[j])
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
    rank += wrapped * (dims + 1)
    corner += wrapped
    point.sub_(wrapped, alpha=dims + 1).mul_(1 / (dims + 1))

    # Barycentric weights, and keys: from corner to corner the quotient of the next lower rank falls by one.
    rank = rank.long()
    descending = torch.empty_like(point).scatter_(0, rank, point)
    weights = torch.cat([1 - descending[:1] + descending[-1:], (descending[:-1] - descending[1:]).flip(0)])
    units = torch.tensor(grid.units, dtype=grid.dtype, device=features.device)[:, None].expand(point.shape)
    steps = torch.empty_like(units).scatter_(0, rank, units)
    keys = torch.empty_like(steps)
    keys[0] = -sum(low * unit for low, unit in zip(grid.low, grid.units))
    for j in range(dims):
        keys[0].add_(corner[j].to(grid.dtype), alpha=grid.units[j])
    for r in range(dims):
        torch.sub(keys[r], steps[dims - r], out=keys[r + 1])
    return keys, weights


def neighbours(keys: torch.Tensor, grid: Grid) -> list[torch.Tensor]:
    """Both neighbours [M + 1, 2] of each vertex along each of the d + 1 axes; M where there is none.

    One of them differs by d in the axis' own coordinate and by -1 in all others.
    """
    count = len(keys)
    own = torch.arange(count, dtype=torch.int32, device=keys.device)
    shifted = keys + torch.where(keys < grid.size, grid.dims * grid.size - sum(grid.units), -grid.size)
    result = []
    for unit in grid.units:
        wanted = shifted + unit
        before = torch.searchsorted(keys, wanted, out_int32=True).clamp_(max=count - 1)
        before = torch.where(keys[before] == wanted, before, count)
        after = own.new_full((count + 1,), count).scatter_(0, before.long(), own)
        after[count] = count
        result.append(torch.stack([F.pad(before, (0, 1), value=count), after], dim=1))
    return result
