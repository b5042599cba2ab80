"""Masks as people have them: of every depth, orientation and order of classes; right, or one line before any score."""
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lib.data.registry import get_spec
from lib.files.imageio import read_image, read_mask, write_label_png
from lib.own import __main__ as own
from tests.running import error_lines

CLASSES = ('kite', 'wren')
LABELS = {'a': ['wren'], 'b': ['kite'], 'c': ['kite', 'wren'], 'd': ['wren'], 'e': ['wren']}


@pytest.fixture
def home(tmp_path):
    """Five images of 30x20 pixels, and exact masks in the alphabetical order of the classes."""
    (tmp_path / 'photos').mkdir()
    for name, labels in LABELS.items():
        Image.new('RGB', (30, 20), (9, 9, 9)).save(tmp_path / f'photos/{name}.jpg')
        write_label_png(tmp_path / f'masks/{name}.png', mask_of(labels))
    (tmp_path / 'l.csv').write_text('image,labels\n' + ''.join(f'{n}.jpg,{";".join(ls)}\n' for n, ls in LABELS.items()))
    return tmp_path


def mask_of(labels, classes=CLASSES):
    mask = np.zeros((20, 30), np.uint8)
    for row, label in enumerate(labels):
        mask[2 + row] = classes.index(label) + 1
    return mask


def words(home, *more):
    return [str(home / 'photos'), str(home / 'l.csv'), '--masks', str(home / 'masks'), '--out', str(home / 'my.json'),
            *more]


def problems(home, capsys, *more):
    return error_lines(own.main, words(home, *more), capsys)


def make(home, *more):
    own.main(words(home, *more))
    return get_spec(str(home / 'my.json'))


def grey_png(path, values, depth):
    """A grey PNG of 1, 2, 4 or 16 bits."""
    rows = b''
    for row in values:
        bits = ''.join(f'{value:0{depth}b}' for value in row)
        bits += '0' * (-len(bits) % 8)
        rows += b'\0' + int(bits, 2).to_bytes(len(bits) // 8, 'big')
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', values.shape[1], len(values), depth, 0, 0, 0, 0)),
              (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in chunks))


@pytest.mark.parametrize('depth, largest', [(1, 1), (2, 3), (4, 15), (16, 200)])
def test_grey_masks_of_every_depth_hold_their_values(tmp_path, depth, largest):
    values = (np.arange(7 * 9) % (largest + 1)).reshape(7, 9)
    grey_png(tmp_path / 'a.png', values, depth)
    np.testing.assert_array_equal(read_mask(tmp_path / 'a.png', 201), values)


@pytest.mark.parametrize('colours', [2, 4, 16, 256])
def test_palette_masks_of_every_depth_hold_their_values(tmp_path, colours):
    values = (np.arange(20 * 30) % min(colours, 200)).reshape(20, 30).astype(np.uint8)
    image = Image.fromarray(values)
    image.putpalette([(7 * value + 3) % 256 for value in range(3 * colours)])
    image.save(tmp_path / 'a.png', bits={2: 1, 4: 2, 16: 4, 256: 8}[colours])
    np.testing.assert_array_equal(read_mask(tmp_path / 'a.png', 201), values)


def test_a_palette_that_an_optimiser_reordered_is_refused(tmp_path):
    write_label_png(tmp_path / 'a.png', np.array([[0, 2, 255]], np.uint8))
    image = Image.open(tmp_path / 'a.png')
    image.remap_palette([0, 2, 255]).save(tmp_path / 'b.png')
    with pytest.raises(ValueError, match=r'b.png has its palette in another order \(value 1 has the colour of .* 2\)'):
        read_mask(tmp_path / 'b.png', 4)
    assert read_mask(tmp_path / 'a.png', 4).tolist() == [[0, 2, 255]]


