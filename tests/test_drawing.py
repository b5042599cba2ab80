import numpy as np
import pytest

from tool.drawing import blend, boxed, grey, heat, legend, magnified, side_by_side, stacked, titled

PALETTE = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)


def plain(height, width, value=100):
    return np.full((height, width, 3), value, np.uint8)


def test_blend_leaves_background_and_its_input_alone():
    image, mask = plain(4, 6), np.zeros((4, 6), np.uint8)
    mask[:2] = 200
    mixed = blend(image, mask, PALETTE, opacity=0.5)
    assert (mixed[:2] == 150).all() and (mixed[2:] == 100).all() and (image == 100).all()


def test_heat_is_warm_where_values_are_high():
    picture = heat(plain(1, 2, 0), np.array([[0.1, 0.9]])).astype(int)
    assert picture[0, 0, 2] > picture[0, 0, 0] and picture[0, 1, 0] > picture[0, 1, 2]


def test_grey_clips_and_magnified_repeats_pixels():
    picture = grey(np.array([[-1.0, 0.5, 2.0]]))
    assert picture[0, :, 0].tolist() == [0, 127, 255]
    large = magnified(picture, 3)
    assert large.shape == (3, 9, 3) and (large[:, 3:6] == 127).all()
    assert magnified(np.zeros((2, 3), np.uint8), 8).shape == (16, 24)


@pytest.mark.parametrize('height, width', [(10, 30), (30, 10), (200, 60), (1, 1), (500, 9)])
def test_boxed_keeps_proportions_and_centres(height, width):
    box = boxed(plain(height, width, 0), 40, 60)
    assert box.shape == (40, 60, 3)
    rows, columns = np.flatnonzero((box == 0).any((1, 2))), np.flatnonzero((box == 0).any((0, 2)))
    assert abs((rows[0] + rows[-1]) - 39) <= 1 and abs((columns[0] + columns[-1]) - 59) <= 1
    assert len(rows) == 40 or len(columns) == 60
    assert abs(len(rows) * width - len(columns) * height) <= max(height, width)


def test_title_stands_above_the_picture():
    picture = titled(plain(5, 80), 'CAM')
    assert picture.shape[1] == 80 and (picture[-5:] == 100).all()
    assert (picture[:-5] < 128).any() and (picture[0] == 255).all()


def test_title_wider_than_the_picture_is_cut_off_at_the_right():
    assert titled(plain(5, 10), 'segmentation').shape[1] == 10


def test_legend_wraps_to_the_width_and_shows_every_colour():
    colours = {f'class {number}': (number, 0, 250) for number in range(8)}
    narrow, wide = legend(colours, 150), legend(colours, 2000)
    assert narrow.shape[1] == 150 and len(narrow) > len(wide)
    for picture in (narrow, wide):
        for colour in colours.values():
            assert (picture == colour).all(-1).any()


def test_legend_of_nothing_is_blank():
    assert (legend({}, 50) == 255).all()


def test_panels_join_with_gaps():
    assert side_by_side([plain(4, 5), plain(4, 6)], gap=2).shape == (4, 13, 3)
    sheet = stacked([plain(4, 5), plain(3, 9)], gap=2)
    assert sheet.shape == (9, 9, 3) and (sheet[:4, 5:] == 255).all() and (sheet[4:6] == 255).all()
