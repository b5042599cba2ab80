import importlib.util
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from lib.files.imageio import (
    IMAGE_SUFFIXES,
    check_intact,
    read_image,
    read_mask,
    read_size,
    voc_palette,
    write_label_png,
)


@pytest.fixture
def picture():
    rows, columns = np.mgrid[:24, :32]
    return np.stack([rows * 8, columns * 6, 255 - rows * 4], -1).astype(np.uint8)


def save(picture, path, mode):
    Image.fromarray(picture).convert(mode).save(path)
    return path


@pytest.mark.parametrize('mode, name', [('L', 'a.png'), ('L', 'a.jpg'), ('CMYK', 'a.jpg'), ('P', 'a.png'),
                                        ('1', 'a.png'), ('LA', 'a.png'), ('RGBA', 'a.png'), ('RGB', 'a.png')])
def test_every_kind_of_picture_becomes_rgb(picture, tmp_path, mode, name):
    image = read_image(save(picture, tmp_path / name, mode))
    assert image.shape == (24, 32, 3) and image.dtype == np.uint8
    if mode in ('RGB', 'RGBA'):
        np.testing.assert_array_equal(image, picture)


def test_alpha_is_dropped_and_not_blended(picture, tmp_path):
    transparent = np.concatenate([picture, np.zeros_like(picture[..., :1])], -1)
    Image.fromarray(transparent).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), picture)


def test_sixteen_bits_become_eight(tmp_path):
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png')[..., 1], grey // 257)


@pytest.mark.parametrize('scale, kind', [(1 / 255, np.float32), (1, np.float32), (1, np.uint16), (16, np.uint16),
                                         (257, np.uint16), (257, np.int32), (257, np.float32)])
def test_float_12_bit_and_32_bit_images_come_out_as_bright_as_they_are(tmp_path, scale, kind):
    grey = np.linspace(0, 255, 30 * 40).round().reshape(30, 40)
    Image.fromarray((grey * scale).astype(kind)).save(tmp_path / 'a.tif')
    check_intact(tmp_path / 'a.tif')
    assert np.abs(read_image(tmp_path / 'a.tif')[..., 2].astype(float) - grey).max() <= 1


def test_the_largest_value_that_the_file_names_is_white(tmp_path):
    Image.fromarray(np.full((9, 9), 500, np.uint16)).save(tmp_path / 'a.tif', tiffinfo={281: 1000})
    assert (read_image(tmp_path / 'a.tif') == 128).all()


@pytest.mark.parametrize('value, kind', [(-1, np.float32), (np.nan, np.float32), (1e9, np.float32), (70000, np.int32)])
def test_values_of_no_known_range_are_refused_in_one_line(tmp_path, value, kind):
    values = np.full((9, 9), 0.5 if kind == np.float32 else 5, kind)
    values[2, 3] = value
    Image.fromarray(values).save(tmp_path / 'a.tif')
    for read in (read_image, check_intact):
        with pytest.raises(ValueError, match=r'a\.tif is not a readable image \(values from .* expected 0 to 1'):
            read(tmp_path / 'a.tif')


def test_colour_of_12_bits_in_16_is_refused_and_not_read_as_black(picture, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), picture.astype(np.uint16) * 16)
    with pytest.raises(ValueError, match='16-bit colour with at most 12 bits used: save it with 8'):
        read_image(tmp_path / 'a.png')
    cv2.imwrite(str(tmp_path / 'b.png'), picture[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / 'b.png'), picture)


@pytest.mark.parametrize('ending', [ending for ending in IMAGE_SUFFIXES if ending not in ('.heic', '.heif')])
def test_every_ending_is_read_and_a_cut_file_is_found(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    path, kind = tmp_path / f'a{ending}', {'.pgm': 'PPM', '.jfif': 'JPEG', '.jpe': 'JPEG'}.get(ending)
    Image.fromarray(noise).convert('L' if ending == '.pgm' else 'RGB').save(path, format=kind)
    check_intact(path)
    assert read_image(path).shape == (60, 80, 3)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match='is not a readable image'):
        check_intact(path)


def test_heic_is_read_or_names_what_it_needs(picture, tmp_path, monkeypatch):
    path = tmp_path / 'a.heic'
    if importlib.util.find_spec('pillow_heif'):
        import pillow_heif
        pillow_heif.from_pillow(Image.fromarray(np.tile(picture, (4, 4, 1)))).save(path)
        assert read_image(path).shape == (96, 128, 3)
    path.write_bytes(b'not read')
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    with pytest.raises(ValueError, match=r'a\.heic is not a readable image \(HEIC needs pillow-heif: pip install'):
        check_intact(path)


def test_exif_rotation_is_not_applied(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / 'a.jpg', exif=exif)
    assert read_image(tmp_path / 'a.jpg').shape == (24, 32, 3)


def test_unreadable_pictures_are_named(picture, tmp_path):
    Image.fromarray(np.tile(picture, (8, 8, 1))).save(tmp_path / 'cut.jpg')
    content = (tmp_path / 'cut.jpg').read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(content[:len(content) // 2])
    (tmp_path / 'text.jpg').write_text('no picture')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    for name in ('cut.jpg', 'text.jpg', 'empty.jpg'):
        with pytest.raises(ValueError, match=rf'{name} is not a readable image .*; restore it') as caught:
            read_image(tmp_path / name)
        assert '\n' not in str(caught.value)
    assert read_size(tmp_path / 'cut.jpg') == (24 * 8, 32 * 8)
    with pytest.raises(FileNotFoundError, match='absent.jpg does not exist'):
        read_image(tmp_path / 'absent.jpg')


def test_labels_survive_writing_and_reading(tmp_path):
    mask = np.array([[0, 1, 2], [5, 6, 255]], np.uint8)
    write_label_png(tmp_path / 'new/a.png', mask)
    np.testing.assert_array_equal(read_mask(tmp_path / 'new/a.png', 7), mask)
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['a.png']
    with Image.open(tmp_path / 'new/a.png') as file:
        assert file.mode == 'P' and file.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]


def test_mask_errors_name_the_file_and_the_value(picture, tmp_path):
    write_label_png(tmp_path / 'a.png', np.array([[0, 9]], np.uint8))
    with pytest.raises(ValueError, match=r'a\.png holds the value 9; expected 0 to 6 or 255'):
        read_mask(tmp_path / 'a.png', 7)
    save(picture, tmp_path / 'rgb.png', 'RGB')
    with pytest.raises(ValueError, match=r'rgb\.png is an image of mode RGB'):
        read_mask(tmp_path / 'rgb.png', 7)
    with pytest.raises(FileNotFoundError, match='b.png does not exist'):
        read_mask(tmp_path / 'b.png', 7)


def test_palette_holds_the_known_voc_colours():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette[[0, 1, 12]].tolist() == [[0, 0, 0], [128, 0, 0], [64, 0, 128]]
    assert palette[[15, 255]].tolist() == [[192, 128, 128], [224, 224, 192]]
