"""What the drivers make of their flags: the commands, before any of them runs."""
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from lib.data.toy import write_set
from lib.process import launch
from lib.process.ending import run_script

ROOT = Path(__file__).parent.parent
STAGES = 'train_cam, infer_cam, train_aff, infer_aff, train_seg, infer_seg, table, report'
TORCHRUN = ['-m', 'lib.process.launch', '--standalone', '--nproc-per-node', '2', '--']


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    """A driver goes to the repository's folder; the test comes back."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')


def echoed(text):
    """The lines that a driver shows for pasting, as words."""
    return [shlex.split(line[2:]) for line in text.splitlines() if line.startswith('+ ')]


@pytest.fixture
def drive(monkeypatch, capsys):
    """Function that returns the commands of a driver as lists of words, none of which is run."""
    def commands(driver, *words, called_from=ROOT):
        monkeypatch.setattr(launch, 'run', lambda *_: 0)
        monkeypatch.chdir(called_from)
        capsys.readouterr()
        assert not pipeline.main([driver, *map(str, words)])
        return [words[1:] for words in echoed(capsys.readouterr().out) if words[0] not in ('cd', 'export')]
    return commands


@pytest.fixture
def refused(capsys):
    """Function that returns the one line with which a driver refuses its words; status 2, nothing is printed or run."""
    def line(driver, *words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_script(lambda: pipeline.main([driver, *map(str, words)]))
        printed = capsys.readouterr()
        assert stop.value.code == 2 and not printed.out and len(printed.err.splitlines()) == 1, printed
        assert printed.err.startswith('error: ')
        return printed.err
    return line


def chain(cam_script, train, val, score):
    """SPEC's chain: the commands of a whole run, without what all of them share. Nothing is scored on score None."""
    commands = [cam_script]
    for what, script in (('cam', 'infer_cam.py'), ('walk', 'infer_aff.py')):
        for split, scored in ((val, val), (train, score)):
            seeds = ' --no-crf-seeds' if (what, split) == ('cam', val) else ''
            commands += [f'{script} --split {split}{seeds}']
            commands += [f'eval.py --what {what} --split {scored}'] if scored else []
        commands += ['train_aff.py' if what == 'cam' else 'train_seg.py']
    for split in filter(None, (val, score)):
        commands += [f'infer_seg.py --split {split}', f'eval.py --what seg --split {split}']
    return [*commands, 'eval.py --table', '-m lib.report']


VOC = chain('train_cam_voc.py', 'train_aug', 'val', 'train')
COCO = chain('train_cam_coco.py', 'train2014', 'val2014', 'train2014')


def named(commands, script):
    """Those that run a script."""
    return [command for command in commands if script in command]


def value(command, flag):
    """What follows a flag; it is there once."""
    assert command.count(flag) == 1, command
    return command[command.index(flag) + 1]


@pytest.mark.parametrize('driver, commands', [('voc12', VOC), ('coco', COCO)])
def test_the_whole_chain_runs_in_order(drive, driver, commands):
    shared = f' --dataset {driver} --run {driver}'
    assert [' '.join(words) for words in drive(driver)] == [command + shared for command in commands]


def test_the_demo_draws_its_set_and_starts_from_the_backbone_in_the_repository(drive):
    commands = drive('demo', '--seed', '3')
    assert commands[0] == '-m lib.data.toy --out data/toy --seed 0'.split()
    shared = ' --dataset data/toy/dataset.json --run toy-3'
    given = ' --weights pretrained/toy_backbone.pth --seed 3'
    assert [' '.join(words) for words in commands[1:]] == [
        command + shared + (given if command.startswith('train') else '')
        for command in chain('train_cam_voc.py', 'train', 'val', None)]
    assert {value(words, '--seed') for words in named(drive('demo', '--train_seg:seed', '7'), 'train_seg.py')} == {'7'}


def test_the_backbone_of_the_demo_is_remade_on_a_set_of_its_own_if_asked(drive):
    sets, training = drive('demo', '--stages', 'backbone', '--seed', '987654', '--exp', '/far')
    assert value(sets, '--out') == 'data/toy-backbone' and value(sets, '--seed') != '987654'
    assert ' '.join(training) == 'pretrain_toy.py --dataset data/toy-backbone/dataset.json --run toy-987654 --exp /far'


@pytest.mark.parametrize('flag', [['--limit', '5'], ['--workers', '0'], ['--fresh'], ['--device', 'cpu'], ['--lr', '1'],
                                  ['--scales', '0.5', '1'], ['--no-crf'], ['--no-fsl'], ['--fsl-mu', '1'],
                                  ['--protocol', 'strict'], ['--background-score', '0.3'], ['--count', '3'],
                                  ['--close-ups', '40'], ['--train', '9'], ['--picture-every', '0']])
