"""Scores of label maps: IoU, IoU over background thresholds, and the contour measure.

Each accumulator takes one image at a time and holds sums only, so memory does not depend on the number of images and
several processes can each score a share and merge. Two protocols:

reference   as the published numbers were made: void counts as background for contours, and a class that the truth
            never shows stays in the mean (with IoU 0, and with F 1 or 0).
strict      void is ignored everywhere: before contours are drawn it takes the prediction's label, so a contour that
            runs anywhere inside the void rim of an object is right. Classes absent from the truth are left out of
            both means.
"""
import math
from typing import NamedTuple, Self

import cv2
import numpy as np

from tool.camutils import labels_of, strongest_class

VOID = 255
PROTOCOLS = ('reference', 'strict')
THRESHOLDS = np.arange(60) / 100
TOLERANCE = 0.008   # of the image's diagonal


class MaskCounts(NamedTuple):
    """Pixels per class, int64 [C] each: right ones, of the truth, of the prediction; void not counted."""
    hit: np.ndarray
    truth: np.ndarray
    pred: np.ndarray


def check_protocol(protocol: str) -> None:
    """Raise ValueError unless the protocol is one of PROTOCOLS."""
    if protocol not in PROTOCOLS:
        raise ValueError(f'protocol {protocol!r} is unknown; use one of {", ".join(PROTOCOLS)}')


def check_masks(truth: np.ndarray, pred_size: tuple[int, int], num_classes: int) -> None:
    """Raise ValueError unless truth [H, W] has the prediction's size and holds classes and void only."""
    if truth.shape != pred_size:
        raise ValueError(f'prediction is {pred_size[0]}x{pred_size[1]}, truth {truth.shape[0]}x{truth.shape[1]}; '
                         'predict at the size of the image')
    _check_labels(np.bincount(truth.ravel(), minlength=VOID + 1), num_classes, 'truth')


def _check_labels(histogram, num_classes, what):
    stray = np.flatnonzero(histogram[num_classes:VOID])
    if len(stray):
        raise ValueError(f'{what} holds label {stray[0] + num_classes}, expected 0 to {num_classes - 1} or {VOID}; '
                         'is it of another data set?')


def mask_counts(truth: np.ndarray, pred: np.ndarray, num_classes: int) -> MaskCounts:
    """Count the pixels of each class in one image.

    Args:
        truth: uint8 [H, W], 0..C-1, 255 void.
        pred: uint8 [H, W], 0..C-1; a predicted 255 is no class and so always wrong.

    Raises:
        ValueError: if the sizes differ or a label is no class.
    """
    check_masks(truth, pred.shape, num_classes)
    seen = pred[truth != VOID]
    found = np.bincount(seen, minlength=VOID + 1)
    _check_labels(found, num_classes, 'prediction')
    expected = np.bincount(truth.ravel(), minlength=VOID + 1)
    hit = np.bincount(truth[truth == pred], minlength=VOID + 1)
    return MaskCounts(hit[:num_classes], expected[:num_classes], found[:num_classes])


def iou(counts: MaskCounts, protocol: str = 'reference') -> np.ndarray:
    """Intersection over union of each class from pixel sums.

    Args:
        counts: int arrays [..., C].

    Returns:
        float64 [..., C] in [0, 1]; under 'strict' NaN where the truth never shows the class; known_mean gives mIoU.
    """
    hit, truth, pred = counts
    value = hit / (truth + pred - hit + 1e-10)
    return np.where(truth > 0, value, np.nan) if protocol == 'strict' else value


def boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary of a bool mask [H, W]: pixels that differ from the right, lower or lower-right neighbour.

    The last row and column are compared one way only, so the last pixel never is one.

    Source: Perazzi et al., CVPR 2016 (DAVIS).
    """
    edge = np.zeros_like(mask)
    right, down = edge[:, :-1], edge[:-1]
    np.not_equal(mask[:, :-1], mask[:, 1:], out=right)
    down |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def disk(radius: int) -> np.ndarray:
    """Disk-shaped structuring element, uint8 [2 radius + 1, 2 radius + 1]."""
    y, x = np.ogrid[-radius:radius + 1, -radius:radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def boundary_matches(truth: np.ndarray, pred: np.ndarray, radius: int) -> np.ndarray:
    """Boundary pixels of two bool masks [H, W] that lie within radius of the other's boundary.

    Returns:
        int64 [4]: matched of the prediction, all of the prediction, matched of the truth, all of the truth.
    """
    edges = [boundary(mask).view(np.uint8) for mask in (pred, truth)]
    near = [cv2.dilate(edge, disk(radius)) for edge in reversed(edges)]
    return np.array([cv2.countNonZero(plane) for edge, other in zip(edges, near) for plane in (edge & other, edge)])


def _window(mask):
    """Slices of the bounding box of a bool mask, one pixel wider: all its boundary lies inside."""
    spans = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    return tuple(slice(max(span[0] - 1, 0), span[-1] + 2) for span in spans)


def contour_matches(truth: np.ndarray, pred: np.ndarray, num_classes: int, protocol: str = 'reference') -> np.ndarray:
    """boundary_matches of each foreground class in one image; a class in neither map costs nothing and counts 0.

    Args:
        truth: uint8 [H, W], 0..C-1, 255 void.
        pred: uint8 [H, W].

    Returns:
        int64 [C - 1, 4].
    """
    radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    filled = np.where(truth == VOID, pred if protocol == 'strict' else np.uint8(0), truth)
    result = np.zeros((num_classes - 1, 4), np.int64)
    present = np.bincount(filled.ravel(), minlength=VOID + 1) + np.bincount(pred.ravel(), minlength=VOID + 1)
    for label in np.flatnonzero(present[1:num_classes]) + 1:
        masks = filled == label, pred == label
        window = _window(masks[0] | masks[1])
        result[label - 1] = boundary_matches(masks[0][window], masks[1][window], radius)
    return result


def f_score(matches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contour F, precision and recall, each float64 [K] in [0, 1], from summed matches [K, 4] of boundary_matches."""
    hit_pred, pred, hit_truth, truth = matches.T
    # Where the truth has no boundary nothing was matched either, so precision is 0 by itself if something is drawn.
    precision = np.where(pred > 0, hit_pred / np.maximum(pred, 1), 1.0)
    recall = np.where(truth > 0, hit_truth / np.maximum(truth, 1), 1.0)
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1), precision, recall


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def percents(values: np.ndarray) -> list[float | None]:
    """A list of percentages that JSON can hold: None for NaN."""
    return [None if np.isnan(value) else 100 * float(value) for value in np.atleast_1d(values)]


class Scores:
    """Sums over images behind mIoU and contour F of label maps."""

    def __init__(self, num_classes: int, protocol: str = 'reference', contour: bool = True):
        check_protocol(protocol)
        self.num_classes, self.protocol, self.contour = num_classes, protocol, contour
        self.images = 0
        self.counts = np.zeros((3, num_classes), np.int64)
        self.matches = np.zeros((num_classes - 1, 4), np.int64)

    def add(self, truth: np.ndarray, pred: np.ndarray) -> None:
        """Add one image: truth and prediction uint8 [H, W]."""
        self.counts += np.stack(mask_counts(truth, pred, self.num_classes))
        if self.contour:
            self.matches += contour_matches(truth, pred, self.num_classes, self.protocol)
        self.images += 1

    def merge(self, other: Self) -> None:
        """Add the images of another accumulator of the same kind."""
        self.images += other.images
        self.counts += other.counts
        self.matches += other.matches

    def summary(self) -> dict:
        """Means and lists per class in percent, plain Python for JSON; None for a class left out of the mean.

        'iou' lists all C classes, 'f', 'precision' and 'recall' the C - 1 foreground classes.
        """
        classes = iou(MaskCounts(*self.counts), self.protocol)
        result = {'protocol': self.protocol, 'images': self.images,
                  'miou': percents(known_mean(classes))[0], 'iou': percents(classes)}
        if self.contour:
            shown = (self.counts[1, 1:] > 0) | (self.protocol == 'reference')
            f, precision, recall = (np.where(shown, value, np.nan) for value in f_score(self.matches))
            result |= {'contour_f': percents(known_mean(f))[0], 'f': percents(f),
                       'precision': percents(precision), 'recall': percents(recall)}
        return result


