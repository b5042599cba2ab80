"""Every stage on images without any class, as some of COCO are: the worst possible batch."""
import importlib
import json

import numpy as np
import pytest
from PIL import Image

from lib.files.imageio import read_mask, write_label_png
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING

NAMES = [f'{number:012d}' for number in (9, 391895, 581921, 42)]
WITH_ANOTHER = [*NAMES, 'shows_a_cat']      # not among the first four, which are used
STEPS = ('--max-steps', '1', '--picture-every', '0', '--weights', 'none')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """(folder of the run, losses by stage) after all stages on the four grey images without any class."""
    folder = tmp_path_factory.mktemp('empty')
    rng = np.random.default_rng(0)
    (folder / 'data/Images').mkdir(parents=True)
    (folder / 'lists').mkdir()
    for name in WITH_ANOTHER:
        Image.fromarray(rng.integers(256, size=(70, 90), dtype=np.uint8)).save(folder / f'data/Images/{name}.jpg')
        write_label_png(folder / f'data/Masks/{name}.png', np.zeros((70, 90), np.uint8))
    for split in ('train2014', 'val2014'):
        (folder / f'lists/{split}.txt').write_text(''.join(f'{name}\n' for name in WITH_ANOTHER))
    (folder / 'lists/labels.txt').write_text('\n'.join(WITH_ANOTHER) + '\tcat\n')
    places = ('--dataset', 'coco', '--data-root', str(folder / 'data'), '--lists', str(folder / 'lists'), '--exp',
              str(folder / 'exp'), '--limit', '4', *LOADED_HERE)
    for script, *words in (
            ('train_cam_coco', *CAM_TRAINING, *STEPS, '--empty-classes', 'allow'),
            ('infer_cam', *NETWORK, *SCALES), ('eval', '--what', 'cam', '--split', 'train2014'),
            ('train_aff', *TRAINING, *STEPS),
            ('infer_aff', *NETWORK), ('eval', '--what', 'walk', '--split', 'train2014'),
            ('train_seg', *TRAINING, *STEPS, *HEAD), ('infer_seg', *NETWORK, *HEAD, *SCALES),
            ('eval', '--what', 'seg', '--split', 'val2014')):
        importlib.import_module(script).main([*places, *words])
    return folder / 'exp/coco'


@pytest.mark.parametrize('stage', ['cam', 'aff', 'seg'])
def test_training_has_finite_losses(run, stage):
    lines = [json.loads(line) for line in (run / stage / 'metrics.jsonl').read_text().splitlines()]
    assert lines and all(np.isfinite(value) for line in lines for value in line.values())


def test_pseudo_labels_are_background(run):
    for name in NAMES:
        mask = read_mask(run / f'labels/train2014/walk/{name}.png', 2)
        assert mask.shape == (70, 90) and not mask.any()


def test_background_alone_is_scored(run):
    scores = json.loads((run / 'scores.json').read_text())
    assert [score['what'] for score in scores] == ['cam', 'walk', 'seg']
    for score in scores[:2]:
        for result in score['results']:
            assert result['miou'] == pytest.approx(100 / len(score['classes']), abs=1e-3)