def test_a_flag_goes_to_every_command_that_has_it_and_to_no_other(drive, flag):
    tools = pipeline.tools_of('demo').values()
    for words in drive('demo', '--stages', ','.join(pipeline.stages_of('demo')), *flag):
        tool, = (tool for tool in tools if tool.words == words[:len(tool.words)])
        assert (flag[0] in words) == (flag[0] in tool.flags), words
        if flag[0] in words:
            place = words.index(flag[0])
            assert words[place:place + len(flag)] == flag and words.count(flag[0]) == 1


def test_spellings_with_underscores_equals_signs_and_old_names_are_taken(drive):
    for words in (['--max_steps=5'], ['--max-steps', '5'], ['--max_steps', '5']):
        steps = [value(command, '--max-steps') for command in drive('voc12', *words) if 'train' in command[0]]
        assert steps == ['5'] * 3
    assert all(value(command, '--voc12-root') == '/there' for command in drive('voc12', '--voc12_root', '/there'))


def test_a_flag_with_a_stage_before_it_goes_there_alone(drive):
    commands = drive('voc12', '--lr', '0.5', '--train_seg:lr', '0.1', '--train-aff:lr=0.2', '--infer_aff:scale', '2')
    assert [value(command, '--lr') for command in commands if 'train' in command[0]] == ['0.5', '0.2', '0.1']
    assert [command[0] for command in commands if '--scale' in command] == ['infer_aff.py'] * 2


def test_what_is_given_wins_over_what_the_driver_would_give(drive):
    commands = drive('demo', '--smoke', '--batch-size', '8', '--weights', 'none', '--infer_seg:scales', '0.5')
    assert {value(command, '--batch-size') for command in commands if '--batch-size' in command} == {'8'}
    assert {value(command, '--weights') for command in commands if '--weights' in command} == {'none'}
    assert [value(command, '--scales') for command in commands if '--scales' in command] == ['1', '1', '0.5']


@pytest.mark.parametrize('words, expected', [
    (['--stages', 'infer_seg', '--workers', '0', '--scalles', '1'], ['the flag --scalles (selected: infer_seg, eval)']),
    (['--stages', 'infer_seg', '--fsl-mu', '1'], ['no selected stage has the flag --fsl-mu (selected: infer_seg']),
    (['--train_cam:crf'], ['--train_cam:crf', 'train_cam']), (['--cook:lr', '1'], ['has the flag --cook:lr (selected']),
    (['--stages', 'table', '--train_cam:lr', '1'], ['has the flag --train_cam:lr (selected: eval)']),
    (['lr', '1'], ["'lr' is not a flag"]), (['--fresh', 'yes'], ['unrecognized arguments: yes']),
    (['--', '--lr'], ["'--'"]), (['--fsl-mu', '-1'], ["argument --fsl-mu: '-1'"]),
    (['--lr', '-1'], ['train_cam: argument --lr']), (['--lr'], ['--lr']),
    (['--freeze', 'early'], ['train_seg: argument --freeze']), (['--protocol', 'lax'], ['eval: argument --protocol']),
    (['--scale', '2'], ['train_seg: argument --scale', 'expected 2']), (['--split', 'val'], ['--split']),
    (['--infer_cam:split', 'val'], ['--infer_cam:split is set by the driver']), (['--dataset', 'toy'], ['--dataset']),
    (['--checkpoint', 'a.pth'], ['name the stage: --infer_cam:checkpoint']), (['--table'], ['--table']),
    (['--train_cam:run', 'a'], ['--train_cam:run']), (['--images', 'a.jpg'], ['--images']),
    (['--stages', 'train_cam,cook'], ["--stages: 'cook' is not one of train_cam"]), (['--stages', ''], ['--stages']),
    (['--run'], ['--run']), (['--run', 'a/b'], ['--run a/b']), (['--gpus', 'two'], ['--gpus']),
    (['--gpus', '0'], ['--gpus']),
    (['--gpus', '2', '--launcher', 'x'], ['--launcher']), (['--seed', 'x'], ['--seed']),
    (['--gpus', '3'], ['train_cam: --batch-size 8', '3 processes'])])
def test_wrong_flags_are_refused_in_one_line_before_anything_runs(refused, words, expected):
    text = refused('voc12', *words)
    assert all(part in text for part in expected), text


def test_the_demo_without_its_drawing_needs_the_set(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, 'ROOT', tmp_path)
    assert 'data/toy/dataset.json does not exist' in refused('demo', '--stages', 'train_cam')


@pytest.mark.parametrize('words', [('--seed',), ('--seed', 'x'), ('--seed', '--fresh'), ('--seed', '-1')])
def test_a_seed_of_the_demo_that_is_no_number_is_refused(refused, words):
    assert '--seed' in refused('demo', *words)


