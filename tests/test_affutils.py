"""Affinities, their labels, the loss and the walk against slow loops and the dense textbook form."""
import math

import numpy as np
import pytest
import torch

from tool.affutils import (
    Pairs,
    affinity_label,
    affinity_loss,
    affinity_matrix,
    fit_radius,
    mean_affinity,
    mean_pool,
    offsets,
    pair_affinity,
    pair_counts,
    pair_labels,
    pool_cams,
    random_walk,
    walk_label,
)

SIZES = [(11, 11), (12, 15), (9, 20), (5, 8), (3, 4), (1, 6), (2, 2)]


def slow_pairs(radius, size):
    """[offset][position] -> (source pixel, target pixel), from the definition."""
    radius = fit_radius(radius, size)
    margin = max(radius - 1, 0)
    sources = [(y, x) for y in range(size[0] - margin) for x in range(margin, size[1] - margin)]
    return [[((y, x), (y + dy, x + dx)) for y, x in sources] for dy, dx in offsets(radius)]


def textbook_walk(affinity, size, cam, beta, log_steps):
    """Dense N x N form: cam times the matrix, squared log_steps times. float64."""
    n = size[0] * size[1]
    matrix = np.eye(n)
    for row, pairs in zip(affinity, slow_pairs(5, size)):
        for value, (source, target) in zip(row, pairs):
            i, j = np.ravel_multi_index(source, size), np.ravel_multi_index(target, size)
            matrix[i, j] = matrix[j, i] = value
    matrix **= beta
    matrix /= matrix.sum(0)
    for _ in range(log_steps):
        matrix = matrix @ matrix
    return (cam.reshape(len(cam), n) @ matrix).reshape(cam.shape)


def test_radius_five_has_34_offsets_in_order():
    steps = offsets(5)
    assert len(steps) == 34
    assert steps[:5] == [(0, 1), (0, 2), (0, 3), (0, 4), (1, -4)]
    assert steps[-1] == (4, 2) and (3, 4) not in steps
    assert offsets(1) == offsets(0) == []


def test_radius_shrinks_with_the_map():
    assert [fit_radius(5, size) for size in SIZES] == [5, 5, 4, 2, 1, 0, 0]


@pytest.mark.parametrize('size', SIZES)
def test_affinities_equal_slow_loop(size):
    features = torch.randn(2, 3, *size)
    affinity = pair_affinity(features)
    pairs = slow_pairs(5, size)
    assert affinity.shape[:2] == (2, len(pairs))
    for n in range(2):
        for o, row in enumerate(pairs):
            for p, ((y, x), (v, u)) in enumerate(row):
                expected = math.exp(-(features[n, :, y, x] - features[n, :, v, u]).abs().mean())
                assert affinity[n, o, p].item() == pytest.approx(expected, abs=1e-6)


def test_affinity_gradient_is_exact():
    features = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: pair_affinity(f, 3), features)


def test_half_precision_features_give_float_affinities():
    features = torch.randn(1, 4, 11, 11)
    half = pair_affinity(features.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, pair_affinity(features.bfloat16().float()))


def test_mean_pool_pads_with_zeros():
    maps = np.random.default_rng(0).random((2, 11, 17)).astype(np.float32)
    pooled = mean_pool(maps)
    assert pooled.shape == (2, 2, 3)
    np.testing.assert_allclose(pooled[1, 0, 1], maps[1, :8, 8:16].mean(), rtol=1e-6)
    np.testing.assert_allclose(pooled[0, 1, 2], maps[0, 8:, 16:].sum() / 64, rtol=1e-6)


def test_affinity_label_equals_brute_force():
    rng = np.random.default_rng(1)
    low, high = rng.random((2, 3, 24, 32)).astype(np.float32)
    low[:, :, :10] = high[:, :, :10] = 0
    label = affinity_label(low, high)
    for (y, x), value in np.ndenumerate(label):
        a, b = ([part[y * 8:y * 8 + 8, x * 8:x * 8 + 8].mean() for part in seeds] for seeds in (low, high))
        expected = int(np.argmax(a)) or 255
        expected = 0 if np.argmax(b) == 0 else expected
        assert value == (255 if max(*a, *b) < 1e-5 else expected)
    assert (label[:, 0] == 255).all() and label.dtype == np.uint8


def test_image_without_a_class_is_sure_background():
    scores = np.ones((1, 16, 16), np.float32)
    assert (affinity_label(scores, scores) == 0).all()


@pytest.mark.parametrize('size', SIZES)
def test_pair_labels_equal_brute_force(size):
    label = torch.from_numpy(np.random.default_rng(2).choice(np.array([0, 1, 3, 255], np.uint8), (2, *size)))
    kinds = pair_labels(label)
    pairs = slow_pairs(5, size)
    assert kinds.neg.shape == pair_affinity(torch.zeros(2, 1, *size)).shape
    for n in range(2):
        for o, row in enumerate(pairs):
            for p, (source, target) in enumerate(row):
                a, b = label[n][source].item(), label[n][target].item()
                valid = 255 not in (a, b)
                expected = valid and a == b == 0, valid and a == b != 0, valid and a != b
                assert tuple(kind[n, o, p].item() for kind in kinds) == expected


