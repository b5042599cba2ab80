"""A drawn set in COCO's shape through config_coco.sh and run_coco.sh as they are, on the CPU, to its scores."""
import contextlib
import importlib
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coco.dataset import COCO_CLASSES
from lib.data.labelio import read_maps, read_seeds
from lib.data.registry import get_spec
from lib.files.imageio import read_image, read_mask
from tests.coco_toy import write_archives
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, SCALES
from tests.serving import serving

ROOT = Path(__file__).parent.parent
TRAIN, VAL, EMPTY = 7, 3, 2         # EMPTY: place in each list of the picture without any object
FLAGS = (*CAM_TRAINING, *SCALES, *HEAD, *LOADED_HERE, '--max-steps', '2', '--weights', 'none', '--picture-every', '0',
         '--train_cam:picture-every', '2', '--empty-classes', 'allow', '--protocol', 'strict')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """(folder of the run, data set, what the last evaluation printed).

    The commands that a dry run of run_coco.sh echoes are run in this process, which spares sixteen starts of Python.
    """
    folder = tmp_path_factory.mktemp('coco')
    write_archives(folder / 'served', TRAIN, VAL)
    places = ['--data-root', folder / 'data', '--lists', folder / 'lists']
    with serving(folder / 'served') as server:
        shell('config_coco.sh', *places, '--archives', folder / 'archives', '--mirror', server.url, '--part',
              '--workers', '0')
    printed = {}
    for line in shell('run_coco.sh', *places, *FLAGS, '--exp', folder / 'exp', '--dry-run').splitlines():
        if line.startswith('+ '):
            _, script, *words = shlex.split(line[2:])
            if script == '-m':
                script, words = f'{words[0]}.__main__', words[1:]
            with contextlib.redirect_stdout(io.StringIO()) as text:
                importlib.import_module(script.removesuffix('.py')).main(words)
            printed[script] = text.getvalue()
    return folder / 'exp/coco', get_spec('coco', folder / 'data', folder / 'lists'), printed['eval.py']


def shell(script, *words):
    """What a shell script prints."""
    return subprocess.run([ROOT / script, *map(str, words)], check=True, text=True, stdout=subprocess.PIPE,
                          env={**os.environ, 'PYTHON': sys.executable}).stdout


def test_every_stage_is_scored_on_both_lists(finished):
    run, spec, text = finished
    scores = json.loads((run / 'scores.json').read_text())
    assert {(score['what'], score['split']) for score in scores} == {
        (what, split) for what in ('cam', 'walk', 'seg') for split in ('train2014', 'val2014')}
    assert {score['split']: score['images'] for score in scores} == {'train2014': TRAIN, 'val2014': VAL}
    assert all(score['classes'] == ['background', *COCO_CLASSES] for score in scores)
    assert all(0 <= result['miou'] < 100 for score in scores for result in score['results'])
    assert all(result['miou'] > 0 for score in scores if score['what'] == 'cam' for result in score['results'])
    assert 'segmentation' in text and 'Images: 3 (val2014), 7 (train2014)' in text


def test_a_picture_without_any_class_goes_through_every_stage(finished):
    run, spec, _ = finished
    for split in ('train2014', 'val2014'):
        sample = spec.samples(split)[EMPTY]
        assert not spec.image_labels([sample.name]).any()
        size = read_image(sample.image).shape[:2]
        keys, maps = read_maps(run / f'labels/{split}/cam/{sample.name}.npz')
        assert not len(keys) and maps.shape == (0, *size)
        walk = read_mask(run / f'labels/{split}/walk/{sample.name}.png', spec.num_classes)
        assert walk.shape == size and not walk.any()
        assert read_mask(run / f'results/{split}/{sample.name}.png', spec.num_classes).shape == size
    keys, seeds = read_seeds(run / f'labels/train2014/seeds/{spec.samples("train2014")[EMPTY].name}.npz')
    assert not len(keys) and all(scores.shape[0] == 1 and (scores == 1).all() for scores in seeds.values())


def test_grey_pictures_and_names_of_twelve_digits_are_like_others(finished):
    run, spec, _ = finished
    sample = spec.samples('train2014')[1]
    image = read_image(sample.image)
    assert (image[..., 0] == image[..., 1]).all() and len(sample.name) == 12
    keys, _ = read_maps(run / f'labels/train2014/cam/{sample.name}.npz')
    assert np.array_equal(keys, np.flatnonzero(spec.image_labels([sample.name])[0])) and len(keys)


def test_the_settings_are_those_of_coco(finished):
    run, _, _ = finished
    settings = json.loads((run / 'cam/args.json').read_text())
    assert settings['dataset'] == 'coco' and settings['fsl_weight'] == 0.2 and settings['epochs'] == 8
