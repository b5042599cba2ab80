import numpy as np
import pytest
from pycocotools import mask as run_length

from coco.prepare import paint_mask


def annotation(category, segmentation):
    return {'category_id': category, 'segmentation': segmentation}


def square(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def test_value_is_the_rank_of_the_category_id():
    mask = paint_mask([annotation(90, [square(0, 0, 1, 1)])], [90, 1, 13], 4, 4)
    assert mask.dtype == np.uint8 and mask[0, 0] == 3 and mask[3, 3] == 0


def test_later_annotation_lies_over_an_earlier_one():
    shapes = [annotation(1, [square(0, 0, 5, 5)]), annotation(2, [square(3, 3, 7, 7)])]
    assert paint_mask(shapes, [1, 2], 8, 8)[4, 4] == 2
    assert paint_mask(shapes[::-1], [1, 2], 8, 8)[4, 4] == 1


def test_points_are_truncated_and_the_border_belongs_to_the_polygon():
    mask = paint_mask([annotation(1, [square(1.9, 1.9, 3.9, 3.9)])], [1], 6, 6)
    expected = np.zeros((6, 6), np.uint8)
    expected[1:4, 1:4] = 1
    np.testing.assert_array_equal(mask, expected)


def test_both_forms_of_run_lengths_are_decoded():
    inside = np.zeros((6, 9), np.uint8)
    inside[2:4, 3:8] = 1
    compressed = run_length.encode(np.asfortranarray(inside))
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, inside.T.ravel(), 2])))
    plain = {'size': [6, 9], 'counts': [int(run) for run in runs]}
    for form in (plain, compressed, compressed | {'counts': compressed['counts'].decode()}):
        np.testing.assert_array_equal(paint_mask([annotation(5, form)], [5], 6, 9), inside)


def test_faulty_annotations_are_refused():
    with pytest.raises(ValueError, match='unknown category 3'):
        paint_mask([annotation(3, [])], [1, 2], 4, 4)
    with pytest.raises(ValueError, match='annotation '):
        paint_mask([annotation(1, {'size': [2, 2], 'counts': [4]})], [1], 4, 4)


def test_image_without_annotations_is_background():
    assert not paint_mask([], [1], 3, 5).any()


@pytest.mark.parametrize('rule', ['reference', 'coco'])
@pytest.mark.parametrize('shapes', [[], [[]], [[5., 5.]], [[5., 5., 9., 9.]]])
def test_polygons_without_an_area_are_left_out(rule, shapes):
    square = [1., 1., 6., 1., 6., 6., 1., 6.]
    assert not paint_mask([annotation(1, shapes)], [1], 9, 9, rule).any()
    np.testing.assert_array_equal(paint_mask([annotation(1, [square, *shapes])], [1], 9, 9, rule),
                                  paint_mask([annotation(1, [square])], [1], 9, 9, rule))


@pytest.mark.parametrize('rule', ['reference', 'coco'])
@pytest.mark.parametrize('shapes', [[[2, 2, 20, 2, 20]], [2, 2, 20, 2, 20, 20], [[2, 2, 9, None, 9, 9]],
                                    {'counts': 'x', 'size': [3, 3]}, {'size': [9, 9]}])
def test_an_invalid_segmentation_is_named_by_its_annotation(rule, shapes):
    with pytest.raises(ValueError, match='annotation 7: '):
        paint_mask([{'id': 7, **annotation(1, shapes)}], [1], 9, 9, rule)
