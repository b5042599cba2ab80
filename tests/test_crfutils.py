"""The dense CRF's wrapper: layout, edges and messages. Its numbers are checked against the reference's elsewhere."""
import sys

import numpy as np
import pytest

from tool.crfutils import FINAL_CRF, SEED_CRF, dense_crf, seed_scores


def make(height=20, width=26, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.random((labels, height, width)).astype(np.float32)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), probs / probs.sum(0)


def test_scores_are_probabilities_and_inputs_are_untouched():
    image, probs = make()
    before = image.copy(), probs.copy()
    scores = dense_crf(image, probs, SEED_CRF)
    assert scores.shape == probs.shape and scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(0), 1, atol=1e-5)
    assert (image == before[0]).all() and (probs == before[1]).all()


def test_noise_inside_a_uniform_region_is_removed():
    image = np.zeros((24, 24, 3), np.uint8)
    image[:, 12:] = 255
    probs = np.full((2, 24, 24), 0.3, np.float32)
    probs[0, :, :12] = probs[1, :, 12:] = 0.7
    probs[:, 5, 5] = probs[::-1, 5, 5].copy()
    label = dense_crf(image, probs, SEED_CRF).argmax(0)
    assert (label == (np.arange(24) >= 12)).all()


def test_layout_in_memory_does_not_matter():
    image, probs = make()
    plain = dense_crf(image, probs, FINAL_CRF)
    turned = dense_crf(np.asfortranarray(image), np.asfortranarray(probs).astype(np.float64), FINAL_CRF)
    np.testing.assert_array_equal(plain, turned)
    flipped = dense_crf(image[:, ::-1], probs[:, :, ::-1], FINAL_CRF)
    np.testing.assert_array_equal(flipped, dense_crf(image[:, ::-1].copy(), probs[:, :, ::-1].copy(), FINAL_CRF))


def test_read_only_arrays_are_taken():
    image, probs = make()
    expected = dense_crf(image, probs, FINAL_CRF)
    for array in (image, probs):
        array.flags.writeable = False
    np.testing.assert_array_equal(dense_crf(image, probs, FINAL_CRF), expected)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (7, 1)])
def test_tiny_images_work(size):
    image, probs = make(*size)
    scores = dense_crf(image, probs, SEED_CRF)
    assert scores.shape == (3, *size) and np.isfinite(scores).all()


def test_seeds_of_larger_alpha_have_less_background():
    rng = np.random.default_rng(3)
    image, cam = rng.integers(0, 256, (16, 18, 3), dtype=np.uint8), rng.random((2, 16, 18)).astype(np.float32)
    low, high = (seed_scores(image, cam, alpha) for alpha in (1, 24))
    assert low.shape == high.shape == (3, 16, 18)
    assert low[0].mean() > high[0].mean()


def test_seeds_without_a_class_are_background_everywhere():
    scores = seed_scores(np.zeros((4, 5, 3), np.uint8), np.zeros((0, 4, 5), np.float32), 24)
    assert scores.shape == (1, 4, 5) and (scores == 1).all()


def test_wrong_sizes_and_values_name_the_remedy():
    image, probs = make()
    with pytest.raises(ValueError, match='resize the scores'):
        dense_crf(image[:-1], probs, SEED_CRF)
    probs[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match='finite'):
        dense_crf(image, probs, SEED_CRF)


def test_missing_library_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydensecrf.densecrf', None)
    with pytest.raises(ImportError, match='pip install pydensecrf2'):
        dense_crf(*make(), SEED_CRF)
