"""The dense CRF on arrays, by both backends: layout, edges and messages. See test_densecrf.py for its numbers."""
import argparse

import numpy as np
import pytest
import torch

from lib import inference
from lib.inference import add_crf_flag
from tool.crfutils import BACKENDS, crf_scores, seed_scores
from tool.densecrf import FINAL_CRF, SEED_CRF


@pytest.fixture(params=BACKENDS)
def backend(request):
    pytest.importorskip(request.param)
    return request.param


def make(height=20, width=26, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.random((labels, height, width)).astype(np.float32)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), probs / probs.sum(0)


def test_scores_are_probabilities_and_inputs_are_untouched(backend):
    image, probs = make()
    before = image.copy(), probs.copy()
    scores = crf_scores(image, probs, SEED_CRF, backend)
    assert scores.shape == probs.shape and scores.dtype == torch.float32
    np.testing.assert_allclose(scores.sum(0), 1, atol=1e-5)
    assert (image == before[0]).all() and (probs == before[1]).all()


def test_noise_inside_a_uniform_region_is_removed(backend):
    image = np.zeros((24, 24, 3), np.uint8)
    image[:, 12:] = 255
    probs = np.full((2, 24, 24), 0.3, np.float32)
    probs[0, :, :12] = probs[1, :, 12:] = 0.7
    probs[:, 5, 5] = probs[::-1, 5, 5].copy()
    label = crf_scores(image, probs, SEED_CRF, backend).numpy().argmax(0)
    assert (label == (np.arange(24) >= 12)).all()


def test_layout_in_memory_does_not_matter(backend):
    image, probs = make()
    plain = crf_scores(image, probs, FINAL_CRF, backend)
    turned = crf_scores(np.asfortranarray(image), np.asfortranarray(probs).astype(np.float64), FINAL_CRF, backend)
    assert torch.equal(plain, turned)
    mirrored = image[:, ::-1], probs[:, :, ::-1]
    flipped = crf_scores(*(part.copy() for part in mirrored), FINAL_CRF, backend)
    for array in mirrored:
        array.flags.writeable = False
    assert torch.equal(crf_scores(*mirrored, FINAL_CRF, backend), flipped)


def test_several_score_maps_of_an_image_are_refined_as_each_alone(backend):
    image, probs = make()
    both = np.stack([probs, probs[::-1]])
    for together, part in zip(crf_scores(image, both, SEED_CRF, backend), both):
        torch.testing.assert_close(together, crf_scores(image, part, SEED_CRF, backend), rtol=0, atol=1e-6)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (7, 1)])
def test_tiny_images_work(size, backend):
    image, probs = make(*size)
    scores = crf_scores(image, probs, SEED_CRF, backend)
    assert scores.shape == (3, *size) and scores.isfinite().all()


def test_seeds_of_larger_alpha_have_less_background(backend):
    rng = np.random.default_rng(3)
    image, cam = rng.integers(0, 256, (16, 18, 3), dtype=np.uint8), rng.random((2, 16, 18)).astype(np.float32)
    seeds = seed_scores(image, cam, (1.0, 24.0), backend)
    assert list(seeds) == [1.0, 24.0] and seeds[1.0].shape == seeds[24.0].shape == (3, 16, 18)
    assert seeds[1.0][0].mean() > seeds[24.0][0].mean()


def test_seeds_without_a_class_are_background_everywhere(backend):
    seeds = seed_scores(np.zeros((4, 5, 3), np.uint8), np.zeros((0, 4, 5), np.float32), (1, 24), backend)
    assert list(seeds) == [1, 24] and all(np.array_equal(scores, np.ones((1, 4, 5))) for scores in seeds.values())


def test_wrong_sizes_and_values_name_the_remedy():
    image, probs = make()
    with pytest.raises(ValueError, match='resize the scores'):
        crf_scores(image[:-1], probs, SEED_CRF)
    probs[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match='finite'):
        crf_scores(image, probs, SEED_CRF)


def test_a_backend_that_is_unknown_or_missing_is_refused_by_its_flag(monkeypatch):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_crf_flag(parser)
    assert parser.parse_args([]).crf_backend == 'torch'
    with pytest.raises(argparse.ArgumentError, match='--crf-backend: unknown, expected torch or pydensecrf'):
        parser.parse_args(['--crf-backend', 'cuda'])
    monkeypatch.setattr(inference, 'find_spec', lambda name: None if name == 'pydensecrf' else name)
    assert parser.parse_args(['--crf-backend', 'torch']).crf_backend == 'torch'
    with pytest.raises(argparse.ArgumentError, match=r'pydensecrf is not installed; .*pip install pydensecrf2'):
        parser.parse_args(['--crf-backend', 'pydensecrf'])