def test_masks_of_0_and_255_are_refused_with_the_value_to_use(home, capsys):
    for path in (home / 'masks').iterdir():
        Image.fromarray(np.where(read_mask(path, 3) > 0, 255, 0).astype(np.uint8)).save(path)
    assert 'masks hold only 0 and 255 (ignored); save objects with the value of their class, 1' in \
        problems(home, capsys)[0]
    assert not (home / 'my.json').exists()


@pytest.mark.parametrize('value, size, problem', [(3, (20, 30), 'a.png holds the value 3; expected 0 to 2 or 255'),
                                                  (1, (30, 20), 'a.png is 20x30 pixels, its image 30x20')])
def test_masks_of_other_values_or_sizes_are_named(home, capsys, value, size, problem):
    write_label_png(home / 'masks/a.png', np.full(size, value, np.uint8))
    assert problem in problems(home, capsys)[0]


def turn(home, tag, name='a', stored=False):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.new('RGB', (30, 20)).save(home / f'photos/{name}.jpg', exif=exif)
    if tag > 4 and not stored:
        write_label_png(home / f'masks/{name}.png', mask_of(LABELS[name]).T.copy())


@pytest.mark.parametrize('tag', [2, 3, 4])
def test_masks_of_half_turned_images_are_a_question(home, capsys, tag):
    turn(home, tag)
    line = problems(home, capsys)[0]
    assert '1 images with masks are rotated by EXIF (a.jpg): are the masks drawn on the rotated images' in line
    assert make(home, '--mask-orientation', 'upright').upright
    assert not make(home, '--mask-orientation', 'stored').upright


def test_a_quarter_turn_answers_the_question(home, capsys):
    turn(home, 6)
    turn(home, 3, 'b')
    assert make(home).upright
    turn(home, 6, stored=True)
    write_label_png(home / 'masks/a.png', mask_of(LABELS['a']))
    assert 'the masks fit their pixels as stored: --mask-orientation stored' in problems(home, capsys)[0]
    spec = make(home, '--mask-orientation', 'stored')
    sample, = (sample for split in ('train', 'val') for sample in spec.samples(split) if sample.name == 'a')
    assert read_image(sample.image, **spec.reading).shape[:2] == read_mask(sample.mask, 3).shape
    assert 'a.png is 30x20 pixels, its image 20x30' in problems(home, capsys, '--mask-orientation', 'upright')[0]


def test_masks_in_another_order_of_classes_are_found_with_the_order(home, capsys):
    for name, labels in LABELS.items():
        write_label_png(home / f'masks/{name}.png', mask_of(labels, ('wren', 'kite')))
    line = problems(home, capsys)[0]
    assert '4 masks show other classes than the labels (a.png shows kite, labelled wren); they agree better in ' \
        'another order: --classes "wren" "kite"' in line
    assert make(home, '--classes', 'wren', 'kite').classes == ('wren', 'kite')
    make(home, '--classes', 'kite', 'wren')
    assert 'is the order of the classes right? It is kite, wren' in capsys.readouterr().out


@pytest.mark.parametrize('flat', [True, False])
def test_masks_lie_in_the_subfolders_of_their_images_or_all_in_one(home, capsys, flat):
    (home / 'photos/x').mkdir()
    (home / 'photos/a.jpg').rename(home / 'photos/x/a.jpg')
    if not flat:
        (home / 'masks/x').mkdir()
        (home / 'masks/a.png').rename(home / 'masks/x/a.png')
    spec = make(home)
    assert sum(sample.mask is not None for split in ('train', 'val') for sample in spec.samples(split)) == 5
    (home / 'photos/y').mkdir()
    (home / 'photos/x/a.jpg').rename(home / 'photos/y/a.jpg')
    Image.new('RGB', (30, 20)).save(home / 'photos/x/a.jpg')
    (home / 'l.csv').write_text((home / 'l.csv').read_text().replace('a.jpg', 'x/a.jpg') + 'y/a.jpg,wren\n')
    if flat:
        assert 'masks has a.png for y/a.jpg and x/a.jpg; put masks into the same sub' in problems(home, capsys)[0]
    else:
        make(home)