def thresholds_below(value: np.ndarray) -> np.ndarray:
    """How many of THRESHOLDS are smaller than each value: float32 of any size to uint8. Compared in float32, as the
    reference's argmax does."""
    thresholds = THRESHOLDS.astype(np.float32)
    # The thresholds are evenly spaced, so a product says which one is nearest from below, or just above by rounding.
    nearest = np.clip(value / np.float32(THRESHOLDS[1]) + np.float32(1e-3), 0, len(THRESHOLDS) - 1).astype(np.uint8)
    return nearest + (thresholds[nearest] < value)


class Curve:
    """Sums over images behind the mIoU of CAMs at every background threshold, from one pass over the data.

    A pixel is foreground at exactly those thresholds that lie below its strongest CAM. So one histogram over the number
    of such thresholds, per class, holds the counts at all of them: they are its sums from one end.
    """

    def __init__(self, num_classes: int, protocol: str = 'reference'):
        check_protocol(protocol)
        self.num_classes, self.protocol, self.images = num_classes, protocol, 0
        self.bins = len(THRESHOLDS) + 1
        # Right pixels and predicted pixels by class and bin; row 0: pixels of true background, and all pixels.
        self.hit = np.zeros((num_classes, self.bins), np.int64)
        self.pred = np.zeros((num_classes, self.bins), np.int64)
        self.truth = np.zeros(num_classes, np.int64)

    def add(self, truth: np.ndarray, keys: np.ndarray, cam: np.ndarray) -> None:
        """Add one image: truth uint8 [H, W], ascending class indices [k] from 0, CAMs [k, H, W] in [0, 1]."""
        check_masks(truth, cam.shape[1:], self.num_classes)
        index, value = strongest_class(cam)
        valid = truth != VOID
        truth, index = truth[valid], index[valid]
        level = thresholds_below(value[valid])
        self.truth += np.bincount(truth, minlength=self.num_classes)
        self.hit[0] += np.bincount(level[truth == 0], minlength=self.bins)
        self.pred[0] += np.bincount(level, minlength=self.bins)
        for i, label in enumerate(labels_of(keys)[1:]):
            mine = index == i
            self.pred[label] += np.bincount(level[mine], minlength=self.bins)
            self.hit[label] += np.bincount(level[mine & (truth == label)], minlength=self.bins)
        self.images += 1

    def merge(self, other: Self) -> None:
        """Add the images of another curve."""
        self.images += other.images
        self.hit += other.hit
        self.pred += other.pred
        self.truth += other.truth

    def iou(self) -> np.ndarray:
        """IoU at each threshold, float64 [thresholds, C] in [0, 1]; under 'strict' NaN for absent classes."""
        def sums(histogram):
            # Threshold number t is below the CAM in the bins above t; background keeps the bins up to t.
            above = histogram[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
            return np.concatenate([histogram[:1].cumsum(1)[:, :-1], above[1:]]).T
        return iou(MaskCounts(sums(self.hit), np.broadcast_to(self.truth, (self.bins - 1, self.num_classes)),
                              sums(self.pred)), self.protocol)

    def summary(self) -> dict:
        """The curve and its best point in percent, plain Python for JSON."""
        classes = self.iou()
        miou = known_mean(classes)
        best = int(np.nan_to_num(miou).argmax())
        return {'protocol': self.protocol, 'images': self.images, 'thresholds': THRESHOLDS.tolist(),
                'miou': percents(miou), 'best_threshold': float(THRESHOLDS[best]),
                'best_miou': percents(miou[best])[0], 'best_iou': percents(classes[best])}