def test_loss_equals_slow_loop():
    affinity = torch.rand(2, 4, 5).clamp(0.05, 0.95)
    kind = torch.randint(0, 4, affinity.shape)
    terms = affinity_loss(affinity, Pairs(kind == 0, kind == 1, kind == 2))
    for i, name in enumerate(('bg', 'fg', 'neg')):
        chosen = affinity[kind == i].tolist()
        costs = [-math.log(1 + 1e-5 - a if name == 'neg' else a + 1e-5) for a in chosen]
        assert terms[name].item() == pytest.approx(sum(costs) / (len(costs) + 1e-5), rel=1e-5)


def test_loss_of_an_image_without_labels_is_zero_and_finite():
    affinity = torch.ones(1, 34, 10, requires_grad=True)
    pairs = pair_labels(torch.full((1, 6, 18), 255, dtype=torch.uint8))
    none = torch.zeros(1, 34, 10, dtype=torch.bool)
    assert not any(kind.any() for kind in pairs)
    terms = affinity_loss(affinity, Pairs(none, none, none))
    sum(terms.values()).backward()
    assert sum(terms.values()) == 0 and torch.isfinite(affinity.grad).all()


def test_shares_with_mean_counts_average_to_the_loss_of_the_whole_batch():
    affinity, kind = torch.rand(4, 3, 6), torch.randint(0, 4, (4, 3, 6))
    parts = [(affinity[i:i + 2], Pairs(*(kind[i:i + 2] == j for j in range(3)))) for i in (0, 2)]
    counts = sum(pair_counts(pairs) for _, pairs in parts) / 2
    whole = affinity_loss(affinity, Pairs(*(kind == j for j in range(3))))
    shares = [affinity_loss(part, pairs, counts) for part, pairs in parts]
    for name in whole:
        torch.testing.assert_close((shares[0][name] + shares[1][name]) / 2, whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('size', SIZES)
def test_walk_equals_dense_textbook_form(size):
    rng = np.random.default_rng(4)
    affinity = pair_affinity(torch.randn(1, 4, *size) * 0.3)[0].numpy()
    cam = rng.random((3, *size)).astype(np.float32)
    walked = random_walk(affinity, size, cam, beta=8, log_steps=6)
    assert walked.dtype == np.float32
    np.testing.assert_allclose(walked, textbook_walk(affinity, size, cam, 8, 6), rtol=1e-5, atol=1e-6)


def test_walk_of_a_class_does_not_depend_on_the_other_rows():
    rng = np.random.default_rng(5)
    affinity = rng.random((34, 56)).astype(np.float32)
    cam = rng.random((3, 12, 15)).astype(np.float32)
    walked = random_walk(affinity, (12, 15), cam)
    np.testing.assert_array_equal(walked[1:2], random_walk(affinity, (12, 15), cam[1:2]))


def test_matrix_has_at_most_69_entries_a_column_and_is_symmetric():
    matrix = affinity_matrix(np.random.default_rng(6).random((34, 56)).astype(np.float32) + 0.1, (12, 15)).toarray()
    assert (matrix == matrix.T).all() and (np.diag(matrix) == 1).all()
    assert (matrix != 0).sum(0).max() <= 69


def test_mean_affinity_equals_slow_loop():
    size = (9, 13)
    radius, affinity = fit_radius(5, size), pair_affinity(torch.randn(1, 6, *size), 5)[0].numpy()
    near = {(y, x): [] for y in range(size[0]) for x in range(size[1])}
    for row, pairs in zip(affinity, slow_pairs(5, size)):
        for value, pair in zip(row, pairs):
            for pixel in pair:
                near[pixel].append(value)
    expected = np.array([np.mean(values) if values else 1 for values in near.values()]).reshape(size)
    np.testing.assert_allclose(mean_affinity(affinity, size, radius), expected, atol=1e-6)
    assert not near[size[0] - 1, 0] and len(near[4, 6]) == 2 * len(offsets(radius))


def test_affinities_of_another_size_are_refused():
    with pytest.raises(ValueError, match='12x16'):
        random_walk(np.ones((34, 56), np.float32), (12, 16), np.ones((1, 12, 16), np.float32))


def test_walk_label_has_the_size_of_the_image_and_labels_of_its_classes():
    cam = np.zeros((2, 21, 29), np.float32)
    cam[0, :, :14] = 1
    cam[1, :, 14:] = 1
    pooled = pool_cams(cam)
    assert pooled.shape == (3, 3, 4)
    label = walk_label(pooled, np.array([2, 14]), (21, 29))
    assert label.shape == (21, 29) and label.dtype == np.uint8
    assert (label[:, :10] == 3).all() and (label[:, 20:] == 15).all()


def test_walk_without_a_class_is_background():
    pooled = pool_cams(np.zeros((0, 90, 100), np.float32))
    walked = random_walk(np.full((34, 8 * 5), 0.5, np.float32), (12, 13), pooled)
    assert (walk_label(walked, np.zeros(0, int), (90, 100)) == 0).all()
