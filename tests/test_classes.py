"""Class names are compared, by name and order, between data set, networks and label files, in every stage."""
import json
import shutil

import pytest

import eval as evaluation
import infer_aff
import infer_cam
import infer_seg
import train_aff
import train_cam_voc
import train_seg
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, error_line, place

CLASSES = 'bolt fish gear kite pear star'


@pytest.fixture(params=['other order', 'other name', 'one letter'])
def other(request, run_folder, toy, tmp_path):
    """(a run of toy, whose data set now has its classes otherwise; how to run each stage; the names)."""
    data = tmp_path / 'data'
    shutil.copytree(toy.parent, data)
    settings = json.loads((data / 'dataset.json').read_text())
    before = settings['classes']
    assert ' '.join(before) == CLASSES
    settings['classes'] = {'other order': before[::-1], 'other name': ['nut', *before[1:]],
                           'one letter': ['Bolt', *before[1:]]}[request.param]
    (data / 'dataset.json').write_text(json.dumps(settings))
    labels = data / 'lists/labels.txt'
    if request.param != 'other order':
        labels.write_text(labels.read_text().replace('bolt', settings['classes'][0]))
    shutil.copytree(run_folder, tmp_path / 'toy')
    common = (*place(data / 'dataset.json', tmp_path), *LOADED_HERE)
    weights = ('--weights', tmp_path / 'toy/backbone/model.pth')
    return tmp_path / 'toy', {
        'train_cam': (train_cam_voc.main, (*common, *CAM_TRAINING, *weights)),
        'infer_cam': (infer_cam.main, (*common, *NETWORK, *SCALES)),
        'train_aff': (train_aff.main, (*common, *TRAINING, *weights)),
        'infer_aff': (infer_aff.main, (*common, *NETWORK)),
        'train_seg': (train_seg.main, (*common, *TRAINING, *HEAD, *weights)),
        'infer_seg': (infer_seg.main, (*common, *NETWORK, *HEAD, *SCALES)),
        **{f'eval {what}': (evaluation.main, (*common, '--what', what)) for what in ('cam', 'walk', 'seg')},
    }, ' '.join(settings['classes'])


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.suffix in ('.npz', '.png', '.pth')}


def test_every_stage_refuses_what_was_made_for_other_classes_even_with_fresh_and_loses_nothing(other, capsys):
    folder, stages, names = other
    before = contents(folder)
    for name, (main, words) in stages.items():
        for fresh in ((), ('--fresh',)):
            if name == 'train_cam' and fresh:               # reads nothing that was made for classes
                continue
            line = error_line(main, (*words, *fresh), capsys)
            assert CLASSES.split()[0] in line and names.split()[0] in line and 'class' in line, (name, fresh, line)
    assert contents(folder) == before


@pytest.mark.parametrize('stage', ['infer_cam', 'infer_seg'])
def test_a_network_of_other_classes_is_refused_where_there_are_no_files_yet(other, capsys, stage):
    folder, stages, names = other
    for path in ('labels', 'results'):
        shutil.rmtree(folder / path)
    main, words = stages[stage]
    line = error_line(main, words, capsys)
    assert 'model.pth' in line and CLASSES.split()[0] in line and names.split()[0] in line
    assert not [path for path in contents(folder) if path.suffix != '.pth']


def test_the_affinity_network_knows_no_classes_but_its_seeds_do(other, capsys):
    folder, stages, names = other
    shutil.rmtree(folder / 'aff')
    for stage, kind in (('train_aff', 'seeds'), ('infer_aff', 'cam'), ('train_seg', 'walk')):
        main, words = stages[stage]
        if stage == 'train_seg':
            shutil.rmtree(folder / 'seg')
        line = error_line(main, words, capsys)
        assert f'labels/train/{kind}/' in line and f'was made for the classes {CLASSES}, toy has {names}' in line
