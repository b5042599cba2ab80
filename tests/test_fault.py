"""The short form of tests/fault.py: kill -9 while a checkpoint and while label files are written, then run again."""
import random

import pytest

import infer_cam
import train_aff
from tests.fault import contents, kill_once
from tests.running import NETWORK, SCALES, TRAINING, place


@pytest.mark.parametrize('stage', ['aff', 'cam'])
def test_a_stage_killed_while_it_writes_ends_as_an_unbroken_one(run_folder, toy, tmp_path, stage):
    common = [*place(toy, tmp_path), '--workers', '0']
    words = {'aff': [*common, *TRAINING, '--weights', str(run_folder / 'backbone/model.pth'), '--seed-dir',
                     str(run_folder / 'labels/train/seeds'), '--save-every', '1'],
             'cam': [*common, *NETWORK, *SCALES, '--split', 'train', '--checkpoint',
                     str(run_folder / 'cam/model.pth')]}[stage]
    main, script = {'aff': (train_aff.main, 'train_aff.py'), 'cam': (infer_cam.main, 'infer_cam.py')}[stage]
    where = kill_once([script, *words], tmp_path, 0, True, random.Random(0))
    assert where.startswith('while ')
    main(words)
    folder = {'aff': 'aff', 'cam': 'labels/train'}[stage]
    ours, theirs = contents(tmp_path / 'toy' / folder), contents(run_folder / folder)
    theirs = {path: content for path, content in theirs.items() if 'walk' not in path}
    assert ours == theirs
