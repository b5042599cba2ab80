"""Training on labels that teach nothing: stopped at its first steps, by one line."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train_seg
from lib.files.imageio import read_mask, write_label_png
from lib.run.loop import PATIENCE, Run
from tests.running import HEAD, LOADED_HERE, TRAINING, place


def checked(steps, *labelled):
    """Hands the counts of so many batches to a run; the number of batches that it let through."""
    run = Run(SimpleNamespace(amp='none'), Path(), None, None, steps, torch.device('cpu'), {}, no_labels='nothing here')
    for done, count in enumerate(labelled):
        try:
            run.checked(torch.tensor(count))
        except ValueError as error:
            assert str(error) == 'nothing here'
            return done
    return len(labelled)


def test_training_stops_when_no_batch_had_a_labelled_pixel():
    assert checked(1000, *[0] * 50) == PATIENCE - 1
    assert checked(3, 0, 0, 0) == 2
    assert checked(1000, *[[0.0, 0.0, 0.0]] * 50) == PATIENCE - 1


def test_one_batch_with_labels_is_enough():
    assert checked(1000, *[0] * (PATIENCE - 1), 1, *[0] * 50) == PATIENCE + 50
    assert checked(2, [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]) == 2


@pytest.mark.parametrize('value', [255, None])
def test_segmentation_training_on_ignored_pixels_alone_leaves_no_model(run_folder, toy, tmp_path, value):
    labels, done = tmp_path / 'labels', tmp_path / 'toy/seg/model.pth'
    for path in (run_folder / 'labels/train/walk').glob('*.png'):
        mask = read_mask(path, 7)
        write_label_png(labels / path.name, np.full_like(mask, value) if value else mask)
    words = [*place(toy, tmp_path), *LOADED_HERE, *TRAINING, *HEAD, '--weights', 'none', '--labels', str(labels),
             '--picture-every', '0']
    if value:
        with pytest.raises(ValueError, match=r'labels in .* are 255, ignored, in the first batches: nothing to learn'):
            train_seg.main(words)
    else:
        train_seg.main(words)
    assert done.exists() == (value is None)
