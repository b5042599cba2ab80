import numpy as np

from tool.drawing import blend, heat, legend, magnified, side_by_side, stacked

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


def test_magnified_repeats_pixels():
    large = magnified(np.array([[0, 127, 255]], np.uint8)[..., None].repeat(3, axis=2), 3)
    assert large.shape == (3, 9, 3) and (large[:, 3:6] == 127).all()
    assert magnified(np.zeros((2, 3), np.uint8), 8).shape == (16, 24)


def test_legend_wraps_to_the_width_and_shows_every_colour():
    colours = {f'class {number}': (number, 0, 250) for number in range(8)}
    narrow, wide = legend(colours, 150), legend(colours, 2000)
    assert narrow.shape[1] == 150 and len(narrow) > len(wide)
    for picture in (narrow, wide):
        for colour in colours.values():
            assert (picture == colour).all(-1).any()


def test_legend_of_nothing_is_blank():
    assert (legend({}, 50) == 255).all()


def test_images_join_with_gaps():
    assert side_by_side([plain(4, 5), plain(4, 6)], gap=2).shape == (4, 13, 3)
    sheet = stacked([plain(4, 5), plain(3, 9)], gap=2)
    assert sheet.shape == (9, 9, 3) and (sheet[:4, 5:] == 255).all() and (sheet[4:6] == 255).all()
