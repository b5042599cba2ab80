import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

import infer_aff
import infer_cam
import pretrain_toy
from lib import cam_stage
from lib.files.dataspec import DatasetSpec
from lib.run.options import add_device_flags, add_training_flags, base_parser, plain_flag, resolve, settings
from lib.run.settings import COMMON, SETTINGS
from tests.running import error_line, place


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """A stage 'stage' for the presets 'one' and 'other'."""
    monkeypatch.setitem(COMMON, 'one', {'width': 0.25})
    monkeypatch.setitem(COMMON, 'other', {})
    monkeypatch.setitem(SETTINGS, 'stage', {'one': {'lr': 0.5}, 'other': {}})


def get_spec(dataset, root, lists):
    return DatasetSpec(name=dataset, classes=('a', 'b'), root=root or Path('data'), lists=lists or Path('lists'),
                       image_template='{}.jpg', preset=dataset)


def get_spec_voc(dataset, root, lists):
    return replace(get_spec(dataset, root, lists), preset='voc12')


def parser():
    made = base_parser('A script.')
    add_device_flags(made)
    add_training_flags(made, batch_size=8, lr=0.01, momentum=0.9)
    return made


def resolved(*words):
    return resolve(parser(), list(words), 'stage', get_spec)[0]


def test_a_flag_given_beats_the_preset_and_the_preset_beats_the_default():
    assert resolved('--dataset', 'other').lr == 0.01
    assert resolved('--dataset', 'one').lr == 0.5
    assert resolved('--dataset', 'one', '--lr', '0.01').lr == 0.01
    assert resolved('--dataset', 'one', '--lr', '0.01').width == 0.25


def test_underscores_in_flags_are_accepted_and_values_stay_as_they_are():
    args = resolved('--dataset', 'one', '--batch_size=3', '--log_every', '7', '--weights=my_file.pth')
    assert (args.batch_size, args.log_every, args.weights) == (3, 7, 'my_file.pth')
    assert [plain_flag(word) for word in ('--a_b=c_d', 'c_d', '-a_b')] == ['--a-b=c_d', 'c_d', '-a_b']


@pytest.mark.parametrize('name', ['--data-root', '--voc12-root', '--voc12_root', '--coco-root'])
def test_every_spelling_of_the_data_folder_reaches_the_data_set(name):
    args, spec = resolve(parser(), ['--dataset', 'one', name, 'there', '--lists', 'mine'], 'stage', get_spec)
    assert (spec.root, spec.lists) == (Path('there'), Path('mine'))


def test_the_flag_names_of_the_reference_are_accepted(capsys):
    words = ('--max_epoches', '9', '--wt_dec=1e-3', '--session_name', 'mine', '--num_workers', '0', '--num_samples',
             '7', '--network', 'network.resnet38_SEAM', '--voc12_root', 'there')
    args, _ = resolve(cam_stage.make_parser('', 'voc12'), list(words), 'train_cam', get_spec_voc)
    assert (args.epochs, args.weight_decay, args.run, args.workers, args.isl_samples, args.backbone,
            args.data_root) == (9, 1e-3, 'mine', 0, 7, 'resnet38d', Path('there'))
    walk, _ = resolve(infer_aff.make_parser(), ['--logt', '8', '--crf', '--network=network.resnet38_aff'], 'infer_aff',
                      get_spec_voc)
    assert (walk.walk_log2_steps, walk.crf, walk.backbone) == (8, True, 'resnet38d')
    cams, _ = resolve(infer_cam.make_parser(), ['--out_cam_pred', '--out_cam_pred_alpha', '0.3'], 'infer_cam',
                      get_spec_voc)
    assert cams.out_cam_pred is True and cams.background_score == 0.3
    assert [plain_flag(word) for word in ('--train_cam:max_epoches=9', '--train_seg:lr')] == [
        '--train-cam:epochs=9', '--train-seg:lr']
    text = cam_stage.make_parser('', 'voc12').format_help()
    assert not [name for name in ('max-epoches', 'wt-dec', 'session', 'num-samples', '--network') if name in text]


@pytest.mark.parametrize('words, problem', [
    (('--loss_weight', '0.2'), 'argument --loss-weight: say of which loss: --isl-weight or --fsl-weight'),
    (('--network', 'network.vgg16_cls'), 'argument --network: network.vgg16_cls is not supported; choose a '
                                         'network with --backbone'),
    (('--session_name', 'exp/ckpts/cam'), '--run exp/ckpts/cam is not a plain name; use --exp')])
def test_flags_of_the_reference_that_mean_something_else_are_one_line(words, problem):
    with pytest.raises(ValueError) as refusal:
        resolve(cam_stage.make_parser('', 'voc12'), list(words), 'train_cam', get_spec_voc)
    assert str(refusal.value).startswith(problem)


def test_abbreviated_flags_are_refused():
    with pytest.raises(ValueError, match='^unrecognized arguments: --batch 3$'):
        resolved('--dataset', 'one', '--batch', '3')


def test_the_run_is_named_after_the_data_set_or_as_told():
    assert resolved('--dataset', 'one').folder == Path('exp/one')
    assert resolved('--dataset', 'one', '--exp', 'there', '--run', 'mine').folder == Path('there/mine')
    for name in ('../up', 'a/b', '.hidden', '..'):
        with pytest.raises(ValueError, match='is not a plain name; use --exp'):
            resolved('--dataset', 'one', '--run', name)


def test_a_preset_that_the_script_lacks_is_refused_with_those_it_has():
    problem = "--dataset third asks for preset 'third', but .* knows voc12, coco, toy, own, one, other; name one"
    with pytest.raises(ValueError, match=problem):
        resolved('--dataset', 'third')


def test_toy_pretraining_takes_synthetic_sets_alone(toy, tmp_path, capsys):
    (tmp_path / 'own.json').write_text(json.dumps({**json.loads(toy.read_text()), 'root': str(toy.parent),
                                                   'lists': str(toy.parent / 'lists'), 'preset': 'own'}))
    line = error_line(pretrain_toy.main, place(tmp_path / 'own.json', tmp_path / 'exp'), capsys)
    assert 'own.json is not a synthetic set like the close-ups; make one with python -m lib.data.toy' in line
    assert not (tmp_path / 'exp').exists()


def test_settings_leave_out_places_and_hold_plain_values_only():
    first = resolved('--dataset', 'one', '--exp', 'a', '--workers', '0', '--save-every', '3', '--device', 'cpu')
    second = resolved('--dataset', 'one', '--run', 'b', '--workers', '2', '--log-every', '3', '--fresh')
    assert settings(first) == settings(second)
    for words in (('--lr', '1'), ('--seed', '3'), ('--amp', 'bf16'), ('--max-steps', '9')):
        assert settings(resolved('--dataset', 'one', *words)) != settings(first)
    made = settings(argparse.Namespace(labels=Path('a/b'), scale=(0.5, 1.5), given=[0.5, 1.5], lr=0.1, none=None))
    assert made == {'labels': 'a/b', 'scale': [0.5, 1.5], 'given': [0.5, 1.5], 'lr': 0.1, 'none': None}


def test_help_shows_the_defaults_that_say_something():
    text = ' '.join(parser().format_help().split())
    assert 'default: 8)' in text and '0 for none (a whole number from 0 to 1000000000; default: 0)' in text
    assert 'default: None' not in text and 'default: False' not in text
