import math

import numpy as np
import pytest

import infer_seg
from lib.data import augment
from tool.imutils import IMAGENET_NORM, denormalise, normalise, pad_to_multiple, rescale, resize_bicubic, scaled_size


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (30, 44, 3), np.uint8)


def draws(function, count=200):
    return [function(np.random.default_rng(seed)) for seed in range(count)]


def test_same_generator_gives_the_same_image_and_leaves_the_input(image):
    before = image.copy()
    changes = {'jitter': augment.colour_jitter, 'hsv': augment.hsv_shift,
               'resize': lambda image, rng: augment.resize_long_side(image, rng, 40, 90)}
    for change in changes.values():
        first, again = (change(image, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert any(change(image, np.random.default_rng(seed)).tobytes() != first.tobytes() for seed in range(4, 8))
    np.testing.assert_array_equal(image, before)


def test_long_side_takes_every_size_and_keeps_the_shape(image):
    sizes = [resized.shape[:2] for resized in draws(lambda rng: augment.resize_long_side(image, rng, 40, 48))]
    assert {width for _, width in sizes} == set(range(40, 49))
    assert all(height == round(width * 30 / 44) for height, width in sizes)
    upright = augment.resize_long_side(image.transpose(1, 0, 2), np.random.default_rng(0), 40, 48)
    assert max(upright.shape[:2]) == upright.shape[0]


@pytest.mark.parametrize('size, long_side, expected', [((375, 500), 550, 412), ((500, 450), 545, 490)])
def test_the_short_side_is_the_rounded_quotient_of_the_product(size, long_side, expected):
    """375 * 550 / 500 is 412.5, which is rounded to even; 375 * (550 / 500) is a little more."""
    resized = augment.resize_long_side(np.zeros((*size, 3), np.uint8), np.random.default_rng(0), long_side, long_side)
    assert sorted(resized.shape[:2]) == [expected, long_side]
    assert round(min(size) * (long_side / max(size))) == expected + 1


def test_crop_of_a_larger_image_is_a_window_of_it():
    array = np.arange(30 * 44, dtype=np.float32).reshape(1, 30, 44)
    crops = draws(lambda rng: augment.random_crop(rng, 30, 44, 16))
    for crop in crops:
        window = crop.paste(array[..., *crop.source], -1)
        assert window.shape == (1, 16, 16) and window.min() >= 0
        assert (np.diff(window[0], axis=1) == 1).all() and (np.diff(window[0], axis=0) == 44).all()
    assert {crop.source[0].start for crop in crops} == set(range(15))
    assert {crop.source[1].start for crop in crops} == set(range(29))


def test_smaller_image_lies_whole_at_a_random_place_in_the_padding():
    array = np.arange(1, 1 + 6 * 10, dtype=np.float32).reshape(6, 10)
    crops = draws(lambda rng: augment.random_crop(rng, 6, 10, 8))
    for crop in crops:
        window = crop.paste(array[crop.source], 0)
        assert window.shape == (8, 8) and (window > 0).sum() == 6 * 8
    assert {crop.target[0].start for crop in crops} == {0, 1, 2}
    assert {crop.source[1].start for crop in crops} == {0, 1, 2}


def test_half_of_the_images_are_mirrored():
    flips = [flip.step for flip in draws(augment.random_flip, 400)]
    assert 160 < flips.count(-1) < 240 and set(flips) == {1, -1}


def test_hsv_shift_keeps_grey_levels_within_its_range():
    grey = np.full((4, 4, 3), 128, np.uint8)
    values = [augment.hsv_shift(grey, np.random.default_rng(seed)).max() for seed in range(200)]
    assert min(values) == 118 and max(values) == 138


def test_jitter_stays_within_its_brightness():
    grey = np.full((4, 4, 3), 100, np.uint8)
    values = [augment.colour_jitter(grey, np.random.default_rng(seed)).mean() for seed in range(200)]
    assert 69 <= min(values) < 75 and 125 < max(values) <= 131


def test_scale_resizes_image_and_mask_alike(image):
    mask = (np.arange(30)[:, None] // 4 * 16 + np.arange(44) // 4).astype(np.uint8)
    for seed in range(10):
        scaled, labels = augment.random_scale(image, mask, np.random.default_rng(seed), 0.5, 1.5)
        assert scaled.shape[:2] == labels.shape and set(labels.flat) <= set(mask.flat)
        assert 15 <= labels.shape[0] <= 45


def cubic_by_hand(row, factor):
    """A row of values at the positions (x + 0.5) / factor - 0.5, with the cubic filter of a = -0.75, edges repeated."""
    values = []
    for x in range(round(len(row) * factor)):
        position, value = (x + 0.5) / factor - 0.5, 0
        for near in range(math.floor(position) - 1, math.floor(position) + 3):
            d = abs(position - near)
            weight = 1.25 * d ** 3 - 2.25 * d ** 2 + 1 if d <= 1 else -0.75 * (d ** 3 - 5 * d ** 2 + 8 * d - 4)
            value = value + weight * row[min(max(near, 0), len(row) - 1)]
        values.append(value)
    return np.array(values)


def scaled_by_hand(image, factor):
    return np.swapaxes(cubic_by_hand(np.swapaxes(cubic_by_hand(image.astype(float), factor), 0, 1), factor), 0, 1)


@pytest.mark.parametrize('factor', [0.5, 0.73, 1.37])
def test_segmentation_images_are_scaled_by_factor_not_by_size(image, factor):
    mask = np.random.default_rng(1).integers(0, 20, (30, 44), np.uint8)
    scaled, labels = augment.random_scale(image, mask, np.random.default_rng(0), factor, factor)
    expected = scaled_by_hand(image, factor)
    assert np.abs(scaled - expected.clip(0, 255)).max() <= 1            # fixed-point arithmetic, then rounding
    rows, columns = ([min(math.floor(x / factor), side - 1) for x in range(round(side * factor))] for side in (30, 44))
    np.testing.assert_array_equal(labels, mask[rows][:, columns])

    one, view = infer_seg.make_views(image, [1, factor], IMAGENET_NORM, None)
    mean, std = (np.array(values) for values in IMAGENET_NORM)
    np.testing.assert_array_equal(one, normalise(image))
    np.testing.assert_allclose(view.transpose(1, 2, 0), scaled_by_hand((image / 255 - mean) / std, factor), atol=1e-5)


def test_a_side_is_never_scaled_to_nothing():
    line = np.arange(3 * 40, dtype=np.float32).reshape(1, 40, 3)
    assert rescale(line, (0.3, 0.3)).shape == (1, 12, 3)
    assert [view.shape for view in infer_seg.make_views(np.zeros((1, 1, 3), np.uint8), [0.05, 0.5, 1.75],
                                                        IMAGENET_NORM, None)] == [(3, 1, 1), (3, 1, 1), (3, 2, 2)]


def test_a_backbone_with_a_size_step_sees_fitting_sizes(image):
    view, = infer_seg.make_views(image, [1.37], IMAGENET_NORM, 8)
    assert view.shape == (3, 41, 57)        # 41 x 60, each rounded to a multiple of 8 plus 1


def test_normalise_is_the_textbook_formula_and_denormalise_its_inverse(image):
    mean, std = (np.array(values) for values in IMAGENET_NORM)
    expected = ((image / 255 - mean) / std).transpose(2, 0, 1)
    network_input = normalise(image)
    assert network_input.dtype == np.float32 and network_input.flags.c_contiguous
    np.testing.assert_allclose(network_input, expected, atol=1e-6)
    np.testing.assert_allclose(denormalise(network_input).transpose(1, 2, 0) * 255, image, atol=1e-4)


def test_padding_reaches_the_next_multiple_at_right_and_bottom():
    padded = pad_to_multiple(np.ones((2, 9, 16)), 8, -1)
    assert padded.shape == (2, 16, 16) and (padded[:, 9:] == -1).all() and (padded[:, :9] == 1).all()


def test_sizes_are_rounded_and_never_zero(image):
    assert scaled_size(375, 500, 0.5) == (188, 250)
    assert scaled_size(1, 9, 0.1) == (1, 1)
    assert resize_bicubic(image, 15, 22).shape == (15, 22, 3)
    assert resize_bicubic(image, 30, 44) is image
