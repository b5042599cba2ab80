"""CAM maths against slow loops and at its edges."""
import numpy as np
import pytest
import torch

from tool.camutils import cam_label, strongest_class, with_background
from tool.seamutils import fuse_scales


def test_fused_cams_equal_slow_loop():
    maps = np.random.default_rng(0).normal(size=(8, 2, 5, 7)).astype(np.float32)
    fused = fuse_scales(torch.from_numpy(maps)).numpy()
    for k in range(2):
        total = np.array([[max(sum(maps[s, k, y, x] for s in range(8)), 0) for x in range(7)] for y in range(5)])
        low, high = total.min(), total.max()
        for (y, x), value in np.ndenumerate(total):
            value = 0 if value < low + 1e-5 else value
            expected = (value - low - 1e-5) / (high - low + 1e-5)
            assert fused[k, y, x] == pytest.approx(max(expected, 0), abs=1e-6)


def test_fused_cams_span_zero_to_one_and_leave_their_input_alone():
    maps = torch.rand(3, 2, 6, 4) * 9 + 1
    before = maps.clone()
    fused = fuse_scales(maps)
    assert fused.min() == 0 and 0.999 < fused.max() <= 1 and torch.equal(maps, before)


def test_constant_map_has_no_activation():
    assert fuse_scales(torch.full((2, 1, 4, 4), 0.3)).max() == 0
    assert fuse_scales(torch.zeros(1, 1, 4, 4)).max() == 0


def test_no_class_fuses_to_no_map():
    assert fuse_scales(torch.zeros(8, 0, 4, 5)).shape == (0, 4, 5)


def test_background_is_a_power_of_what_the_strongest_class_leaves():
    cam = np.array([[[0.0, 0.5, 1.0]], [[0.25, 0.1, 0.2]]], np.float32)
    stack = with_background(cam, 2)
    np.testing.assert_allclose(stack[0], [[0.75 ** 2, 0.25, 0]], atol=1e-7)
    assert (stack[1:] == cam).all() and stack.dtype == np.float32


def test_background_is_one_without_a_class():
    assert (with_background(np.zeros((0, 3, 4), np.float32), 24) == np.ones((1, 3, 4))).all()


@pytest.mark.parametrize('wrong', [1.5, np.nan, np.inf])
def test_background_refuses_maps_that_are_not_normalised(wrong):
    with pytest.raises(ValueError, match='fuse_scales'):
        with_background(np.full((1, 2, 2), wrong, np.float32), 6)


def test_strongest_class_equals_argmax_with_ties():
    cam = np.random.default_rng(1).integers(0, 3, (4, 9, 11)).astype(np.float32) / 2
    index, value = strongest_class(cam)
    assert (index == cam.argmax(0)).all() and (value == cam.max(0)).all()


def test_cam_label_equals_argmax_over_a_constant_background():
    rng = np.random.default_rng(2)
    keys, cam = np.array([1, 4]), (rng.integers(0, 5, (2, 6, 8)) / 4).astype(np.float32)
    for threshold in (0, 0.25, 0.3):
        full = np.zeros((7, 6, 8), np.float32)
        full[0] = threshold
        full[keys + 1] = cam
        label = cam_label(keys, cam, threshold)
        assert label.dtype == np.uint8 and (label == full.argmax(0)).all()


def test_cam_label_without_a_class_is_background():
    assert (cam_label(np.zeros(0, int), np.zeros((0, 3, 5), np.float32), 0.25) == np.zeros((3, 5))).all()
