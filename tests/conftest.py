"""What several test files share: a small toy set, and one run of the whole pipeline on it."""
import multiprocessing
import shutil
from pathlib import Path

import pytest

import eval as evaluation
import infer_aff
import infer_cam
import infer_seg
import pretrain_toy
import train_aff
import train_cam_voc
import train_seg
from lib.data.toy import write_set
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, place


@pytest.fixture(scope='session')
def toy(tmp_path_factory) -> Path:
    """dataset.json of twelve training and six validation images that show all classes. Not to be changed."""
    folder = tmp_path_factory.mktemp('toy')
    write_set(folder, seed=0, train=12, val=6)
    return folder / 'dataset.json'


@pytest.fixture(scope='session')
def run_folder(toy, tmp_path_factory) -> Path:
    """The folder of a finished run of all stages, as run_demo.sh runs them. Not to be changed."""
    exp = tmp_path_factory.mktemp('exp')
    common = (*place(toy, exp), *LOADED_HERE)
    weights = ('--weights', str(exp / 'toy/backbone/model.pth'))
    pretrain_toy.main([*common, *NETWORK, '--batch-size', '16', '--close-ups', '32', '--close-up-epochs', '1',
                       '--whole-epochs', '1', '--whole-batch-size', '4'])
    train_cam_voc.main([*common, *CAM_TRAINING, *weights])
    for split in ('val', 'train'):
        infer_cam.main([*common, *NETWORK, *SCALES, '--split', split])
        evaluation.main([*common, '--what', 'cam', '--split', split])
    train_aff.main([*common, *TRAINING, *weights])
    for split in ('val', 'train'):
        infer_aff.main([*common, *NETWORK, '--split', split])
        evaluation.main([*common, '--what', 'walk', '--split', split])
    train_seg.main([*common, *TRAINING, *HEAD, *weights])
    for split in ('val', 'train'):
        infer_seg.main([*common, *NETWORK, *HEAD, *SCALES, '--split', split])
        evaluation.main([*common, '--what', 'seg', '--split', split])
    return exp / 'toy'


@pytest.fixture
def roomy_disk(monkeypatch):
    """A disk with a terabyte free by its own word, whatever this machine's has."""
    usage = shutil.disk_usage('/')._replace(free=1 << 40)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)


def pytest_unconfigure():
    """End the loaders that a failed test left: they are deaf to SIGTERM, and Python would wait for them."""
    for child in multiprocessing.active_children():
        child.kill()