def test_several_processes_are_torchrun_for_all_that_runs_a_network(drive):
    words = ['--stages', ','.join(pipeline.stages_of('demo')), '--device', 'cpu']
    one, several = drive('demo', *words), drive('demo', *words, '--gpus', '2')
    for alone, words in zip(one, several, strict=True):
        network = 'train_' in alone[0] or 'infer_' in alone[0]
        assert words == (TORCHRUN + alone if network or alone[0] == 'pretrain_toy.py' else alone)


def test_another_launcher_takes_the_place_of_interpreter_and_torchrun(monkeypatch, capsys):
    monkeypatch.setattr(launch, 'run', lambda *_: 0)
    pipeline.main(['voc12', '--stages', 'train_aff,table', '--launcher', "env X='a b' torchrun --"])
    lines = echoed(capsys.readouterr().out)
    assert lines[0][:5] == ['env', 'X=a b', 'torchrun', '--', 'train_aff.py']
    assert lines[1][:2] == [sys.executable, 'eval.py']


def test_a_failing_command_stops_the_chain_with_its_status(monkeypatch):
    ran = []
    monkeypatch.setattr(launch, 'run', lambda words, stage: ran.append(words) or 7 * ('walk' in words))
    assert pipeline.main(['voc12']) == 7 and ran[-1][1:5] == ['eval.py', '--what', 'walk', '--split'] and len(ran) == 8


def test_a_smoke_run_is_short_in_every_stage_and_has_a_name_of_its_own(drive):
    for driver, name in (('voc12', 'voc12-smoke'), ('demo', 'toy-0-smoke')):
        commands = drive(driver, '--smoke', '--gpus', '3', '--device', 'cpu')
        for words in (words for words in commands if 'lib.data.toy' not in words):
            assert value(words, '--limit') == '8' and value(words, '--run') == name
            assert int(value(words, '--batch-size')) % 3 == 0 if '--batch-size' in words else True
            assert '--max-steps' not in words or value(words, '--max-steps') == '3'
    assert all(value(words, '--run') == 'mine-smoke' for words in drive('coco', '--smoke', '--run', 'mine'))


def own_set(folder, masks=('train', 'val')):
    """dataset.json of a few images on which heads can be trained; masks of the splits named."""
    write_set(folder, train=9, val=6)
    for path in (folder / 'masks').iterdir():
        if path.name.split('_')[0] not in masks:
            path.unlink()
    text = (folder / 'dataset.json').read_text().replace('"toy"', '"own"')
    (folder / 'dataset.json').unlink()
    (folder / 'birds.json').write_text(text)
    return folder / 'birds.json'


@pytest.mark.parametrize('masks', [('val', 'train'), ('train',), ()])
def test_own_data_runs_through_all_stages_and_is_scored_where_there_are_masks(drive, tmp_path, masks):
    path = own_set(tmp_path, masks)
    found = [' '.join(words).replace(' --masked-only', '').replace(' --protocol strict', '')
             for words in drive('own', path)]
    scored = [f'--split {split}' for split in masks] + ['--table']
    train, *rest, table, report = chain('train_cam_voc.py', 'train', 'val', 'train')
    every = [train, '-m lib.suspects', '-m lib.choose', *rest, '-m lib.recommend', table, report]
    assert found == [f'{command} --dataset {path} --run birds' for command in every
                     if 'eval.py' not in command or command.endswith(tuple(scored))]
    assert all('--masked-only' in words and value(words, '--protocol') == 'strict'
               for words in drive('own', path) if '--what' in words)
    if masks:
        assert all(value(words, '--protocol') == 'reference' for words in drive('own', path, '--protocol', 'reference')
                   if '--what' in words)
    else:
        assert len(drive('own', path, '--stages', 'table')) == 1


def test_own_data_on_a_laptop_trains_heads_alone_and_what_is_given_wins(drive, tmp_path):
    commands = drive('own', own_set(tmp_path), '--lr', '1', '--light', '--weights', 'other')
    cam, aff, seg = [words for words in commands if words[0].startswith('train')]
    for words in (cam, aff, seg):
        assert [value(words, flag) for flag in ('--backbone', '--freeze', '--weights', '--lr')] == [
            'timm:tf_efficientnet_lite0', 'backbone', 'other', '1']
    assert value(cam, '--min-steps') == value(aff, '--min-steps') == value(aff, '--head-lr') == '100'
    assert value(seg, '--max-steps') == '300' and value(seg, '--fov-channels') == '128' and '--head-lr' not in seg
    assert all(value(words, '--backbone') == 'timm:tf_efficientnet_lite0' for words in named(commands, 'infer_seg.py'))


def test_a_run_on_a_dataset_json_is_named_after_its_folder(drive, tmp_path):
    folder = tmp_path / 'my birds'
    own_set(folder).rename(folder / 'dataset.json')
    for words in drive('own', 'dataset.json', called_from=folder):
        assert value(words, '--dataset') == str(folder / 'dataset.json') and value(words, '--run') == 'my birds'


