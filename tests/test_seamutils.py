"""SEAM's parts against slow loops, and what they promise."""
import pytest
import torch
import torch.nn.functional as F

from tool import seamutils
from tool.seamutils import (
    EPS,
    SeamOutput,
    adaptive_min_pooling,
    class_seed,
    classification_loss,
    max_norm,
    onehot_max,
    pixel_correlation,
    seam_losses,
    with_background,
)


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_view(count, channels, height, width, seed=0):
    return SeamOutput(random_maps(count, channels, height, width, seed=seed),
                      random_maps(count, channels, height, width, seed=seed + 1).abs(),
                      random_maps(count, channels, -(-height // 8), -(-width // 8), seed=seed + 2))


def test_class_seed_equals_slow_loop():
    logits = random_maps(2, 4, 3, 3)
    expected = torch.zeros_like(logits)
    for n in range(2):
        for k in range(1, 4):
            top = max(0.0, logits[n, k].max().item())
            for y in range(3):
                for x in range(3):
                    expected[n, k, y, x] = max(0.0, max(0.0, logits[n, k, y, x].item()) - EPS) / (top + EPS)
        for y in range(3):
            for x in range(3):
                scores = expected[n, 1:, y, x]
                best = scores.max().item()
                expected[n, 1:, y, x] = torch.tensor([s if s == best else 0.0 for s in scores.tolist()])
                expected[n, 0, y, x] = 1 - best
    torch.testing.assert_close(class_seed(logits), expected)


def test_class_seed_has_no_gradient_and_ignores_the_background_logit():
    logits = random_maps(1, 3, 4, 5).requires_grad_()
    other = torch.cat([logits[:, :1] + 7, logits[:, 1:]], dim=1)
    assert not class_seed(logits).requires_grad
    assert torch.equal(class_seed(logits), class_seed(other))


def test_pixel_correlation_equals_slow_loop():
    features, seed = random_maps(2, 4, 3, 3), class_seed(random_maps(2, 3, 3, 3, seed=1))
    expected = torch.zeros_like(seed)
    for n in range(2):
        pixels = [f / (f.norm() + EPS) for f in features[n].flatten(1).T]
        for j in range(9):
            weights = torch.stack([F.relu(pixels[i] @ pixels[j]) for i in range(9)])
            for k in range(3):
                value = sum(weights[i] * seed[n, k].flatten()[i] for i in range(9)) / (weights.sum() + EPS)
                expected[n, k, j // 3, j % 3] = value
    torch.testing.assert_close(pixel_correlation(features, seed), expected)


@pytest.mark.parametrize('block', [1, 5, 512])
def test_pixel_correlation_gradient_is_right_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(seamutils, 'BLOCK', block)
    seed = class_seed(random_maps(2, 3, 3, 4, seed=1))
    features = random_maps(2, 4, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: pixel_correlation(f, seed), features)


def test_pixel_correlation_of_alike_pixels_is_the_mean_seed():
    features, seed = torch.ones(1, 4, 3, 5), torch.rand(1, 2, 3, 5)
    expected = seed.mean((2, 3), keepdim=True).expand_as(seed)
    torch.testing.assert_close(pixel_correlation(features, seed), expected, atol=1e-4, rtol=0)


def test_pixel_correlation_survives_zero_features_and_one_pixel():
    features = torch.zeros(1, 4, 2, 3, requires_grad=True)
    refined = pixel_correlation(features, torch.ones(1, 2, 2, 3))
    refined.sum().backward()
    assert not refined.any() and features.grad.isfinite().all()
    alone = pixel_correlation(torch.rand(1, 4, 1, 1) + 0.1, torch.full((1, 2, 1, 1), 0.3))
    torch.testing.assert_close(alone, torch.full((1, 2, 1, 1), 0.3), atol=1e-4, rtol=0)


def test_pixel_correlation_under_autocast_is_that_of_float32():
    features, seed = random_maps(2, 4, 5, 5).bfloat16(), class_seed(random_maps(2, 3, 5, 5).bfloat16())
    assert seed.dtype == torch.float32
    results = []
    for enabled in (False, True):
        leaf = features.float().requires_grad_()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            refined = pixel_correlation(leaf, seed)
            refined.square().sum().backward()
        results.append((refined, leaf.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_max_norm_equals_slow_loop():
    maps = random_maps(2, 3, 3, 3)
    maps[0, 0] = maps[0, 0].abs() + 1
    result = max_norm(maps)
    for n in range(2):
        for c in range(3):
            positive = [max(0.0, v) for v in maps[n, c].flatten().tolist()]
            low, high = min(positive), max(positive)
            expected = [max(0.0, v - low - EPS) / (high - low + EPS) for v in positive]
            assert result[n, c].flatten().tolist() == pytest.approx(expected)


def test_max_norm_of_constant_or_negative_maps_is_zero():
    assert not max_norm(torch.full((1, 2, 3, 3), 5.0)).any()
    assert not max_norm(-torch.rand(1, 2, 3, 3)).any()
    assert not max_norm(torch.rand(1, 2, 1, 1)).any()


def test_max_norm_gradient_is_right():
    assert torch.autograd.gradcheck(max_norm, random_maps(1, 2, 3, 4).requires_grad_())


def test_onehot_max_keeps_the_strongest_foreground_and_the_background():
    cam = torch.tensor([0.9, 0.2, 0.5, 0.5]).view(1, 4, 1, 1)
    assert onehot_max(cam).flatten().tolist() == pytest.approx([0.9, 0, 0.5, 0.5])


def test_with_background_replaces_the_first_channel_of_a_copy():
    cam = torch.rand(2, 4, 3, 3)
    before = cam.clone()
    result = with_background(cam)
    assert torch.equal(result[:, 0], 1 - cam[:, 1:].amax(1)) and torch.equal(result[:, 1:], cam[:, 1:])
    assert torch.equal(cam, before)


@pytest.mark.parametrize('size', [(3, 3), (1, 1), (5, 7)])
def test_adaptive_min_pooling_equals_slow_loop(size):
    maps = random_maps(2, 3, *size)
    means = []
    for n in range(2):
        strongest = sorted(maps[n].amax(0).flatten().tolist())
        count = max(1, len(strongest) // 4)
        means.append(sum(max(0.0, v) for v in strongest[:count]) / count)
    assert adaptive_min_pooling(maps).item() == pytest.approx(sum(means) / 2)


def test_classification_loss_equals_slow_loop_and_ignores_background():
    cam, labels = random_maps(2, 3, 3, 3), torch.tensor([[1, 0], [0, 0]])
    total = 0.0
    for n in range(2):
        for k in range(2):
            prob = torch.sigmoid(cam[n, k + 1].mean())
            total -= torch.log(prob if labels[n, k] else 1 - prob).item() / 4
    assert classification_loss(cam, labels).item() == pytest.approx(total)


def slow_seam_losses(view1, view2, labels):
    """The equations for one image, value by value (view 1 already at the size of view 2)."""
    def normalised(maps):
        rows = []
        for c, plane in enumerate(maps.tolist()):
            positive = [max(0.0, v) for row in plane for v in row]
            low, high = min(positive), max(positive)
            factor = 1.0 if c == 0 else float(labels[c - 1])
            rows.append([factor * max(0.0, v - low - EPS) / (high - low + EPS) for v in positive])
        return rows

    def target(rows):
        best = [max(values) for values in zip(*rows[1:])]
        return [[1 - b for b in best], *[[v if v == b else 0.0 for v, b in zip(row, best)] for row in rows[1:]]]

    def hardest(first, second):
        apart = sorted((abs(a - b) for one, other in zip(first, second) for a, b in zip(one, other)), reverse=True)
        count = max(1, int(0.2 * len(apart)))
        return sum(apart[:count]) / count

    cam1, cam2 = normalised(view1.cam[0]), normalised(view2.cam[0])
    apart = [abs(a - b) for one, other in zip(cam1[1:], cam2[1:]) for a, b in zip(one, other)]
    return {'er': sum(apart) / len(apart), 'ecr1': hardest(target(cam2), normalised(view1.refined[0])),
            'ecr2': hardest(target(cam1), normalised(view2.refined[0]))}


@pytest.mark.parametrize('labels', [[1, 0, 1], [0, 0, 0]])
def test_seam_losses_equal_slow_loop(labels):
    view1, view2 = random_view(1, 4, 3, 3), random_view(1, 4, 3, 3, seed=7)
    losses = {name: loss.item() for name, loss in seam_losses(view1, view2, torch.tensor([labels])).items()}
    assert losses == pytest.approx(slow_seam_losses(view1, view2, labels))


def test_seam_losses_of_a_batch_are_the_mean_of_its_images():
    view1, view2 = random_view(3, 4, 11, 9), random_view(3, 4, 5, 3, seed=7)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    single = [seam_losses(SeamOutput(*(m[n:n + 1] for m in view1)), SeamOutput(*(m[n:n + 1] for m in view2)),
                          labels[n:n + 1]) for n in range(3)]
    for name, loss in seam_losses(view1, view2, labels).items():
        torch.testing.assert_close(loss, torch.stack([terms[name] for terms in single]).mean())


def test_consistency_targets_are_constant_and_inputs_untouched():
    view1, view2 = random_view(2, 3, 8, 8), random_view(2, 3, 4, 4, seed=7)
    before = [maps.clone() for maps in (*view1, *view2)]
    for maps in (*view1, *view2):
        maps.requires_grad_()
    losses = seam_losses(view1, view2, torch.tensor([[1, 1], [0, 1]]))
    (losses['ecr1'] + losses['ecr2']).backward()
    assert view1.cam.grad is None and view2.cam.grad is None
    assert view1.refined.grad.any() and view2.refined.grad.any()
    assert all(torch.equal(a, b) for a, b in zip(before, (*view1, *view2)))


def test_seam_losses_gradient_is_right():
    fixed1, fixed2, labels = random_view(1, 3, 5, 4), random_view(1, 3, 3, 2, seed=7), torch.tensor([[1, 1]])

    def losses(cam1, refined1, refined2):
        view1, view2 = fixed1._replace(cam=cam1, refined=refined1), fixed2._replace(refined=refined2)
        terms = seam_losses(view1, view2, labels)
        return terms['er'], seam_losses(fixed1, view2, labels)['ecr2'], seam_losses(view1, fixed2, labels)['ecr1']

    inputs = [maps.clone().requires_grad_() for maps in (fixed1.cam, fixed1.refined, fixed2.refined)]
    assert torch.autograd.gradcheck(lambda *maps: losses(*maps)[0], inputs[:1] + [m.detach() for m in inputs[1:]])
    assert torch.autograd.gradcheck(lambda *maps: losses(fixed1.cam, *maps)[1:], inputs[1:])
