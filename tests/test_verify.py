import numpy as np
import pytest
from PIL import Image

from lib.files.dataspec import DatasetSpec, list_sha256
from lib.files.imageio import write_label_png
from lib.setup.datasetup import check_samples, count_files, print_lists


@pytest.fixture
def spec(tmp_path):
    """Three images of 10x12 with masks of two classes, and one without a mask."""
    spec = DatasetSpec('birds', ('wren', 'kite'), tmp_path, tmp_path, 'images/{}.jpg', ('masks/{}.png',))
    (tmp_path / 'images').mkdir()
    for name in 'abcd':
        Image.new('RGB', (12, 10)).save(tmp_path / f'images/{name}.jpg')
        if name != 'd':
            write_label_png(tmp_path / f'masks/{name}.png', np.full((10, 12), 2, np.uint8))
    (tmp_path / 'train.txt').write_text('a\nb\n')
    (tmp_path / 'val.txt').write_text('b\nc\nd\n')
    return spec


def test_each_file_is_counted_once(spec):
    for workers, decode in ((0, True), (1, True), (0, False)):
        assert check_samples(spec, ('train', 'val'), workers, decode) == (4, 3)


@pytest.mark.parametrize('change, message', [
    (lambda root: write_label_png(root / 'masks/b.png', np.full((10, 12), 3, np.uint8)), 'holds the value 3'),
    (lambda root: write_label_png(root / 'masks/b.png', np.zeros((9, 12), np.uint8)), 'has 9x12 pixels, its image'),
    (lambda root: (root / 'images/b.jpg').unlink(), 'b.jpg does not exist'),
    (lambda root: (root / 'images/b.jpg').write_bytes(b''), 'b.jpg is not a readable image'),
])
def test_a_faulty_file_is_named_with_the_remedy(spec, change, message):
    change(spec.root)
    with pytest.raises(ValueError, match=f'{message}.*; delete what is faulty, then run the same command again'):
        check_samples(spec, ('train', 'val'), 0)


def test_a_picture_that_is_cut_off_is_found_by_decoding_alone(spec):
    path = spec.root / 'images/b.jpg'
    Image.effect_noise((12, 10), 90).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    assert check_samples(spec, ('train', 'val'), 0, decode=False) == (4, 3)
    (spec.root / 'images/c.jpg').unlink()
    with pytest.raises(ValueError, match=r'b.jpg is not a readable image .*\(and 1 more\)'):
        check_samples(spec, ('train', 'val'), 0)


def test_files_are_counted_without_hidden_ones(tmp_path):
    for name in ('a', 'b', '.c'):
        (tmp_path / name).touch()
    (tmp_path / 'folder').mkdir()
    assert count_files(tmp_path) == 2 and count_files(tmp_path / 'none') == 0


def test_official_lists_are_recognised(capsys):
    official = {'train': (2, list_sha256('ab')), 'val': (1, '')}
    assert print_lists({'train': 'ab', 'val': 'x', 'test': 'abc'}, official) == []
    assert capsys.readouterr().out.splitlines() == [
        'train: 2 images, the official list', 'val: 1 images, the official list', 'test: 3 images']
    assert print_lists({'train': 'ba', 'val': 'xy'}, official) == ['train', 'val']
    assert 'train: 2 images, NOT the official list' in capsys.readouterr().out