def test_own_data_needs_a_data_set_first(refused):
    assert 'name the data set first: ./run_own.sh data/my.json' in refused('own', '--run', 'a')


def test_relative_paths_are_meant_where_a_driver_is_called(drive, tmp_path):
    (tmp_path / 'mine.pth').touch()
    commands = drive('voc12', '--data-root', 'images', '--lists', 'lists', '--train_cam:weights', 'mine.pth',
                     '--train_aff:weights', 'none', '--exp', 'runs', called_from=tmp_path)
    for words in commands:
        assert [value(words, flag) for flag in ('--data-root', '--lists', '--exp')] == [
            f'{tmp_path}/{name}' for name in ('images', 'lists', 'runs')]
    assert value(commands[0], '--weights') == f'{tmp_path}/mine.pth'
    assert [value(words, '--weights') for words in named(commands, 'train_aff.py')] == ['none']


def test_a_dry_run_prints_the_settings_and_the_commands_as_they_would_be(drive, capsys, tmp_path, monkeypatch):
    path = own_set(tmp_path)
    flags = ['--width', '0.03125', '--weights', 'none', '--lr', '0.5', '--device', 'cpu', '--exp', tmp_path / 'exp']
    commands = drive('own', path, *flags)
    monkeypatch.setattr(launch, 'run', None)
    pipeline.main(['own', str(path), *map(str, flags), '--dry-run'])
    text = capsys.readouterr().out
    assert [words[1:] for words in echoed(text)] == commands
    _, cam, *_, seg = [' '.join(part.split()) for part in text.split('\ntrain_')]
    assert cam.startswith('cam: train_cam_voc.py dataset ') and seg.startswith('seg: train_seg.py dataset ')
    assert 'lr 0.5, ' in cam and 'min-steps 300, ' in cam and 'isl-weight 0.2, ' in cam and 'max-steps 600, ' in seg
    assert 'CAM network: 300 steps of 8 images' in text and not (tmp_path / 'exp').exists()


def test_a_dry_run_whose_inputs_are_wrong_shows_the_commands_and_fails(voc_tree, tmp_path, capsys):
    words = ['--dry-run', '--data-root', str(voc_tree), '--lists', str(tmp_path / 'nowhere'), '--weights', 'none']
    with pytest.raises((ValueError, OSError)):
        pipeline.main(['voc12', *words])
    assert len(echoed(capsys.readouterr().out)) == len(VOC)


def shell(script, *words, called_from=ROOT, **environment):
    """A run of the script by the shell, with this interpreter."""
    return subprocess.run([ROOT / script, *map(str, words)], capture_output=True, text=True, cwd=called_from,
                          env={**os.environ, 'PYTHON': sys.executable, **environment})


def test_a_dry_run_by_the_shell_checks_a_voc_tree_from_another_folder(voc_tree, tmp_path):
    done = shell('run_voc.sh', '--dry-run', '--data-root', 'VOC2012', '--lists', 'lists', '--weights', 'none',
                 '--width', '0.03125', '--batch-size', '3', '--device', 'cpu', '--empty-classes', 'allow',
                 called_from=tmp_path)
    assert done.returncode == 0 and 'CAM network: 8 steps of 3 images (voc12 train_aug)' in done.stdout, done.stderr
    lines = echoed(done.stdout)
    assert lines[0] == ['cd', str(ROOT)] and [line[1] for line in lines[1:]] == [command.split()[0] for command in VOC]


@pytest.mark.parametrize('driver', ['run_voc.sh', 'run_coco.sh', 'run_demo.sh', 'run_own.sh'])
def test_help_names_the_options_and_the_stages_and_runs_nothing(driver):
    done = shell(driver, '--help')
    text = ' '.join(done.stdout.split())
    assert done.returncode == 0 and text.startswith(f'usage: ./{driver}') and not done.stderr
    stages = ', '.join(pipeline.OWN_STAGES) if driver == 'run_own.sh' else STAGES
    for word in ('--run', '--stages', '--gpus', '--launcher', '--dry-run', stages, 'train_cam_voc.py --help'):
        assert word in text, word


def test_a_failing_set_up_ends_a_driver(tmp_path):
    (tmp_path / 'run_voc.sh').write_text((ROOT / 'run_voc.sh').read_text())
    (tmp_path / 'setup_env.sh').write_text('#!/bin/sh\necho "error: no python3 found" >&2\nexit 2\n')
    for path in tmp_path.iterdir():
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    done = subprocess.run([tmp_path / 'run_voc.sh'], capture_output=True, text=True, env={'PATH': os.environ['PATH']})
    assert done.returncode == 2 and done.stderr == 'error: no python3 found\n'
