"""Importance-sampling and feature-similarity losses: plain forms against slow loops, fast forms against plain ones."""
import inspect
import itertools
import math
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from tool import probutils
from tool.probutils import (
    add_background,
    draw_pixels,
    fsl_images,
    fsl_loss,
    fsl_loss_plain,
    fsl_maps,
    isl_loss,
    isl_loss_plain,
    max_norm,
)


def random_maps(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_fsl(cam, images, mu, sigma):
    """The equation, pair by pair."""
    count, _, height, width = cam.shape
    places = list(itertools.product(range(height), range(width)))
    total = 0.0
    for n in range(count):
        for (y, x), (v, u) in itertools.product(places, places):
            delta = min(1.0, (images[n, :, y, x] - images[n, :, v, u]).abs().sum().item() / 3)
            similar = math.tanh(mu + math.log((delta + 1e-5) / (1 - delta + 1e-5)))
            square = (y - v) ** 2 + (x - u) ** 2
            near = 1 / (height * width)
            if sigma is not None:
                near = math.exp(-square / (2 * sigma ** 2)) / (2 * math.pi * sigma ** 2)
            total -= near * similar * (cam[n, :, y, x] - cam[n, :, v, u]).square().sum().item() / 2
    return total / (count * height * width)


def value_and_gradient(loss, maps, *args, **settings):
    maps = maps.clone().requires_grad_()
    value = loss(maps, *args, **settings)
    value.backward()
    return value.detach(), maps.grad


def test_the_file_works_alone_in_another_project(tmp_path):
    shutil.copy(probutils.__file__, tmp_path / 'hfpl_losses.py')
    (tmp_path / 'tool').mkdir()             # the other project may have a package of that name
    (tmp_path / 'tool/__init__.py').write_text('')
    code = inspect.cleandoc("""
        import sys, torch
        from hfpl_losses import fsl_images, fsl_loss, fsl_maps, isl_loss
        logits, labels = torch.randn(2, 3, 8, 9, requires_grad=True), torch.tensor([[1., 0, 0], [0, 1, 1]])
        images = fsl_images(torch.randn(2, 3, 64, 72), logits.shape[2:], (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        loss = 0.2 * isl_loss(logits, labels) + fsl_loss(fsl_maps(logits, labels), images)
        loss.backward()
        assert loss.isfinite() and logits.grad.any()
        print(*{name.partition('.')[0] for name in sys.modules} & {'tool', 'lib', 'numpy'})""")
    done = subprocess.run([sys.executable, '-I', '-c', f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}'],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and set(done.stdout.split()) <= {'numpy'}, done.stderr      # torch itself loads NumPy


@pytest.mark.parametrize('plain, fast, more', [(isl_loss_plain, isl_loss, ['batch_rows']),
                                               (fsl_loss_plain, fsl_loss, ['cut'])])
def test_both_forms_of_a_loss_take_the_same_arguments(plain, fast, more):
    first, second = (inspect.signature(form).parameters for form in (plain, fast))
    assert [*first, *more] == list(second) and all(first[name] == second[name] for name in first)


# ---------------------------------------------------------------------------------------- feature similarity


@pytest.mark.parametrize('mu, sigma', [(2.5, 5.0), (0.0, 0.8), (1.0, None)])
@pytest.mark.parametrize('size', [(3, 3), (2, 5), (1, 4)])
def test_plain_feature_similarity_equals_slow_loop(mu, sigma, size):
    cam, images = random_maps(2, 4, *size), random_maps(2, 3, *size, seed=1)
    assert fsl_loss_plain(cam, images, mu, sigma).item() == pytest.approx(slow_fsl(cam, images, mu, sigma), rel=1e-9)


@pytest.mark.parametrize('mu, sigma', [(2.5, 5.0), (1.0, 1.3), (0.0, None)])
@pytest.mark.parametrize('size', [(1, 1), (1, 7), (9, 2), (13, 17), (31, 5), (5, 71), (71, 5)])
def test_fast_feature_similarity_equals_the_plain_form(mu, sigma, size):
    cam, images = random_maps(2, 4, *size), 1.2 * random_maps(2, 3, *size, seed=1) - 0.1
    plain, gradient = value_and_gradient(fsl_loss_plain, cam, images, mu, sigma)
    for cut, tolerance in ((None, 1e-9), (5.0, 1e-4)):
        value, found = value_and_gradient(fsl_loss, cam, images, mu, sigma, cut=cut)
        torch.testing.assert_close(value, plain, rtol=tolerance, atol=1e-9)
        torch.testing.assert_close(found, gradient, rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize('sigma', [1.5, None])
@pytest.mark.parametrize('pairs', [1, 40, 1000, 2 ** 18])
def test_feature_similarity_does_not_depend_on_the_tiles(monkeypatch, pairs, sigma):
    cam, images = random_maps(3, 4, 9, 13), random_maps(3, 3, 9, 13, seed=1)
    expected = fsl_loss_plain(cam, images, 2.5, sigma)
    monkeypatch.setitem(probutils.TILE_PAIRS, 'cpu', pairs)
    monkeypatch.setattr(probutils, 'TILE_COLUMNS', 4)
    assert fsl_loss(cam, images, 2.5, sigma, cut=None).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize('height, width, reach', [(7, 9, 2), (9, 7, 20), (1, 6, 3), (6, 1, 3), (5, 5, 1)])
@pytest.mark.parametrize('budget', [1, 200, 10 ** 6])
def test_every_close_pair_lies_in_exactly_one_pair_of_rectangles(monkeypatch, height, width, reach, budget):
    monkeypatch.setattr(probutils, 'TILE_COLUMNS', 3)
    index = torch.arange(height * width).view(height, width)
    times = torch.zeros(height * width, height * width)
    for source, partner in probutils._rectangles(height, width, reach, budget):
        first, second = index[source].flatten(), index[partner].flatten()
        times[first[:, None], second] += 1
        if source != partner:
            times[second[:, None], first] += 1
    y, x = index // width, index % width
    close = ((y.view(-1, 1) - y.view(-1)).abs() <= reach) & ((x.view(-1, 1) - x.view(-1)).abs() <= reach)
    assert (times[close] == 1).all()
    assert times.max() == 1


def test_cutting_the_window_at_five_sigma_changes_less_than_1e_5():
    cam = F.interpolate(random_maps(1, 3, 5, 7), size=(31, 43), mode='bilinear')
    images = F.interpolate(random_maps(1, 3, 4, 4, seed=1), size=(31, 43), mode='bilinear')
    results = []
    for cut in (5.0, None):
        maps = cam.clone().requires_grad_()
        loss = fsl_loss(maps, images, 2.5, 1.5, cut)
        loss.backward()
        results.append((loss.item(), maps.grad))
    (loss, gradient), (exact, exact_gradient) = results
    assert loss != exact
    assert loss == pytest.approx(exact, rel=1e-5)
    assert (gradient - exact_gradient).norm() < 1e-5 * exact_gradient.norm()


@pytest.mark.parametrize('sigma', [1.0, None])
def test_feature_similarity_gradient_is_right(sigma):
    images = random_maps(2, 3, 3, 4, seed=1)
    cam = random_maps(2, 3, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda maps: fsl_loss(maps, images, 2.5, sigma, None), cam)


def test_feature_similarity_in_float32_agrees_with_float64():
    cam, images = random_maps(2, 5, 20, 24), random_maps(2, 3, 20, 24, seed=1)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        maps = cam.clone().to(dtype).requires_grad_()
        loss = fsl_loss(maps, images.to(dtype))
        loss.backward()
        assert loss.dtype == dtype
        gradients.append(maps.grad.double())
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()


def test_feature_similarity_of_constant_maps_is_zero():
    cam = torch.full((2, 4, 6, 5), 0.7, requires_grad=True)
    loss = fsl_loss(cam, random_maps(2, 3, 6, 5, dtype=torch.float32))
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert cam.grad.abs().max() < 1e-12


def test_feature_similarity_of_one_pixel_is_zero():
    cam = random_maps(2, 4, 1, 1).requires_grad_()
    loss = fsl_loss(cam, random_maps(2, 3, 1, 1))
    loss.backward()
    assert loss.item() == 0 and not cam.grad.any()


def test_feature_similarity_smooths_where_the_image_is_flat_and_rewards_edges_on_its_edges():
    step = (torch.arange(6) >= 3).to(torch.float64).expand(1, 1, 6, 6)
    assert fsl_loss(step, torch.zeros(1, 3, 6, 6)).item() > 0
    assert fsl_loss(step, step.expand(1, 3, 6, 6)).item() < 0


def test_feature_similarity_of_a_batch_is_the_mean_of_its_images():
    cam, images = random_maps(3, 4, 7, 5), random_maps(3, 3, 7, 5, seed=1)
    single = [fsl_loss(cam[n:n + 1], images[n:n + 1]) for n in range(3)]
    torch.testing.assert_close(fsl_loss(cam, images), torch.stack(single).mean())


def test_feature_similarity_leaves_its_inputs_and_the_image_without_gradient():
    cam, images = random_maps(2, 3, 5, 5), random_maps(2, 3, 5, 5, seed=1)
    before = cam.clone(), images.clone()
    cam.requires_grad_()
    images.requires_grad_()
    fsl_loss(cam, images).backward()
    assert torch.equal(cam, before[0]) and torch.equal(images, before[1])
    assert images.grad is None


def test_feature_similarity_under_autocast_is_that_of_float32():
    cam, images = random_maps(2, 3, 5, 6).bfloat16(), random_maps(2, 3, 5, 6, seed=1).bfloat16()
    expected = fsl_loss(cam.float(), images.float())
    cam.requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = fsl_loss(cam, images)
        loss.backward()
    assert torch.equal(loss, expected)
    assert cam.grad.dtype == torch.bfloat16


def test_images_outside_0_to_1_are_clamped():
    cam, images = random_maps(1, 3, 5, 5), 3 * random_maps(1, 3, 5, 5, seed=1) - 1
    assert torch.equal(fsl_loss(cam, images), fsl_loss(cam, images.clamp(0, 1)))


@pytest.mark.parametrize('images, sigma, message', [(torch.zeros(1, 3, 4, 5), 5.0, 'fsl_images'),
                                                    (torch.zeros(2, 3, 5, 5), 5.0, 'one image'),
                                                    (torch.zeros(1, 3, 5, 5), 0.0, 'sigma')])
def test_feature_similarity_refuses_what_it_cannot_use(images, sigma, message):
    with pytest.raises(ValueError, match=message):
        fsl_loss(torch.zeros(1, 2, 5, 5), images, sigma=sigma)


def test_images_come_back_in_colour_at_the_size_of_the_maps():
    colours = random_maps(2, 3, 9, 7)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    normalised = (colours - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(fsl_images(normalised, (9, 7), mean, std), colours, atol=1e-6, rtol=0)
    small = fsl_images(normalised * 9, (3, 2), mean, std)
    assert small.shape == (2, 3, 3, 2)
    assert 0 <= small.min() and small.max() <= 1


def test_maps_are_normalised_with_absent_classes_empty_and_background_first():
    logits, labels = 4 * random_maps(2, 3, 5, 4) - 2, torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    maps = fsl_maps(logits, labels)
    assert torch.equal(maps[:, 1:], max_norm(logits) * labels[:, :, None, None])
    assert torch.equal(maps, add_background(maps[:, 1:])) and torch.equal(maps[:, 0], 1 - maps[:, 1:].amax(1))
    assert not maps[1, 1:].any() and (maps[1, 0] == 1).all()


def test_max_norm_equals_slow_loop():
    maps = 4 * random_maps(2, 3, 3, 3) - 2
    maps[0, 0] = maps[0, 0].abs() + 1
    result = max_norm(maps)
    for n, c in itertools.product(range(2), range(3)):
        positive = [max(0.0, v) for v in maps[n, c].flatten().tolist()]
        low, high = min(positive), max(positive)
        expected = [max(0.0, v - low - 1e-5) / (high - low + 1e-5) for v in positive]
        assert result[n, c].flatten().tolist() == pytest.approx(expected)


def test_max_norm_of_constant_or_negative_maps_is_zero():
    assert not max_norm(torch.full((1, 2, 3, 3), 5.0)).any()
    assert not max_norm(-torch.rand(1, 2, 3, 3)).any()
    assert not max_norm(torch.rand(1, 2, 1, 1)).any()


def test_max_norm_gradient_is_right():
    assert torch.autograd.gradcheck(max_norm, (4 * random_maps(1, 2, 3, 4) - 2).requires_grad_())


# ---------------------------------------------------------------------------------------- importance sampling


def test_plain_importance_sampling_equals_slow_loop():
    logits, labels = 4 * random_maps(2, 3, 3, 3) - 2, torch.tensor([[1.0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    indices = draw_pixels(logits.sigmoid(), 4)
    total = 0.0
    for n, k, s in itertools.product(range(2), range(3), range(4)):
        pixel = indices[n, k, s].item()
        score = logits[n, k, pixel // 3, pixel % 3].item()
        prob = 1 / (1 + math.exp(-score))
        total -= math.log(prob) if labels[n, k] else math.log(1 - prob)
    assert isl_loss_plain(logits, labels, indices=indices).item() == pytest.approx(total / 24, rel=1e-9)


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (17, 7)])
def test_fast_importance_sampling_equals_the_plain_form_from_the_draw_on(size):
    logits = (4 * random_maps(2, 3, *size) - 2).float()
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    plain, fast = (value_and_gradient(loss, logits, labels, 7, generator=torch.Generator().manual_seed(0))
                   for loss in (isl_loss_plain, isl_loss))
    torch.testing.assert_close(fast, plain)


def test_a_shared_batch_has_the_draw_of_one_process():
    probs = random_maps(6, 2, 5, 7)
    probs[:4] = 0.3         # other samples' maps do not matter, as long as each row takes as many random numbers
    whole = draw_pixels(probs, 4, torch.Generator().manual_seed(3))
    part = draw_pixels(probs[4:], 4, torch.Generator().manual_seed(3), batch_rows=(6, slice(4, 6)))
    assert torch.equal(part, whole[4:])


def test_pixels_are_drawn_in_proportion_to_their_probability():
    probs = torch.tensor([0.0, 0.2, 0.6, 0.2]).view(1, 1, 2, 2)
    drawn = draw_pixels(probs, 20000, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn.flatten(), minlength=4) / 20000
    torch.testing.assert_close(share, probs.flatten(), atol=0.02, rtol=0)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_the_draw_comes_from_the_generator_alone_and_happens_in_float32(dtype):
    probs = random_maps(2, 3, 5, 7).bfloat16()
    first = draw_pixels(probs.to(dtype), 6, torch.Generator().manual_seed(3))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        second = draw_pixels(probs.float(), 6, torch.Generator().manual_seed(3))
    assert torch.equal(first, second)
    assert first.dtype == torch.int64 and first.shape == (2, 3, 6)


@pytest.mark.parametrize('value', [math.nan, math.inf, -0.1])
def test_invalid_probabilities_count_as_zero(value):
    probs = torch.full((1, 1, 2, 2), 0.5)
    probs[0, 0, 1, 1] = value
    assert draw_pixels(probs, 100, torch.Generator().manual_seed(0)).max() < 3


def test_a_broken_logit_shows_in_the_loss_even_where_it_was_not_drawn():
    logits = torch.zeros(1, 1, 2, 2)
    logits[0, 0, 1, 1] = math.nan
    assert isl_loss(logits, torch.ones(1, 1), indices=torch.zeros(1, 1, 3, dtype=torch.int64)).isnan()


def test_importance_sampling_gradient_is_right_and_stays_on_the_drawn_pixels():
    labels = torch.tensor([[1.0, 0]], dtype=torch.float64)
    logits = random_maps(1, 2, 3, 3).requires_grad_()
    indices = torch.tensor([[[0, 4, 4], [8, 1, 2]]])
    assert torch.autograd.gradcheck(lambda maps: isl_loss(maps, labels, indices=indices), logits)
    isl_loss(logits, labels, indices=indices).backward()
    drawn = torch.zeros(1, 2, 9).scatter_(2, indices, 1).bool()
    assert torch.equal(logits.grad.flatten(2) != 0, drawn)


def test_importance_sampling_of_one_pixel_is_plain_classification():
    logits, labels = random_maps(2, 3, 1, 1), torch.tensor([[1.0, 0, 0], [0, 0, 0]], dtype=torch.float64)
    expected = F.multilabel_soft_margin_loss(logits[:, :, 0, 0], labels)
    torch.testing.assert_close(isl_loss(logits, labels), expected)


def test_importance_sampling_of_a_batch_is_the_mean_of_its_images():
    logits, labels = random_maps(3, 2, 4, 5), torch.tensor([[1.0, 0], [0, 0], [1, 1]], dtype=torch.float64)
    indices = draw_pixels(logits)
    single = [isl_loss(logits[n:n + 1], labels[n:n + 1], indices=indices[n:n + 1]) for n in range(3)]
    torch.testing.assert_close(isl_loss(logits, labels, indices=indices), torch.stack(single).mean())


def test_importance_sampling_of_half_precision_logits_is_computed_in_float32():
    logits, labels = random_maps(1, 2, 4, 5).bfloat16(), torch.tensor([[1, 0]])
    indices = draw_pixels(logits.float())
    before = logits.clone()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = isl_loss(logits, labels, indices=indices)
    assert torch.equal(loss, isl_loss(logits.float(), labels, indices=indices))
    assert torch.equal(logits, before)


@pytest.mark.parametrize('labels, words', [
    (torch.ones(2, 1), r'\[2, 3, 4, 4\] and image_labels \[2, 1\], expected \[N,K,h,w\] and \[N,K\]'),
    (torch.ones(1, 3), 'image_labels .1, 3.'), (torch.ones(2, 4), 'without background'), (torch.zeros(2), 'expected'),
    (torch.full((2, 3), 255), 'up to 255, expected 0 or 1'), (-torch.ones(2, 3), 'expected 0 or 1')])
def test_labels_of_another_shape_or_range_are_refused(labels, words):
    for loss in (isl_loss, fsl_maps):
        with pytest.raises(ValueError, match=f'{loss.__name__} got .*{words}'):
            loss(torch.zeros(2, 3, 4, 4), labels)
    with pytest.raises(ValueError, match='isl_loss got logits'):
        isl_loss(torch.zeros(2, 3), torch.ones(2, 3))


def test_images_of_0_to_255_are_refused():
    with pytest.raises(ValueError, match='fsl_images got values up to 255, expected .*; divide by 255'):
        fsl_images(torch.full((1, 3, 4, 4), 255.), (2, 2), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
