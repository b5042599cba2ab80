import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib.multiscale import multi_scale
from tool.imutils import resize_bicubic, scaled_size

CPU = torch.device('cpu')
SCALES = (0.5, 1.0, 1.5)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (11, 18, 3), dtype=np.uint8)


def views_of(image, scales=SCALES):
    sizes = [scaled_size(*image.shape[:2], scale) for scale in scales]
    return [np.ascontiguousarray(resize_bicubic(image, *size).transpose(2, 0, 1), dtype=np.float32) for size in sizes]


@pytest.mark.parametrize('align_corners', [False, True])
def test_each_scale_and_its_mirror_come_back_at_the_size_of_the_image(image, align_corners):
    inputs = []

    def forward(views):
        inputs.append(views)
        return views[:, :2, ::2, ::2]                   # two maps, half as large

    maps = list(multi_scale(views_of(image), (11, 18), forward, CPU, align_corners))
    assert [tuple(part.shape) for part in maps] == [(2, 2, 11, 18)] * 3
    assert [tuple(views.shape) for views in inputs] == [(2, 3, *scaled_size(11, 18, scale)) for scale in SCALES]
    for view, views, found in zip(views_of(image), inputs, maps, strict=True):
        view = torch.from_numpy(view)
        assert torch.equal(views, torch.stack([view, view.flip(-1)]))
        for one, mirrored, result in ((view, False, found[0]), (view.flip(-1), True, found[1])):
            expected = F.interpolate(one[None, :2, ::2, ::2], (11, 18), mode='bilinear', align_corners=align_corners)[0]
            assert torch.equal(result, expected.flip(-1) if mirrored else expected)


def test_a_network_that_looks_at_single_pixels_gives_both_mirrors_alike(image):
    first, = multi_scale(views_of(image, [1.0]), (11, 18), lambda views: views.square(), CPU, align_corners=False)
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], torch.from_numpy(views_of(image, [1.0])[0]).square())


def test_half_precision_maps_come_back_as_float32_without_gradient(image):
    weight = torch.ones((), requires_grad=True)
    maps = list(multi_scale(views_of(image), (11, 18), lambda views: (views * weight).bfloat16(), CPU, True))
    assert all(part.dtype == torch.float32 and not part.requires_grad for part in maps)


def test_a_tiny_image_keeps_one_pixel_at_least():
    image = np.full((1, 1, 3), 7, np.uint8)
    part, = multi_scale(views_of(image, [0.25]), (1, 1), lambda views: views, CPU, align_corners=False)
    assert part.shape == (2, 3, 1, 1) and (part == 7).all()
