"""Scores of label maps: IoU, IoU over background thresholds, and the contour measure.

Scores and Curve process one image at a time and hold only sums, which can be merged over processes. Two protocols:

reference   like the published numbers: ignored pixels count as background for contours, and a class absent from the
            ground truth stays in the mean (with IoU 0, and with F 1 or 0).
strict      ignored pixels count nowhere: for contours they take the prediction's label, so a contour
            anywhere inside the ignored rim of an object is correct. Classes absent from the ground truth are left
            out of both means.
"""
import math
from typing import NamedTuple, Self

import cv2
import numpy as np

from tool.camutils import labels_of, strongest_class
from tool.imutils import IGNORED

PROTOCOLS = ('reference', 'strict')
THRESHOLDS = np.arange(96) / 100
PUBLISHED = 60          # of THRESHOLDS: those from which the published numbers take the best
TOLERANCE = 0.008   # of the image's diagonal


class MaskCounts(NamedTuple):
    """Pixels per class, int64 [C] each: correct, in the ground truth, in the prediction; without ignored pixels."""
    hit: np.ndarray
    truth: np.ndarray
    pred: np.ndarray


def mask_counts(truth: np.ndarray, pred: np.ndarray, num_classes: int) -> MaskCounts:
    """Count the pixels of each class in one image; ValueError if the sizes differ or a label is not a class.

    Takes a ground truth and a prediction uint8 [H, W], 0..C-1; 255 is ignored in the ground truth, wrong if predicted.
    """
    expected = check_truth(truth, pred.shape, num_classes)
    predicted = _histogram(pred[truth != IGNORED], num_classes, 'prediction')
    hit = np.bincount(truth[truth == pred], minlength=IGNORED + 1)
    return MaskCounts(hit[:num_classes], expected, predicted)


def check_truth(truth: np.ndarray, size: tuple[int, int], num_classes: int) -> np.ndarray:
    """Pixels per class int64 [C] of a ground truth; ValueError unless it has this size and only these classes."""
    if truth.shape != size:
        raise ValueError(f'prediction is {size[0]}x{size[1]}, ground truth {truth.shape[0]}x{truth.shape[1]}; '
                         'predict at the size of the image')
    return _histogram(truth, num_classes, 'ground truth')


def _histogram(labels, num_classes, what):
    counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)
    stray = np.flatnonzero(counts[num_classes:IGNORED])
    if len(stray):
        raise ValueError(f'{what} holds label {stray[0] + num_classes}, expected 0 to {num_classes - 1} or {IGNORED}; '
                         'does it belong to another data set?')
    return counts[:num_classes]


def iou(counts: MaskCounts, protocol: str = 'reference') -> np.ndarray:
    """IoU float64 [..., C] in [0, 1] of summed counts [..., C]; NaN for absent classes under 'strict'."""
    hit, truth, pred = counts
    value = hit / (truth + pred - hit + 1e-10)
    return np.where(truth > 0, value, np.nan) if protocol == 'strict' else value


def boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary of a bool mask [H, W]: pixels that differ from an existing right, lower or lower-right neighbour.

    Source: Perazzi et al., CVPR 2016 (DAVIS).
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def boundary_matches(truth: np.ndarray, pred: np.ndarray, radius: int) -> np.ndarray:
    """int64 [4] for two bool masks [H, W]: predicted boundary pixels within radius of the true boundary, all predicted
    boundary pixels, and the same two for the ground truth.
    """
    y, x = np.ogrid[-radius:radius + 1, -radius:radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    edges = [boundary(mask).view(np.uint8) for mask in (pred, truth)]
    near = [cv2.dilate(edge, disk) for edge in reversed(edges)]
    return np.array([cv2.countNonZero(plane) for edge, other in zip(edges, near) for plane in (edge & other, edge)])


def contour_matches(truth: np.ndarray, pred: np.ndarray, num_classes: int, protocol: str = 'reference') -> np.ndarray:
    """boundary_matches int64 [C - 1, 4] of the foreground classes of two label maps [H, W]; 0 for one in neither."""
    radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    filled = np.where(truth == IGNORED, pred if protocol == 'strict' else np.uint8(0), truth)
    result = np.zeros((num_classes - 1, 4), np.int64)
    present = np.bincount(filled.ravel(), minlength=IGNORED + 1) + np.bincount(pred.ravel(), minlength=IGNORED + 1)
    for label in np.flatnonzero(present[1:num_classes]) + 1:
        masks = filled == label, pred == label
        # All boundaries are in the bounding box of the class, extended by one pixel.
        rows, columns = (np.flatnonzero((masks[0] | masks[1]).any(axis)) for axis in (1, 0))
        box = tuple(slice(max(span[0] - 1, 0), span[-1] + 2) for span in (rows, columns))
        result[label - 1] = boundary_matches(masks[0][box], masks[1][box], radius)
    return result


def f_score(matches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contour F, precision and recall, each float64 [K] in [0, 1], from summed matches [K, 4] of boundary_matches."""
    hit_pred, pred, hit_truth, truth = matches.T
    # Without a true boundary nothing was matched, so precision is already 0 if anything is predicted.
    precision = np.where(pred > 0, hit_pred / np.maximum(pred, 1), 1.0)
    recall = np.where(truth > 0, hit_truth / np.maximum(truth, 1), 1.0)
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1), precision, recall


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN if all values are NaN."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def percents(values: np.ndarray) -> list[float | None]:
    """Percentages for JSON: None for NaN."""
    return [None if np.isnan(value) else 100 * float(value) for value in np.atleast_1d(values)]


class Sums:
    """Base of Scores and Curve: named sums over images that can be merged."""

    def __init__(self, num_classes: int, protocol: str, **shapes: tuple[int, ...]):
        if protocol not in PROTOCOLS:
            raise ValueError(f'protocol {protocol!r} is unknown; use one of {", ".join(PROTOCOLS)}')
        self.num_classes, self.protocol, self.images = num_classes, protocol, 0
        self.sums = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}

    def merge(self, other: Self) -> None:
        """Add the sums of another instance."""
        self.images += other.images
        self.sums = {name: value + other.sums[name] for name, value in self.sums.items()}


class Scores(Sums):
    """Sums over images behind mIoU and contour F of label maps."""

    def __init__(self, num_classes: int, protocol: str = 'reference'):
        super().__init__(num_classes, protocol, counts=(3, num_classes), matches=(num_classes - 1, 4))

    def add(self, truth: np.ndarray, pred: np.ndarray) -> None:
        """Add one image: ground truth and prediction uint8 [H, W]."""
        self.sums['counts'] += np.stack(mask_counts(truth, pred, self.num_classes))
        self.sums['matches'] += contour_matches(truth, pred, self.num_classes, self.protocol)
        self.images += 1

    def absent(self) -> np.ndarray:
        """Classes without a pixel in the ground truth, int64."""
        return np.flatnonzero(self.sums['counts'][1] == 0)

    def summary(self) -> dict:
        """Means and per-class lists in percent, plain Python for JSON; None for a class left out of the mean.

        'iou' lists all C classes, 'f', 'precision' and 'recall' the C - 1 foreground classes.
        """
        counts = MaskCounts(*self.sums['counts'])
        classes = iou(counts, self.protocol)
        counted = (counts.truth[1:] > 0) | (self.protocol == 'reference')
        f, precision, recall = (np.where(counted, value, np.nan) for value in f_score(self.sums['matches']))
        return {'protocol': self.protocol, 'images': self.images,
                'miou': percents(known_mean(classes))[0], 'iou': percents(classes),
                'contour_f': percents(known_mean(f))[0], 'f': percents(f),
                'precision': percents(precision), 'recall': percents(recall)}


def thresholds_below(value: np.ndarray) -> np.ndarray:
    """How many THRESHOLDS are smaller than each value, uint8; compared in float32, as the reference's argmax does."""
    thresholds = THRESHOLDS.astype(np.float32)
    # The thresholds are evenly spaced, so a product gives the nearest one below, or just above by rounding.
    nearest = np.clip(value / np.float32(THRESHOLDS[1]) + np.float32(1e-3), 0, len(THRESHOLDS) - 1).astype(np.uint8)
    return nearest + (thresholds[nearest] < value)


class Curve(Sums):
    """Sums over images behind the mIoU of CAMs at every background threshold, from one pass over the data.

    A pixel is foreground at exactly the thresholds below its strongest CAM. So one histogram per class over the number
    of such thresholds yields the counts at all of them, as cumulative sums.
    """

    def __init__(self, num_classes: int, protocol: str = 'reference'):
        # Correct and predicted pixels by class and bin; row 0: true background pixels, and all pixels.
        shape = num_classes, len(THRESHOLDS) + 1
        super().__init__(num_classes, protocol, hit=shape, pred=shape, truth=(num_classes,))

    def add(self, truth: np.ndarray, keys: np.ndarray, cam: np.ndarray) -> None:
        """Add one image: ground truth uint8 [H, W], ascending class indices [k] from 0, CAMs [k, H, W] in [0, 1]."""
        self.sums['truth'] += check_truth(truth, cam.shape[1:], self.num_classes)
        (hit, pred), bins = (self.sums[name] for name in ('hit', 'pred')), len(THRESHOLDS) + 1
        index, value = strongest_class(cam)
        valid = truth != IGNORED
        truth, index, level = truth[valid], index[valid], thresholds_below(value[valid])
        hit[0] += np.bincount(level[truth == 0], minlength=bins)
        pred[0] += np.bincount(level, minlength=bins)
        for i, label in enumerate(labels_of(keys)[1:]):
            chosen = index == i
            pred[label] += np.bincount(level[chosen], minlength=bins)
            hit[label] += np.bincount(level[chosen & (truth == label)], minlength=bins)
        self.images += 1

    def iou(self) -> np.ndarray:
        """IoU at each threshold, float64 [thresholds, C] in [0, 1]; under 'strict' NaN for absent classes."""
        def at_thresholds(histogram):
            # Threshold number t is below the CAM in the bins above t; background keeps the bins up to t.
            above = histogram[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
            return np.concatenate([histogram[:1].cumsum(1)[:, :-1], above[1:]]).T
        hit, pred = (at_thresholds(self.sums[name]) for name in ('hit', 'pred'))
        return iou(MaskCounts(hit, np.broadcast_to(self.sums['truth'], hit.shape), pred), self.protocol)

    def summary(self) -> dict:
        """The curve, its best point, and the best of the published thresholds; in percent, plain Python for JSON."""
        miou = known_mean(self.iou())
        best, published = (int(np.nan_to_num(part).argmax()) for part in (miou, miou[:PUBLISHED]))
        return {'protocol': self.protocol, 'images': self.images, 'thresholds': THRESHOLDS.tolist(),
                'miou': percents(miou), 'best_threshold': float(THRESHOLDS[best]), 'best_miou': percents(miou[best])[0],
                'published_threshold': float(THRESHOLDS[published]), 'published_miou': percents(miou[published])[0]}
