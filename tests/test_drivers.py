"""The shell drivers, with a stand-in for Python that notes its words, and once with the real one."""
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tool.imageio import write_label_png
from voc12.prepare import prepare

ROOT = Path(__file__).parent.parent
DRIVERS = ('run_voc.sh', 'run_coco.sh', 'run_demo.sh')
STAGES = 'train_cam,infer_cam,train_aff,infer_aff,train_seg,infer_seg,table,report'


@pytest.fixture
def python(tmp_path):
    """An interpreter that runs nothing: it notes its words, a line a call, and fails where FAIL is among them."""
    path = tmp_path / 'python'
    path.write_text(f'#!/usr/bin/env bash\necho "$*" >> {shlex.quote(str(tmp_path / "calls"))}\n'
                    '[ -z "${FAIL:-}" ] || [[ "$*" != *"$FAIL"* ]]\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def drive(python, driver, *words, called_from='/', **environment):
    """(exit status, output, what the stand-in was called with)."""
    calls = python.with_name('calls')
    calls.unlink(missing_ok=True)
    done = subprocess.run([ROOT / driver, *words], capture_output=True, text=True, cwd=called_from,
                          env={**os.environ, 'PYTHON': str(python), **environment})
    return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines() if calls.exists() else []


def chain(dataset, cam_script, train, val, score):
    """SPEC's chain: the commands of a whole run, without what all of them share."""
    commands = [cam_script]
    for what, script in (('cam', 'infer_cam.py'), ('walk', 'infer_aff.py')):
        for split, scored in ((val, val), (train, score)):
            seeds = ' --no-seeds' if (what, split) == ('cam', val) else ''
            commands += [f'{script} --split {split}{seeds}', f'eval.py --what {what} --split {scored}']
        commands += ['train_aff.py' if what == 'cam' else 'train_seg.py']
    for split in (val, score):
        commands += [f'infer_seg.py --split {split}', f'eval.py --what seg --split {split}']
    return [*commands, 'eval.py --table', '-m lib.report']


VOC = chain('voc12', 'train_cam_voc.py', 'train_aug', 'val', 'train')
COCO = chain('coco', 'train_cam_coco.py', 'train2014', 'val2014', 'train2014')


def short(calls):
    """Calls without the flags that all share."""
    return [re.sub(r' --(dataset|run|protocol|weights|data-root|lists) \S+', '', call) for call in calls]


@pytest.mark.parametrize('driver', DRIVERS)
def test_help_names_the_options_and_the_stages_and_runs_nothing(python, driver):
    code, text, calls = drive(python, driver, '--help')
    assert code == 0 and not calls and text.startswith(f'usage: {driver}')
    for word in ('--run', '--stages', '--gpus', '--data-root', '--protocol', '--dry-run', STAGES):
        assert word in text


@pytest.mark.parametrize('driver, dataset, commands', [('run_voc.sh', 'voc12', VOC), ('run_coco.sh', 'coco', COCO)])
def test_the_whole_chain_runs_in_order(python, driver, dataset, commands):
    code, text, calls = drive(python, driver)
    assert code == 0 and short(calls) == commands
    assert all(f'--dataset {dataset} --run {dataset}' in call for call in calls)


def test_the_demo_draws_and_prepares_before_the_chain(python):
    code, _, calls = drive(python, 'run_demo.sh', '--seed', '3')
    assert code == 0 and calls[0].startswith('-m lib.data.toy --out data/toy-3 --seed 3')
    assert calls[1].startswith('pretrain_toy.py')
    assert short(calls[2:]) == chain('toy', 'train_cam_voc.py', 'train', 'val', 'train')
    training = [call for call in calls[2:] if call.startswith('train_')]
    assert len(training) == 3 and all('--weights exp/toy-3/backbone/model.pth' in call for call in training)


def echoed(text):
    """The commands that a driver shows, as words."""
    return [shlex.split(line[2:]) for line in text.splitlines() if line.startswith('+ ')]


def test_a_dry_run_checks_the_inputs_and_shows_every_command_and_runs_none(python):
    code, text, calls = drive(python, 'run_voc.sh', '--dry-run', '--isl-weight', '0')
    assert code == 0 and len(calls) == 2 and '--dry-run' in calls[0] and '--isl-weight 0' in calls[0]
    assert calls[1].startswith(f'-m lib.disk --dataset voc12 --stages {STAGES}')
    _, _, run = drive(python, 'run_voc.sh', '--isl-weight', '0')
    assert [' '.join(words[1:]) for words in echoed(text)] == run
    code, text, _ = drive(python, 'run_voc.sh', '--dry-run', FAIL='--dry-run')
    assert code != 0 and not echoed(text)


def test_echoed_commands_can_be_pasted(python, tmp_path):
    folder = tmp_path / "it's here"
    code, text, calls = drive(python, 'run_voc.sh', '--data-root', str(folder), '--stages', 'table')
    words, = echoed(text)
    assert code == 0 and words[0] == str(python) and words[words.index('--data-root') + 1] == str(folder)
    assert calls == [' '.join(words[1:])]


def test_extra_flags_reach_cam_training_alone(python):
    _, _, calls = drive(python, 'run_voc.sh', '--isl-weight', '0', '--no-fsl')
    assert ['--isl-weight 0 --no-fsl' in call for call in calls] == [call.startswith('train_cam') for call in calls]


def test_gpus_spread_the_stages_that_run_a_network_and_places_reach_every_stage(python):
    _, _, calls = drive(python, 'run_voc.sh', '--gpus', '2', '--run', 'mine', '--voc12_root', 'there', '--lists',
                        'here', '--protocol', 'strict')
    assert all('--run mine --data-root there --lists here' in call for call in calls)
    spread = '-m torch.distributed.run --standalone --nproc-per-node 2 '
    assert [call.startswith(spread) for call in calls] == [' train_' in call or ' infer_' in call for call in calls]
    assert short([call.removeprefix(spread) for call in calls]) == VOC
    assert ['--protocol strict' in call for call in calls] == ['--what' in call for call in calls]


def test_a_launcher_of_the_environment_takes_the_place_of_the_interpreter(python):
    _, text, calls = drive(python, 'run_voc.sh', '--stages', 'train_aff,table', SPREAD=f'env X=1 {python} -m launcher')
    assert short(calls) == ['-m launcher train_aff.py', 'eval.py --table']
    assert echoed(text)[0][:4] == ['env', 'X=1', str(python), '-m']


def test_fresh_reaches_every_stage(python):
    _, _, calls = drive(python, 'run_voc.sh', '--fresh')
    assert len(calls) == len(VOC)
    assert [call.endswith(' --fresh') for call in calls] == ['report' not in call for call in calls]


def test_a_named_run_of_the_demo_uses_its_own_backbone(python):
    _, _, calls = drive(python, 'run_demo.sh', '--run', 'mine')
    training = [call for call in calls if call.startswith('train_')]
    assert all('--run mine' in call for call in training)
    assert all('--weights exp/mine/backbone/model.pth' in call for call in training)


def test_stages_can_be_chosen(python):
    code, text, calls = drive(python, 'run_voc.sh', '--stages', 'train_aff,table')
    assert code == 0 and short(calls) == ['train_aff.py', 'eval.py --table']
    assert [line for line in text.splitlines() if line.startswith('== ')] == ['== train_aff', '== table']


@pytest.mark.parametrize('words', [('--stages', 'train_cam,cook'), ('--stages', 'cook'), ('--run',), ('--stages',),
                                   ('--gpus', 'two'), ('--gpus', '0'), ('--protocol', 'lax')])
def test_an_unknown_stage_or_a_missing_or_wrong_value_is_refused_before_anything_runs(python, words):
    code, text, calls = drive(python, 'run_voc.sh', *words)
    assert code == 2 and not calls and len(text.splitlines()) == 1 and text.startswith('error: --')


def described(tmp_path, masks):
    """A data set in a file, and an interpreter that answers the driver's question about it."""
    (tmp_path / 'birds.json').write_text('{}')
    path = tmp_path / 'answering'
    path.write_text(f"""#!/usr/bin/env bash
if [ "$2" = lib.data.folder ]; then printf '%s\\n' teach check teach 'masks: {masks}'
else {tmp_path / 'python'} "$@"; fi
""")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize('masks', ['check teach', 'teach', ''])
def test_own_pictures_run_through_all_stages_and_are_scored_where_there_are_masks(python, tmp_path, masks):
    answering = described(tmp_path, masks)
    code, text, calls = drive(python, 'run_own.sh', str(tmp_path / 'birds.json'), '--width', '0.5', '--batch-size', '4',
                              PYTHON=str(answering))
    expected = chain('birds', 'train_cam_voc.py', 'teach', 'check', 'teach')
    found = [re.sub(r' --(width|batch-size) \S+', '', call).replace(' --masked-only', '') for call in short(calls)]
    assert code == 0, text
    scored = [f'--split {split}' for split in masks.split()] + ['--table'] * bool(masks)
    assert found == [call for call in expected if 'eval.py' not in call or call.endswith(tuple(scored))]
    assert all('--masked-only' in call for call in calls if '--what' in call)
    assert all(f'--dataset {tmp_path}/birds.json --run birds' in call for call in calls)
    assert all(('--width 0.5' in call) == call.startswith(('train', 'infer')) for call in calls)
    assert all(('--batch-size 4' in call) == call.startswith('train') for call in calls)


def test_own_pictures_on_a_laptop_train_heads_alone_and_what_is_given_wins(python, tmp_path):
    answering = described(tmp_path, '')
    code, text, calls = drive(python, 'run_own.sh', str(tmp_path / 'birds.json'), '--lr', '1', '--light',
                              '--weights', 'other', PYTHON=str(answering))
    training = [call for call in calls if call.startswith('train')]
    assert code == 0 and '--light' not in ' '.join(calls), text
    assert len(training) == 3 and all(
        '--backbone timm:tf_efficientnet_lite0' in call and '--freeze backbone' in call
        and call.index('--weights efficientnet-lite0') < call.index('--weights other') for call in training)
    assert training[0].index('--lr 0.003 --head-lr 100') < training[0].index('--lr 1')
    assert '--lr 1' not in training[1] and '--lr' not in training[2] and '--fov-channels 128' in training[2]
    assert all('--backbone timm:tf_efficientnet_lite0' in call for call in calls if call.startswith('infer'))


def test_a_run_on_a_dataset_json_is_named_after_its_folder(python, tmp_path):
    answering = described(tmp_path, '')
    (tmp_path / 'my birds').mkdir()
    (tmp_path / 'my birds/dataset.json').write_text('{}')
    _, _, calls = drive(python, 'run_own.sh', 'dataset.json', called_from=tmp_path / 'my birds', PYTHON=str(answering))
    assert calls and all(f'--dataset {tmp_path}/my birds/dataset.json --run my birds' in call for call in calls)


def test_own_pictures_need_a_data_set_first(python):
    code, text, calls = drive(python, 'run_own.sh', '--run', 'a')
    assert code == 2 and not calls and text.startswith('error: name the data set first: ./run_own.sh data/my.json')


@pytest.mark.parametrize('words', [('--seed', '3', '--isl-weight', '0'), ('--isl-weight', '0', '--seed=3')])
def test_the_seed_of_the_demo_may_stand_anywhere(python, words):
    _, _, calls = drive(python, 'run_demo.sh', *words)
    assert all('--dataset data/toy-3/dataset.json --run toy-3' in call for call in calls[1:])
    assert '--seed 4' in calls[1] and '--isl-weight 0' in calls[2] and '--seed' not in calls[2]


@pytest.mark.parametrize('words', [('--seed',), ('--seed', 'x'), ('--seed', '--fresh')])
def test_a_seed_of_the_demo_that_is_no_number_is_refused(python, words):
    code, text, calls = drive(python, 'run_demo.sh', *words)
    assert code == 2 and not calls and len(text.splitlines()) == 1 and text.startswith('error: --seed is ')


def test_another_folder_of_runs_reaches_every_stage(python):
    _, _, calls = drive(python, 'run_voc.sh', '--exp', '/far')
    assert len(calls) == len(VOC) and all(' --exp /far' in call for call in calls)
    _, _, calls = drive(python, 'run_demo.sh', '--exp=/far')
    assert all('--weights /far/toy-0/backbone/model.pth' in call for call in calls if call.startswith('train_'))


def test_paths_are_meant_where_a_driver_is_called(python, tmp_path):
    for name in ('images', 'lists', 'none'):
        (tmp_path / name).mkdir()
    (tmp_path / 'birds.json').write_text('{}')
    _, _, calls = drive(python, 'run_voc.sh', '--data-root', 'images', '--lists', 'lists', '--weights', 'none',
                        called_from=tmp_path)
    assert all(f'--data-root {tmp_path}/images --lists {tmp_path}/lists' in call for call in calls)
    assert '--weights none' in calls[0]
    _, _, calls = drive(python, 'run_own.sh', 'birds.json', called_from=tmp_path, PYTHON=str(described(tmp_path, '')))
    assert all(f'--dataset {tmp_path}/birds.json' in call for call in calls)


@pytest.mark.parametrize('failing, number', [('train_cam_voc.py', 1), ('--what walk --split val', 8),
                                             ('infer_seg.py --split train', 14)])
def test_a_failing_command_stops_the_chain(python, failing, number):
    code, _, calls = drive(python, 'run_voc.sh', FAIL=failing)
    assert code != 0 and len(calls) == number and failing in calls[-1]


@pytest.fixture
def voc_tree(tmp_path):
    """A VOC tree of three training images and one for validation, with its lists."""
    root = tmp_path / 'VOC2012'
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    for folder in ('JPEGImages', 'Annotations'):
        (root / folder).mkdir()
    for name, word in (('a', 'dog'), ('b', 'cat'), ('c', 'dog'), ('d', 'cat')):
        Image.new('RGB', (40, 30)).save(root / f'JPEGImages/{name}.jpg')
        (root / f'Annotations/{name}.xml').write_text(
            f'<annotation><object><name>{word}</name></object></annotation>')
        write_label_png(root / f'SegmentationClassAug/{name}.png', np.zeros((30, 40), np.uint8))
    (root / 'ImageSets/Segmentation/train.txt').write_text('a\n')
    (root / 'ImageSets/Segmentation/val.txt').write_text('d\n')
    prepare(root, tmp_path / 'lists')
    return root


def test_a_dry_run_with_the_real_interpreter_checks_a_voc_tree(voc_tree, tmp_path):
    words = ['--dry-run', '--data-root', str(voc_tree), '--lists', str(tmp_path / 'lists'), '--weights', 'none',
             '--width', '0.03125', '--batch-size', '3', '--device', 'cpu', '--empty-classes', 'allow']
    done = subprocess.run([ROOT / 'run_voc.sh', *words], capture_output=True, text=True,
                          env={**os.environ, 'PYTHON': sys.executable})
    code, text = done.returncode, done.stdout + done.stderr
    assert code == 0 and 'CAM network: 8 steps of 3 images (voc12 train_aug)' in text, text
    assert [words[1] for words in echoed(text)] == [command.split()[0] for command in VOC]
