"""What several test files share: a small toy set, and one run of the whole pipeline on it."""
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval as evaluation
import infer_aff
import infer_cam
import infer_seg
import pretrain_toy
import train_aff
import train_cam_voc
import train_seg
from lib.data.toy import write_set
from lib.files.imageio import write_label_png
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, place
from voc12.prepare import prepare

OUTSIDE = dict(os.environ)                  # what test_cuda.py gives to its commands
os.environ['CUDA_VISIBLE_DEVICES'] = ''     # all else is tested on the CPU, also where there is a GPU


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


@pytest.fixture
def roomy_disk(monkeypatch):
    """A disk with a terabyte free by its own word, whatever this machine's has."""
    usage = shutil.disk_usage('/')._replace(free=1 << 40)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)


def pytest_collection_modifyitems(items):
    """The slow files first: two processes then end together."""
    items.sort(key=lambda item: item.path.stem not in ('test_smoke', 'test_history', 'test_processes'))


def pytest_unconfigure():
    """End the loaders that a failed test left: they are deaf to SIGTERM, and Python would wait for them."""
    for child in multiprocessing.active_children():
        child.kill()
