import json

import numpy as np
import pytest
from PIL import Image

from lib.data.registry import get_spec
from lib.data.toy import main, write_set
from lib.data.toy_draw import CLASSES, close_ups, draw
from lib.files.imageio import read_image, read_mask
from tests.running import error_line


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('toy')
    write_set(out, seed=3, train=24, val=6)
    return out


def test_image_depends_on_seed_split_and_index_alone():
    image, mask, names = draw(0, 'train', 5)
    again = draw(0, 'train', 5)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(mask, again[1])
    assert names == again[2]
    for other in ((1, 'train', 5), (0, 'val', 5), (0, 'train', 6)):
        assert draw(*other)[0].tobytes() != image.tobytes()


def test_masks_fit_the_images_and_have_a_rim_and_every_class_is_in_about_a_quarter_of_them():
    uprights, counts = 0, np.zeros(len(CLASSES))
    for index in range(100):
        image, mask, names = draw(1, 'train', index)
        assert image.shape[:2] == mask.shape and max(mask.shape) == 128 and min(mask.shape) >= 92
        values = set(np.unique(mask)) - {0, 255}
        assert {CLASSES[value - 1] for value in values} <= set(names) and names
        assert 0.01 < (mask == 255).mean() < 0.25 and (mask == 0).mean() > 0.25
        uprights += mask.shape[0] > mask.shape[1]
        counts += [name in names for name in CLASSES]
    assert counts.min() > 0.12 * 100 and counts.max() < 0.42 * 100 and 16 <= uprights <= 45


def test_written_set_is_read_like_any_folder(folder):
    spec = get_spec('toy', root=folder)
    assert (spec.name, spec.classes, spec.preset) == ('toy', CLASSES, 'toy')
    for split, count in (('train', 24), ('val', 6)):
        samples = spec.samples(split)
        assert len(samples) == count
        spec.check(split, need_masks=True)
        for sample, labels in zip(samples, spec.image_labels([sample.name for sample in samples])):
            mask = read_mask(sample.mask, spec.num_classes)
            assert read_image(sample.image).shape[:2] == mask.shape
            assert set(np.unique(mask)) - {0, 255} == set(labels.nonzero()[0] + 1)


def test_drawing_again_does_nothing_or_asks_for_fresh(folder, capsys):
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    assert not write_set(folder, seed=3, train=24, val=6)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == stamps
    line = error_line(main, ['--out', folder, '--seed', '4', '--train', '24', '--val', '6'], capsys)
    assert 'holds another toy set (python -m lib.data.toy ' in line
    assert '--seed 3 --train 24 --val 6); replace it with --fresh' in line


def test_a_set_that_other_code_drew_is_refused(tmp_path, capsys):
    write_set(tmp_path, train=1, val=1)
    image = tmp_path / 'images/train_00000.jpg'
    Image.open(image).point(lambda value: 255 - value).save(image)
    line = error_line(main, ('--out', tmp_path, '--train', '1', '--val', '1'), capsys)
    assert 'was drawn by other code; replace it with --fresh' in line


def test_fresh_leaves_nothing_of_the_earlier_set(tmp_path):
    write_set(tmp_path, seed=0, train=4, val=2)
    (tmp_path / 'mine.txt').write_text('kept')
    main(['--out', str(tmp_path), '--seed', '1', '--train', '2', '--val', '1', '--fresh'])
    assert len(list((tmp_path / 'images').iterdir())) == 3
    assert (tmp_path / 'mine.txt').exists()
    assert ' --seed 1 ' in json.loads((tmp_path / 'dataset.json').read_text())['prepare']


def test_close_ups_show_one_class_each_or_background():
    images, labels = close_ups(40, 48, 0)
    assert images.shape == (40, 48, 48, 3) and images.dtype == np.uint8 and labels.dtype == np.int64
    assert set(labels) == set(range(len(CLASSES) + 1))
    np.testing.assert_array_equal(images, close_ups(40, 48, 0)[0])
    assert close_ups(40, 48, 1)[0].tobytes() != images.tobytes()
