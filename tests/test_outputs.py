"""Inference that is run again: what is skipped, made again or refused, and how processes share the work."""
import json
import os
import shutil
import signal

import pytest

import infer_aff
import infer_cam
import infer_seg
from lib.run import outputs
from lib.run.lock import Lock
from tests.running import HEAD, LOADED_HERE, NETWORK, SCALES, error_line, place
from tool.ending import Stopped

RANKS = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')


def files(folder):
    """Content of the label files below a folder, by place."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.suffix in ('.npz', '.png')}


@pytest.fixture
def again(run_folder, toy, tmp_path):
    """A copy of a finished run, and how to run its inference on val again."""
    shutil.copytree(run_folder, tmp_path / 'toy')
    common = (*place(toy, tmp_path), *LOADED_HERE, *NETWORK, '--split', 'val')
    stages = {'cam': (infer_cam.main, (*common, *SCALES)), 'aff': (infer_aff.main, common),
              'seg': (infer_seg.main, (*common, *HEAD, *SCALES))}
    return tmp_path / 'toy', stages


def run(stage, *words):
    main, common = stage
    main([str(word) for word in (*common, *words)])


PLACES = {'cam': ('labels/val/cam/val_00001.npz', 'labels/val/seeds/val_00001.npz'),
          'aff': ('labels/val/walk/val_00001.png',), 'seg': ('results/val/val_00001.png',)}


@pytest.mark.parametrize('stage', ['cam', 'aff', 'seg'])
def test_finished_files_stay_and_damaged_or_missing_ones_are_made_again_alike(again, capsys, stage):
    folder, stages = again
    before = files(folder)
    run(stages[stage])
    assert 'all 6 images are finished' in capsys.readouterr().out and files(folder) == before
    for place_of in PLACES[stage]:
        (folder / place_of).write_bytes((folder / place_of).read_bytes()[:-30])
        (folder / place_of.replace('00001', '00003')).unlink()
    untouched = folder / PLACES[stage][0].replace('00001', '00002')
    stamp = untouched.stat().st_mtime_ns
    run(stages[stage])
    text = capsys.readouterr().out
    assert '6 images, 4 of them finished' in text and 'val_00001' in text and 'is made again' in text
    assert files(folder) == before and untouched.stat().st_mtime_ns == stamp
    run(stages[stage])
    assert 'all 6 images are finished' in capsys.readouterr().out


@pytest.mark.parametrize('stage', ['cam', 'aff', 'seg'])
def test_a_backbone_that_is_named_and_one_that_the_network_tells_make_the_same_files(again, capsys, stage):
    _, stages = again
    run(stages[stage], '--backbone', 'resnet38d')
    assert 'all 6 images are finished' in capsys.readouterr().out


def test_files_without_a_note_are_read_before_they_are_taken_for_finished(again, capsys):
    folder, stages = again
    cams = folder / 'labels/val/cam'
    (cams / '.whole-0of1.json').unlink()
    content = bytearray((cams / 'val_00002.npz').read_bytes())
    content[len(content) // 2] ^= 1                         # size and name as they were
    (cams / 'val_00002.npz').write_bytes(content)
    run(stages['cam'])
    assert '6 images, 5 of them finished' in capsys.readouterr().out
    assert outputs._check(outputs.Output(cams, '.npz', infer_cam.read_maps), ['val_00002']) == [('val_00002', '')]


def test_other_settings_or_inputs_are_refused_and_fresh_starts_over(again, capsys):
    folder, stages = again
    before = files(folder)
    main, common = stages['seg']
    assert '--crf was True, is False' in error_line(main, (*common, '--no-crf'), capsys)
    other = error_line(main, (*common, '--checkpoint', folder / 'seg/last.pth'), capsys)
    assert 'last.pth' in other                              # no network: refused before that
    main, common = stages['aff']
    shutil.copy(folder / 'aff/model.pth', folder / 'copy.pth')
    run(stages['aff'], '--checkpoint', folder / 'copy.pth')     # the same bytes elsewhere are the same network
    made = folder / 'labels/val/cam/made_by.json'
    content = json.loads(made.read_text())
    content['settings']['scales'] = [1.0]
    made.write_text(json.dumps(content))
    assert 'CAMs had the checksum' in error_line(main, common, capsys)
    assert files(folder) == before
    (folder / 'labels/val/walk/old.png').write_bytes(b'')
    run(stages['aff'], '--fresh')
    assert files(folder) == before


def test_files_that_nobody_answers_for_are_refused(again, capsys):
    folder, stages = again
    (folder / 'results/val/made_by.json').unlink()
    assert 'holds files but no made_by.json' in error_line(*stages['seg'], capsys)


def test_seeds_can_follow_cams(again, capsys):
    folder, stages = again
    before = files(folder)
    shutil.rmtree(folder / 'labels/val/seeds')
    run(stages['cam'], '--no-seeds')
    assert 'all 6 images are finished' in capsys.readouterr().out
    run(stages['cam'])
    assert files(folder) == before


def test_three_processes_make_the_same_files_as_one_and_whoever_runs_again_does_a_lost_share(again, monkeypatch):
    folder, stages = again
    before = files(folder)
    for kind in ('cam', 'seeds'):
        shutil.rmtree(folder / 'labels/val' / kind)
    for rank in (0, 2):                                     # process 1 is lost
        for name, value in zip(RANKS, (rank, 3, rank)):
            monkeypatch.setenv(name, str(value))
        run(stages['cam'])
    assert len(files(folder)) == len(before) - 4
    for name in RANKS:
        monkeypatch.delenv(name)
    run(stages['cam'])
    assert files(folder) == before


def test_fresh_is_refused_where_several_processes_share_the_work(again, monkeypatch, capsys):
    _, stages = again
    for name, value in zip(RANKS, (1, 3, 1)):
        monkeypatch.setenv(name, str(value))
    main, common = stages['seg']
    assert '--fresh would remove what the other processes write' in error_line(main, (*common, '--fresh'), capsys)


def test_a_second_run_is_refused_while_the_first_lives(again, capsys):
    folder, stages = again
    (folder / 'results/val/val_00000.png').unlink()
    with Lock(folder / 'results/val', '.lock-0of1'):
        assert 'is in use by process' in error_line(*stages['seg'], capsys)


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
    with pytest.raises(Stopped, match='stopped by SIGTERM: what is finished stays; the same command resumes'):
        run(stages['seg'])
    assert len(files(folder / 'results/val')) == 2
    run(stages['seg'])
    assert '6 images, 2 of them finished' in capsys.readouterr().out and files(folder) == before


def test_a_changed_picture_is_segmented_again(again, tmp_path, toy, capsys):
    _, stages = again
    pictures = [shutil.copy(toy.parent / f'images/val_0000{n}.jpg', tmp_path) for n in (0, 1)]
    words = ('--images', *pictures, '--out', tmp_path / 'out')
    run(stages['seg'], *words)
    first = files(tmp_path / 'out')
    shutil.copy(toy.parent / 'images/val_00002.jpg', pictures[0])
    os.utime(pictures[0], ns=(2 ** 62, 2 ** 62))
    run(stages['seg'], *words)
    assert '2 images, 1 of them finished' in capsys.readouterr().out
    second = files(tmp_path / 'out')
    assert first['val_00000.png'] != second['val_00000.png'] and first['val_00001.png'] == second['val_00001.png']
