"""SEAM's class seed and pixel correlation: plain forms against slow loops, the fast form against the plain one."""
import pytest
import torch
import torch.nn.functional as F

from benchmarks.textbook_stages import pixel_correlation_plain
from tool import seamutils
from tool.probutils import EPS
from tool.seamutils import class_seed, onehot_max, pixel_correlation


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def test_plain_pixel_correlation_equals_slow_loop():
    features, seed = random_maps(2, 4, 3, 3), class_seed(random_maps(2, 3, 3, 3, seed=1))
    expected = torch.zeros_like(seed)
    for n in range(2):
        pixels = [f / (f.norm() + EPS) for f in features[n].flatten(1).T]
        for j in range(9):
            weights = torch.stack([F.relu(pixels[i] @ pixels[j]) for i in range(9)])
            for k in range(3):
                value = sum(weights[i] * seed[n, k].flatten()[i] for i in range(9)) / (weights.sum() + EPS)
                expected[n, k, j // 3, j % 3] = value
    torch.testing.assert_close(pixel_correlation_plain(features, seed), expected)


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (29, 31)])
def test_fast_pixel_correlation_equals_the_plain_form(size):
    seed, weights = class_seed(random_maps(2, 3, *size, seed=1)), random_maps(2, 3, *size, seed=2)
    results = []
    for form in (pixel_correlation_plain, pixel_correlation):
        features = random_maps(2, 6, *size).requires_grad_()
        refined = form(features, seed)
        (weights * refined).sum().backward()
        results.append((refined, features.grad))
    torch.testing.assert_close(results[1], results[0])


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


def test_onehot_max_keeps_the_strongest_foreground_and_the_background():
    cam = torch.tensor([0.9, 0.2, 0.5, 0.5]).view(1, 4, 1, 1)
    assert onehot_max(cam).flatten().tolist() == pytest.approx([0.9, 0, 0.5, 0.5])
