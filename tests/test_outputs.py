"""Inference that is run again: what is skipped, made again or refused, and how processes share the work."""
import os
import shutil
import signal
from functools import partial

import numpy as np
import pytest
from PIL import Image

import infer_aff
import infer_cam
import infer_seg
import train_aff
import train_cam_voc
from lib import inference
from lib.files.origin import read_origin
from lib.process.ending import Signals, Stopped
from lib.run import device as devices
from lib.run.lock import lock_folder
from tests.running import (
    CAM_TRAINING,
    HEAD,
    LOADED_HERE,
    NETWORK,
    SCALES,
    TRAINING,
    another_run,
    error_line,
    no_signal_gets_out,
    place,
)

PLACES = {'cam': ('labels/val/cam/{}.npz', 'labels/val/seeds/{}.npz'), 'aff': ('labels/val/walk/{}.png',),
          'seg': ('results/val/{}.png',)}
OTHER = {'cam': (('--scales', '0.5'), '--scales was 0.5 1.0, is 0.5'),
         'aff': (('--beta', '4'), '--beta was 8.0, is 4.0'),
         'seg': (('--no-crf',), '--crf was True, is False')}
each_stage = pytest.mark.parametrize('stage', PLACES)


def files(folder):
    """Content of the label files below a folder, by place."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.suffix in ('.npz', '.png')}


def times(folder):
    """When they were written."""
    return {name: (folder / name).stat().st_mtime_ns for name in files(folder)}


def rewritten(before, folder):
    """Names of the images of which some file was written since."""
    return sorted({os.path.basename(name).split('.')[0] for name, time in times(folder).items()
                   if time != before.get(name)})


def stages_of(data, exp):
    common = (*place(data / 'dataset.json', exp), *LOADED_HERE, *NETWORK, '--split', 'val')
    return {'cam': (infer_cam.main, (*common, *SCALES)), 'aff': (infer_aff.main, common),
            'seg': (infer_seg.main, (*common, *HEAD, *SCALES))}


@pytest.fixture
def again(run_folder, toy, tmp_path):
    """A copy of a finished run on a copy of its data, and how to run its inference on val again."""
    shutil.copytree(run_folder, tmp_path / 'toy')
    shutil.copytree(toy.parent, tmp_path / 'data')
    return tmp_path / 'toy', stages_of(tmp_path / 'data', tmp_path)


def run(stage, *words):
    main, common = stage
    main([str(word) for word in (*common, *words)])


def refused(stage, capsys, *words):
    main, common = stage
    return error_line(main, (*common, *words), capsys)


def rank(monkeypatch, number, count, **changes):
    """Be one of the tasks of srun."""
    for name, value in {'SLURM_PROCID': number, 'SLURM_STEP_NUM_TASKS': count, 'SLURM_LOCALID': number,
                        'SLURM_JOB_ID': 7, 'SLURM_STEP_ID': 0, **changes}.items():
        monkeypatch.setenv(name, str(value))


def replace_image(images, name):
    """Put another image in the place of one, of as many bytes and with the same times; returns what was there."""
    path = images / f'{name}.jpg'
    former, stat = path.read_bytes(), path.stat()
    Image.fromarray(np.asarray(Image.open(path))[:, ::-1]).save(path, quality=40)
    content = path.read_bytes()
    gap = len(former) - len(content) - 4
    path.write_bytes(content[:2] + b'\xff\xfe' + (gap + 2).to_bytes(2, 'big') + bytes(gap) + content[2:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    return former


@each_stage
def test_finished_files_stay_and_cut_or_missing_ones_are_made_again_alike(again, capsys, stage):
    folder, stages = again
    before = files(folder)
    run(stages[stage])
    assert 'all 6 images are finished' in capsys.readouterr().out and files(folder) == before
    for place_of in PLACES[stage]:
        for number, missing in ((1, 30), (4, 1)):
            path = folder / place_of.format(f'val_0000{number}')
            path.write_bytes(path.read_bytes()[:-missing])
        (folder / place_of.format('val_00003')).unlink()
        (folder / place_of.format('val_00005')).write_bytes(b'')
    stamps = times(folder)
    run(stages[stage])
    assert 'all 6 images, 2 of them finished' in capsys.readouterr().out
    assert files(folder) == before
    assert rewritten(stamps, folder) == ['val_00001', 'val_00003', 'val_00004', 'val_00005']
    run(stages[stage])
    assert 'all 6 images are finished' in capsys.readouterr().out


@each_stage
def test_a_backbone_that_is_named_and_one_that_the_network_tells_make_the_same_files(again, capsys, stage):
    _, stages = again
    run(stages[stage], '--backbone', 'resnet38d')
    assert 'all 6 images are finished' in capsys.readouterr().out


def test_a_moved_run_and_moved_data_need_nothing(again, tmp_path, capsys):
    folder, _ = again
    before = times(folder)
    os.rename(tmp_path / 'data', tmp_path / 'set')
    (tmp_path / 'deeper').mkdir()
    os.rename(folder, tmp_path / 'deeper/toy')
    for stage in stages_of(tmp_path / 'deeper/../set', tmp_path / 'deeper').values():
        run(stage)
        assert 'all 6 images are finished' in capsys.readouterr().out
    assert times(tmp_path / 'deeper/toy') == before


def test_one_changed_image_is_redone_alone_through_all_stages_as_a_clean_run_makes_it(again, tmp_path, capsys):
    folder, stages = again
    replace_image(tmp_path / 'data/images', 'val_00002')
    assert 'val_00002.npz was made from another version of its image; make them with' in refused(stages['aff'], capsys)
    before, stamps = files(folder), times(folder)
    for stage in stages.values():
        run(stage)
        assert 'all 6 images, 5 of them finished' in capsys.readouterr().out
    assert rewritten(stamps, folder) == ['val_00002'] and files(folder) != before
    for stage in ('cam', 'aff', 'seg'):
        shutil.copytree(folder / stage, tmp_path / 'clean/toy' / stage)
    for stage in stages_of(tmp_path / 'data', tmp_path / 'clean').values():
        run(stage)
    clean, ours = files(tmp_path / 'clean/toy'), files(folder)
    assert len(clean) == 24 and clean == {name: ours[name] for name in clean}


def test_changed_labels_of_one_image_have_its_cams_and_walk_made_again(again, tmp_path, capsys):
    folder, stages = again
    path = tmp_path / 'data/lists/labels.txt'
    rows = [line.split('\t') for line in path.read_text().splitlines()]
    victim = next(row for row in rows if row[0].startswith('val_') and len(row) > 2)
    victim.pop()
    path.write_text(''.join('\t'.join(row) + '\n' for row in rows))
    stamps = times(folder)
    for stage, finished in (('cam', '5 of them'), ('aff', '5 of them'), ('seg', 'are')):
        run(stages[stage])
        assert f'{finished} finished' in capsys.readouterr().out
    assert rewritten(stamps, folder) == [victim[0]]


@each_stage
def test_changed_settings_are_refused_with_the_difference_and_fresh_redoes_the_names_at_hand(again, capsys, stage):
    folder, stages = again
    before, stamps, (words, difference) = files(folder), times(folder), OTHER[stage]
    assert f'6 of 6 files in {folder}' in (line := refused(stages[stage], capsys, *words)) and difference in line
    assert 'use --fresh to regenerate these, or --run NAME to keep both' in line
    assert difference in refused(stages[stage], capsys, *words, '--dry-run') and times(folder) == stamps
    run(stages[stage], *words, '--fresh', '--limit', '2')
    assert rewritten(stamps, folder) == ['val_00000', 'val_00001'] and files(folder).keys() == before.keys()
    assert '4 of 6 files' in refused(stages[stage], capsys, *words)
    assert '2 of 6 files' in refused(stages[stage], capsys)
    run(stages[stage], '--fresh')
    assert files(folder) == before


@each_stage
def test_fresh_makes_everything_again_whatever_the_settings(again, capsys, stage):
    folder, stages = again
    before, stamps = files(folder), times(folder)
    (folder / PLACES[stage][0].format('of an earlier list')).write_bytes(b'mine')
    run(stages[stage], '--fresh')
    assert len(rewritten(stamps, folder)) == 7 and before.items() < files(folder).items()


def test_a_network_counts_by_its_content(again, capsys):
    folder, stages = again
    for stage in stages:
        shutil.copy(folder / stage / 'model.pth', folder / 'copy.pth')
        run(stages[stage], '--checkpoint', folder / 'copy.pth')
        assert 'all 6 images are finished' in capsys.readouterr().out
        (folder / 'copy.pth').write_bytes((folder / 'copy.pth').read_bytes() + b'\0')
        assert '(other network)' in refused(stages[stage], capsys, '--checkpoint', folder / 'copy.pth')


@pytest.mark.parametrize('stage, number', [('cam', 0), ('cam', 1), ('aff', 0), ('seg', 0)])
def test_files_of_others_are_refused_and_never_removed(again, capsys, stage, number):
    folder, stages = again
    path = folder / PLACES[stage][number].format('val_00003')
    if path.suffix == '.png':
        Image.new('RGB', (9, 9)).save(path)
    else:
        np.savez(path, keys=[0])
    content = path.read_bytes()
    for words in ((), ('--fresh',), ('--limit', '4', '--fresh'), ('--dry-run',)):
        assert f'{path} was not made by this stage and is not overwritten' in refused(stages[stage], capsys, *words)
    run(stages[stage], '--limit', '3')
    run(stages[stage], '--limit', '3', '--fresh')
    assert path.read_bytes() == content


def test_seeds_can_follow_cams_and_have_settings_of_their_own(again, capsys):
    folder, stages = again
    before = files(folder)
    shutil.rmtree(folder / 'labels/val/seeds')
    run(stages['cam'], '--no-seeds', '--seed-alphas', '1', '9')
    assert 'all 6 images are finished' in capsys.readouterr().out
    run(stages['cam'])
    assert files(folder) == before
    line = refused(stages['cam'], capsys, '--seed-alphas', '1', '9')
    assert f'in {folder}/labels/val/seeds' in line and '--seed-alphas was 1.0 5.0, is 1.0 9.0' in line


def test_auto_is_recorded_as_what_it_became(again, monkeypatch, capsys, toy):
    folder, stages = again
    training = (*place(toy, folder.parent), *LOADED_HERE, *TRAINING, '--weights', folder / 'backbone/model.pth')
    trained = train_aff.main, training
    monkeypatch.setattr(devices, 'has_bfloat16', lambda device: False)
    for stage in stages.values():
        run(stage, '--amp', 'auto')
        assert 'all 6 images are finished' in capsys.readouterr().out
    run(trained, '--amp', 'auto')
    assert 'is already trained: nothing to do' in capsys.readouterr().out
    monkeypatch.setattr(devices, 'has_bfloat16', lambda device: True)
    for stage in (*stages.values(), trained):
        assert '--amp was none, is bf16' in refused(stage, capsys, '--amp', 'auto')
    run(stages['aff'], '--amp', 'auto', '--fresh', '--limit', '1')
    assert read_origin(folder / 'labels/val/walk/val_00000.png')['settings']['amp'] == 'bf16'


def test_training_on_a_replaced_image_is_refused_and_other_spellings_of_its_inputs_are_not(again, tmp_path, capsys):
    folder, _ = again
    shutil.copy(folder / 'backbone/model.pth', tmp_path / 'w.pth')
    stage = train_cam_voc.main, (*place(tmp_path / 'toy/../data/dataset.json', tmp_path), *LOADED_HERE, *CAM_TRAINING,
                                 '--weights', tmp_path / 'w.pth')
    run(stage)
    assert 'is already trained: nothing to do' in capsys.readouterr().out
    former = replace_image(tmp_path / 'data/images', 'train_00001')
    before = (folder / 'cam/model.pth').read_bytes()
    for missing in ('', 'last.pth'):
        (folder / 'cam/last.pth').unlink() if missing else None
        assert 'trained with other settings or inputs (other images); use --fresh' in refused(stage, capsys)
    assert (folder / 'cam/model.pth').read_bytes() == before
    (tmp_path / 'data/images/train_00001.jpg').write_bytes(former)
    run(stage)
    assert 'is already trained: nothing to do' in capsys.readouterr().out


def test_three_processes_make_the_same_files_as_one_and_whoever_runs_again_does_a_lost_share(again, monkeypatch):
    folder, stages = again
    before = files(folder)
    for kind in ('cam', 'seeds'):
        shutil.rmtree(folder / 'labels/val' / kind)
    for number in (0, 2):                                   # process 1 is lost
        rank(monkeypatch, number, 3)
        run(stages['cam'])
    assert len(files(folder)) == len(before) - 4
    rank(monkeypatch, 0, 1)
    run(stages['cam'])
    assert files(folder) == before


@each_stage
def test_fresh_in_several_processes_redoes_each_image_once_and_not_after_a_restart(again, monkeypatch, stage):
    folder, stages = again
    words, _ = OTHER[stage]
    run(stages[stage], *words, '--fresh')
    alone = files(folder)
    run(stages[stage], '--fresh')
    for number, names in ((1, ['val_00001', 'val_00004']), (0, ['val_00000', 'val_00003']),
                          (2, ['val_00002', 'val_00005'])):
        stamps = times(folder)
        rank(monkeypatch, number, 3)
        run(stages[stage], *words, '--fresh')
        assert rewritten(stamps, folder) == names
    assert files(folder) == alone
    stamps = times(folder)
    for number in range(3):
        rank(monkeypatch, number, 3, SLURM_RESTART_COUNT=1)
        run(stages[stage], *words, '--fresh')
    assert times(folder) == stamps


@pytest.mark.parametrize('number, left', [(0, ['val_00001', 'val_00003', 'val_00005']),
                                          (1, ['val_00000', 'val_00002', 'val_00004'])])
def test_fresh_removes_the_old_files_of_this_process_before_it_makes_new_ones(again, monkeypatch, number, left):
    folder, stages = again

    def stop(*_, **__):
        raise RuntimeError('stopped')

    monkeypatch.setattr(inference, 'map_in_workers', stop)
    rank(monkeypatch, number, 2)
    with pytest.raises(RuntimeError, match='stopped'):
        run(stages['seg'], '--fresh')
    assert sorted(path.stem for path in (folder / 'results/val').glob('*.png')) == left


def test_a_fresh_run_started_again_before_all_had_removed_their_files_makes_the_rest(again, monkeypatch):
    folder, stages = again
    run(stages['seg'], '--no-crf', '--fresh')
    alone = files(folder)
    run(stages['seg'], '--fresh')
    rank(monkeypatch, 0, 2)
    run(stages['seg'], '--no-crf', '--fresh')
    stamps = times(folder)
    for number, names in ((0, []), (1, ['val_00001', 'val_00003', 'val_00005'])):
        rank(monkeypatch, number, 2, SLURM_RESTART_COUNT=1)
        run(stages['seg'], '--no-crf', '--fresh')
        assert rewritten(stamps, folder) == names
    assert files(folder) == alone


@each_stage
@pytest.mark.parametrize('words', [(), ('--fresh',)])
def test_a_second_run_is_refused_while_the_first_lives_and_a_killed_one_hinders_nobody(again, monkeypatch, stage,
                                                                                       words):
    folder, stages = again
    output = (folder / PLACES[stage][-1]).parent
    stamps = times(folder)
    monkeypatch.setattr(inference, 'lock_folder', partial(lock_folder, patience=0))
    with another_run(output, RANK='0', WORLD_SIZE='2') as (first, _):
        with pytest.raises(ValueError, match=f'{output} is in use by process {first.pid}'):
            run(stages[stage], *words)
        rank(monkeypatch, 0, 3)                             # so is a run of another number of processes
        with pytest.raises(ValueError, match=f'{output} is in use by process {first.pid}'):
            run(stages[stage], *words)
        monkeypatch.undo()
        assert times(folder) == stamps
        first.kill()
        first.join()
        run(stages[stage], *words)
    assert not list(folder.rglob('.lock*'))


def test_a_signal_ends_inference_after_the_running_image_and_it_goes_on_there(again, monkeypatch, capsys):
    folder, stages = again
    before = files(folder)
    shutil.rmtree(folder / 'results/val')
    real, calls = infer_seg.write_result, []

    def write_and_stop(*words):
        real(*words)
        calls.append(words)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(infer_seg, 'write_result', write_and_stop)
    with (no_signal_gets_out(), pytest.raises(Stopped, match='stopped by SIGTERM; the same command resumes'),
          Signals(at_once=True)):
        run(stages['seg'])
    assert len(files(folder / 'results/val')) == 2
    run(stages['seg'])
    assert '6 images, 2 of them finished' in capsys.readouterr().out and files(folder) == before


def test_other_files_of_the_same_names_are_segmented_again(again, tmp_path, toy, capsys):
    _, stages = again
    for folder, numbers in (('a', (0, 1)), ('b', (2, 1))):
        (tmp_path / folder).mkdir()
        for name, number in zip('xy', numbers):
            shutil.copy(toy.parent / f'images/val_0000{number}.jpg', tmp_path / folder / f'{name}.jpg')
    out = tmp_path / 'out'
    run(stages['seg'], '--images', tmp_path / 'a', '--out', out)
    first, stamps = files(out), times(out)
    run(stages['seg'], '--images', tmp_path / 'b', '--out', out)
    assert 'all 2 images, 1 of them finished' in capsys.readouterr().out and rewritten(stamps, out) == ['x']
    run(stages['seg'], '--images', tmp_path / 'b/x.jpg', '--out', tmp_path / 'clean')
    second = files(out)
    assert first['x.png'] != second['x.png'] == files(tmp_path / 'clean')['x.png'] and first['y.png'] == second['y.png']
