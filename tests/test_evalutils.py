"""Scores against slow loops, one evaluation pass per threshold, and both protocols at their edges."""
import json
import math

import numpy as np
import pytest

from tool.camutils import cam_label
from tool.evalutils import (
    THRESHOLDS,
    Curve,
    MaskCounts,
    Scores,
    boundary,
    boundary_matches,
    contour_matches,
    f_score,
    iou,
    mask_counts,
    thresholds_below,
)

C = 5


def label_map(rng, size=(13, 17), labels=(0, 1, 3, 255)):
    """Blocky random labels, so that there are regions and boundaries."""
    coarse = rng.choice(np.array(labels, np.uint8), (-(-size[0] // 4), -(-size[1] // 4)))
    return np.kron(coarse, np.ones((4, 4), np.uint8))[:size[0], :size[1]]


def slow_boundary(mask):
    height, width = mask.shape
    edge = np.zeros((height, width), bool)
    for y, x in np.ndindex(height, width):
        near = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
        edge[y, x] = any(mask[y, x] != mask[v, u] for v, u in near if v < height and u < width)
    return edge


def slow_matches(truth, pred, radius):
    """Count by distances between all boundary pixels."""
    edges = [np.argwhere(slow_boundary(mask)) for mask in (pred, truth)]
    result = []
    for one, other in (edges, edges[::-1]):
        hits = [any(((a - b) ** 2).sum() <= radius ** 2 for b in other) for a in one]
        result += [sum(hits), len(hits)]
    return result


def test_mask_counts_and_iou_equal_slow_loop():
    rng = np.random.default_rng(0)
    truth, pred = label_map(rng), label_map(rng, labels=(0, 1, 2, 3))
    counts = mask_counts(truth, pred, C)
    pixels = [(t, p) for t, p in zip(truth.ravel(), pred.ravel()) if t != 255]
    for c in range(C):
        expected = [sum(t == p == c for t, p in pixels), sum(t == c for t, _ in pixels), sum(p == c for _, p in pixels)]
        assert [part[c] for part in counts] == expected
        assert iou(counts)[c] == expected[0] / (expected[1] + expected[2] - expected[0] + 1e-10)


def test_absent_classes_count_zero_or_are_left_out():
    counts = MaskCounts(np.array([4, 0, 0]), np.array([4, 0, 2]), np.array([4, 1, 0]))
    np.testing.assert_allclose(iou(counts), [1, 0, 0])
    np.testing.assert_array_equal(np.isnan(iou(counts, 'strict')), [False, True, False])


def test_wrong_sizes_and_labels_are_named():
    truth = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match='4x6, ground truth 4x5'):
        mask_counts(truth, np.zeros((4, 6), np.uint8), C)
    with pytest.raises(ValueError, match='prediction holds label 9'):
        mask_counts(truth, np.full((4, 5), 9, np.uint8), C)
    with pytest.raises(ValueError, match='ground truth holds label 9'):
        mask_counts(np.full((4, 5), 9, np.uint8), truth, C)
    with pytest.raises(ValueError, match='strict'):
        Scores(C, 'stern')


@pytest.mark.parametrize('size', [(9, 12), (1, 8), (7, 1), (1, 1)])
def test_boundary_equals_slow_loop(size):
    mask = np.random.default_rng(1).random(size) < 0.5
    np.testing.assert_array_equal(boundary(mask), slow_boundary(mask))


@pytest.mark.parametrize('radius', [1, 2, 5])
def test_boundary_matches_equal_all_distances(radius):
    rng = np.random.default_rng(radius)
    truth, pred = label_map(rng, (30, 26)) == 1, label_map(rng, (30, 26)) == 1
    assert boundary_matches(truth, pred, radius).tolist() == slow_matches(truth, pred, radius)


@pytest.mark.parametrize('protocol', ['reference', 'strict'])
@pytest.mark.parametrize('size', [(33, 40), (1, 30), (260, 9)])
def test_contour_matches_of_present_classes_equal_those_of_all(size, protocol):
    rng = np.random.default_rng(2)
    truth, pred = label_map(rng, size, (0, 0, 0, 1, 3, 255)), label_map(rng, size, (0, 0, 0, 1, 2, 3))
    found = contour_matches(truth, pred, C, protocol)
    filled = np.where(truth == 255, pred if protocol == 'strict' else 0, truth)
    radius = math.ceil(0.008 * math.hypot(*size))
    for c in range(1, C):
        assert found[c - 1].tolist() == boundary_matches(filled == c, pred == c, radius).tolist()


def test_f_score_of_empty_contours_follows_the_convention():
    # drawn and right; nothing drawn; nothing to draw; neither; drawn and wrong
    matches = np.array([[4, 8, 6, 6], [0, 0, 0, 5], [0, 3, 0, 0], [0, 0, 0, 0], [0, 2, 0, 2]])
    f, precision, recall = f_score(matches)
    np.testing.assert_allclose(precision, [0.5, 1, 0, 1, 0])
    np.testing.assert_allclose(recall, [1, 0, 1, 1, 0])
    np.testing.assert_allclose(f, [2 / 3, 0, 0, 1, 0])


def test_perfect_prediction_scores_100():
    truth = label_map(np.random.default_rng(3), (40, 40), (0, 1, 2, 3, 4))
    scores = Scores(C)
    scores.add(truth, truth)
    summary = scores.summary()
    assert summary['miou'] == pytest.approx(100) and summary['contour_f'] == pytest.approx(100)
    json.dumps(summary)


def test_merged_shares_equal_one_pass():
    rng = np.random.default_rng(4)
    pairs = [(label_map(rng), label_map(rng, labels=(0, 1, 2, 3))) for _ in range(6)]
    whole, one, two = Scores(C), Scores(C), Scores(C)
    for i, pair in enumerate(pairs):
        whole.add(*pair)
        (one if i % 3 else two).add(*pair)
    one.merge(two)
    assert one.summary() == whole.summary() and whole.images == 6


def test_strict_void_neither_costs_nor_hides():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 255
    truth[13:27, 13:27] = 1
    tight, wide = np.zeros_like(truth), np.zeros_like(truth)
    tight[13:27, 13:27] = 1
    wide[10:30, 10:30] = 1
    for pred in (tight, wide):
        scores = Scores(C, 'strict')
        scores.add(truth, pred)
        summary = scores.summary()
        assert summary['miou'] == pytest.approx(100) and summary['contour_f'] == pytest.approx(100)
        assert summary['f'] == [pytest.approx(100), None, None, None] and summary['iou'][2] is None
    reference = Scores(C)
    reference.add(truth, wide)
    assert reference.summary()['f'][0] < 50 and reference.summary()['f'][1] == 100


@pytest.mark.parametrize('protocol', ['reference', 'strict'])
def test_all_void_or_no_image_gives_a_summary(protocol):
    empty, void = Scores(C, protocol), Scores(C, protocol)
    void.add(np.full((6, 6), 255, np.uint8), np.ones((6, 6), np.uint8))
    expected = {'reference': 0, 'strict': None}[protocol]
    assert empty.summary()['miou'] == void.summary()['miou'] == expected
    assert Curve(C, protocol).summary()['best_miou'] == expected


def cam_images(rng, count=5):
    """Truth, keys and CAMs with ties among classes and with the thresholds themselves; the first has no class."""
    for i in range(count):
        keys = np.sort(rng.choice(C - 1, min(i, 3), replace=False))
        cam = (rng.integers(0, 101, (len(keys), 13, 17)) / 100).astype(np.float32)
        yield label_map(rng), keys, cam


@pytest.mark.parametrize('protocol', ['reference', 'strict'])
def test_curve_equals_one_pass_per_threshold(protocol):
    images = list(cam_images(np.random.default_rng(5)))
    curve = Curve(C, protocol)
    for image in images:
        curve.add(*image)
    for t, found in enumerate(curve.iou()):
        scores = Scores(C, protocol)
        for truth, keys, cam in images:
            scores.add(truth, cam_label(keys, cam, t / 100))
        np.testing.assert_array_equal(found, iou(MaskCounts(*scores.sums['counts']), protocol))
        assert curve.summary()['miou'][t] == pytest.approx(scores.summary()['miou'], abs=1e-10)
    summary = curve.summary()
    assert summary['best_miou'] == max(summary['miou'])
    assert summary['miou'][round(summary['best_threshold'] * 100)] == summary['best_miou']
    assert summary['published_miou'] == max(summary['miou'][:60]) and len(summary['miou']) == 96
    assert summary['miou'][round(summary['published_threshold'] * 100)] == summary['published_miou']
    json.dumps(summary)


def test_the_published_best_is_among_the_published_thresholds_alone():
    truth = np.full((8, 8), 0, np.uint8)
    truth[2:6, 2:6] = 1
    curve = Curve(2)
    curve.add(truth, np.array([0]), np.where(truth == 1, 0.9, 0.7).astype(np.float32)[None])
    summary = curve.summary()
    assert summary['best_threshold'] == 0.7 and summary['best_miou'] == pytest.approx(100)
    assert summary['published_threshold'] == 0 and summary['published_miou'] == pytest.approx(12.5)


def test_classes_absent_from_the_ground_truth_are_known():
    scores = Scores(C)
    scores.add(np.full((4, 4), 3, np.uint8), np.full((4, 4), 1, np.uint8))
    assert scores.absent().tolist() == [0, 1, 2, 4]


def test_merged_curves_equal_one_pass():
    images = list(cam_images(np.random.default_rng(6)))
    whole, one, two = Curve(C), Curve(C), Curve(C)
    for i, image in enumerate(images):
        whole.add(*image)
        (one if i % 2 else two).add(*image)
    one.merge(two)
    assert one.summary() == whole.summary()


def test_thresholds_are_counted_to_the_last_bit():
    at = THRESHOLDS.astype(np.float32)
    values = np.concatenate([at, np.nextafter(at, np.float32(-9)), np.nextafter(at, np.float32(9)),
                             np.float32([-np.inf, -1, 0, 0.955, 0.96, 1]),
                             np.random.default_rng(0).random(10_000, np.float32)])
    np.testing.assert_array_equal(thresholds_below(values), np.searchsorted(at, values))
