"""The dense CRF in PyTorch: its filter against a slow one, pydensecrf's numbers, and what its callers rely on."""
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tool.crfutils import crf_scores
from tool.densecrf import FINAL_CRF, SEED_CRF, CrfSettings, Keys, Lattice, corners, dense_crf, spatial_lattice

SIZES = [(1, 1), (1, 200), (3, 1), (2, 3), (60, 83), (97, 41)]


def photo_like(height, width, seed=0):
    """Smooth colours with edges and some noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / rng.uniform(5, 40) + columns / rng.uniform(5, 40) + rng.uniform(0, 7)) for _ in range(3)]
    image = 128 + 70 * np.stack(waves, axis=-1) + 60 * ((rows + 2 * columns) % 70 < 30)[..., None]
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def random_probs(*shape, seed=1):
    probs = np.random.default_rng(seed).random(shape).astype(np.float32) + 1e-3
    return probs / probs.sum(-3, keepdims=True)


def slow_filter(features, values):
    """The filter of Adams et al. without its normalisation: in float64, pixel by pixel, with a dict of vertices."""
    dims, table, slices = len(features), {}, []
    for point, value in zip(features.T.tolist(), values):
        scaled = [(dims + 1) * math.sqrt(2 / 3 / (i + 1) / (i + 2)) * x for i, x in enumerate(point)]
        embedded = [sum(scaled[j:]) - (j * scaled[j - 1] if j else 0) for j in range(dims + 1)]
        nearest = [round(x / (dims + 1)) * (dims + 1) for x in embedded]
        order = sorted(range(dims + 1), key=lambda i: nearest[i] - embedded[i])
        excess = sum(nearest) // (dims + 1)
        for i in order[dims + 1 - excess:] if excess > 0 else order[:-excess]:
            nearest[i] -= math.copysign(dims + 1, excess)
        differences = [x - y for x, y in zip(embedded, nearest)]
        order = sorted(range(dims + 1), key=lambda i: -differences[i])
        ranked = [differences[i] / (dims + 1) for i in order]
        own = []
        for r in range(dims + 1):
            raised = set(order[:dims + 1 - r])
            vertex = tuple(int(nearest[i]) + (r if i in raised else r - dims - 1) for i in range(dims + 1))
            weight = ranked[dims - r] - ranked[dims + 1 - r] if r else 1 - ranked[0] + ranked[dims]
            own.append((vertex, weight))
            table[vertex] = table.get(vertex, 0) + weight * value
        slices.append(own)
    for axis in range(dims + 1):
        def moved(vertex, sign, axis=axis):
            return tuple(x + sign * (dims if i == axis else -1) for i, x in enumerate(vertex))
        table = {vertex: value + (table.get(moved(vertex, 1), 0) + table.get(moved(vertex, -1), 0)) / 2
                 for vertex, value in table.items()}
    return np.stack([sum(weight * table[vertex] for vertex, weight in own) for own in slices]) / (1 + 2 ** -dims)


@pytest.mark.parametrize('dims', [1, 2, 3, 5])
def test_the_filter_is_the_slow_one_normalised(dims):
    rng = np.random.default_rng(dims)
    extent = rng.uniform(0.5, 6, dims)
    features = rng.random((dims, 300)) * extent[:, None]
    values = rng.random((300, 4))
    scale = slow_filter(features, np.ones((300, 1))) ** -0.5
    expected = scale * slow_filter(features, scale * values)
    found = Lattice(torch.from_numpy(features).float(), extent.tolist())(torch.from_numpy(values).float())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_filter_is_near_a_gaussian():
    line = torch.linspace(0, 20, 2001)[None]
    values = torch.stack([torch.ones(2001), (line[0] > 10).float()], dim=1)
    gaussian = torch.exp(-(line.T - line) ** 2 / 2)
    scale = gaussian.sum(1, keepdim=True).rsqrt()
    expected = scale * (gaussian @ (scale * values))
    assert (Lattice(line, [20.0])(values) - expected).abs().max() < 0.06


@pytest.mark.parametrize('extent', [(0.01,) * 5, (6.25, 4.7, 19.6, 19.6, 19.6), (300.0, 200.0), (1e4, 5e3, 20, 20, 20)])
def test_keys_tell_all_corners_and_neighbours_apart(extent):
    keys, dims = Keys(extent), len(extent)
    corner = list(itertools.product((0.0, 1.0), repeat=dims))
    inner = np.random.default_rng(0).random((500, dims))
    features = torch.from_numpy(np.concatenate([corner, inner]) * extent).T.float().contiguous()
    found, weights = corners(features, keys)
    assert found.dtype == keys.dtype and found.min() >= sum(keys.units) and found.max() < keys.size - sum(keys.units)
    assert weights.min() > -1e-3 and (weights.sum(0) - 1).abs().max() < 1e-3


def test_an_image_that_is_too_large_for_the_widths_is_refused():
    tiny = CrfSettings(1e-8, 3, 80, 13, 10, 1)
    with pytest.raises(ValueError, match='times its width; use larger widths or a smaller image'):
        dense_crf(torch.zeros(9, 9, 3, dtype=torch.uint8), torch.rand(2, 9, 9), tiny)


@pytest.mark.parametrize('settings', [SEED_CRF, FINAL_CRF], ids=['seeds', 'final'])
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('labels', [2, 3, 21])
def test_numbers_are_those_of_pydensecrf(settings, size, labels):
    pytest.importorskip('pydensecrf')
    image, probs = photo_like(*size), random_probs(labels, *size)
    found, expected = (crf_scores(image, probs, settings, backend).numpy() for backend in ('torch', 'pydensecrf'))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found.argmax(0) == expected.argmax(0)).mean() >= 0.9999


@pytest.mark.parametrize('image', [np.zeros((40, 50, 3), np.uint8), np.full((40, 50, 3), 255, np.uint8),
                                   np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)],
                         ids=['black', 'white', 'noise'])
def test_numbers_are_those_of_pydensecrf_where_features_tie_or_fill_space(image):
    pytest.importorskip('pydensecrf')
    # Ten iterations on noise are beyond float32: pydensecrf's are 7e-4 from those in float64.
    probs, settings = random_probs(3, 40, 50), SEED_CRF._replace(iterations=5)
    found, expected = (crf_scores(image, probs, settings, backend).numpy() for backend in ('torch', 'pydensecrf'))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_results_repeat_exactly_and_no_iteration_returns_the_scores():
    image, probs = torch.from_numpy(photo_like(60, 83)), torch.from_numpy(random_probs(2, 3, 60, 83))
    first = dense_crf(image, probs, SEED_CRF)
    spatial_lattice.cache_clear()
    assert torch.equal(dense_crf(image, probs, SEED_CRF), first)
    torch.testing.assert_close(dense_crf(image, probs, SEED_CRF._replace(iterations=0)), probs)


def test_a_lattice_made_in_inference_mode_serves_outside_too():
    image, probs = torch.from_numpy(photo_like(7, 9)), torch.from_numpy(random_probs(3, 7, 9))
    spatial_lattice.cache_clear()
    with torch.inference_mode():
        inside = dense_crf(image, probs, FINAL_CRF)
    assert torch.equal(dense_crf(image, probs.requires_grad_(), FINAL_CRF), inside)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / 'docs/densecrf.md').read_text()
    code, = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    assert len(code.splitlines()) <= 12
    torch.manual_seed(0)
    found = {'photo': photo_like(40, 50), 'logits': torch.randn(21, 40, 50)}
    exec(code, found)
    assert found['label'].shape == (40, 50) and found['label'].dtype == torch.int64
    expected = dense_crf(torch.from_numpy(found['photo']), found['logits'].softmax(0), FINAL_CRF)
    assert torch.equal(found['label'], expected.argmax(0))
