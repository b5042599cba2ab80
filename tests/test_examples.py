import json
import shutil

import numpy as np
import pytest
from PIL import Image

from lib.data.labelio import write_maps, write_seeds
from lib.data.registry import read_spec
from lib.data.toy import write_set
from lib.files.dataspec import Sample
from lib.files.imageio import read_image, write_label_png
from lib.files.jsonfile import write_json
from lib.report import examples as rows


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    out = tmp_path_factory.mktemp('toy')
    write_set(out, train=2, val=5)
    return out


def columns_of(toy, exp, name):
    """Titles of what a run holds for an image."""
    spec = read_spec(toy)
    sample = next(sample for sample in spec.samples('val') if sample.name == name)
    outputs = rows.read_outputs(sample, spec, 'val', exp / 'toy', [0.25])
    return [*rows.draw_row(sample, read_image(sample.image), outputs)]


def image_size(toy, name):
    with Image.open(toy / f'images/{name}.jpg') as image:
        return image.height, image.width


def write_cam(toy, exp, name, split='val'):
    maps = np.linspace(0, 1, 2 * np.prod(image_size(toy, name)), dtype=np.float32).reshape(2, *image_size(toy, name))
    write_maps(exp / f'toy/labels/{split}/cam/{name}.npz', [0, 3], maps)
    return maps


def test_every_output_that_is_there_gets_a_column(toy, tmp_path):
    name = 'val_00001'
    maps = write_cam(toy, tmp_path, name)
    assert columns_of(toy, tmp_path, name) == ['image', 'CAM', 'CAM at 0.25', 'ground truth']
    scores = np.concatenate([1 - maps.max(0, keepdims=True), maps])
    write_seeds(tmp_path / f'toy/labels/val/seeds/{name}.npz', [0, 3], {1.0: scores, 24.0: scores})
    for folder in ('labels/val/walk', 'results/val'):
        write_label_png(tmp_path / f'toy/{folder}/{name}.png', maps.argmax(0))
    assert columns_of(toy, tmp_path, name) == [column.format(0.25) for column in rows.COLUMNS]


def test_images_are_evenly_spaced_over_the_list():
    samples = [Sample(str(number), None, None) for number in range(12)]
    assert [int(sample.name) for sample in rows.evenly_spaced(samples, 3)] == [2, 6, 10]
    assert rows.evenly_spaced(samples, 12) == rows.evenly_spaced(samples, 99) == samples


def test_threshold_is_the_chosen_score_else_the_newest_best_of_the_split_else_what_the_run_chose(tmp_path):
    def record(split, best, what='cam', **first):
        return {'what': what, 'split': split,
                'results': [{'threshold': 0.25, **first}, {'threshold': best, 'best': True}]}
    scores = [record('val', 0.31), record('val', 0.33), record('train', 0.4)]
    assert rows.shown_threshold(scores, 'val', tmp_path) == 0.33
    assert rows.shown_threshold(scores, 'train', tmp_path) == 0.4
    assert rows.shown_threshold([*scores, record('val', 0.5, chosen=True)], 'val', tmp_path) == 0.25
    assert rows.shown_threshold(scores, 'test', tmp_path) == rows.shown_threshold([], 'val', tmp_path) == 0.25
    write_json(tmp_path / 'cam/background.json', {'origin': {'network': ''}, 'background_score': 0.6, 'alpha': 0.557,
                                                  'seed_alphas': [0.41, 3.376]})
    assert rows.shown_threshold(scores, 'val', tmp_path) == 0.33 and rows.shown_threshold([], 'val', tmp_path) == 0.6


def test_seeds_show_what_both_strengths_are_sure_of(tmp_path):
    low, high = np.zeros((2, 3, 1, 4), np.float32)
    low[[1, 0, 2, 1], 0, range(4)] = 1          # class 4, background, class 9, class 4
    high[[1, 2, 0, 0], 0, range(4)] = 1         # class 4, class 9, background, background
    write_seeds(tmp_path / 'a.npz', [3, 8], {1.0: low, 24.0: high})
    assert rows.seeds_label(tmp_path / 'a.npz', 9).tolist() == [[4, 255, 0, 0]]


def test_output_of_another_size_is_named(toy, tmp_path):
    write_label_png(tmp_path / 'toy/results/val/val_00002.png', np.zeros((5, 7), np.uint8))
    with pytest.raises(ValueError, match='segmentation of val_00002 is 5x7'):
        columns_of(toy, tmp_path, 'val_00002')


def test_data_set_without_masks_has_no_ground_truth_column(toy, tmp_path):
    bare = tmp_path / 'bare'
    shutil.copytree(toy, bare)
    description = json.loads((bare / 'dataset.json').read_text())
    del description['masks']
    (bare / 'dataset.json').write_text(json.dumps(description))
    write_cam(bare, tmp_path, 'val_00000')
    assert columns_of(bare, tmp_path, 'val_00000') == ['image', 'CAM', 'CAM at 0.25']
