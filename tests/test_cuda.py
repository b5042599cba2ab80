"""All stages on a real GPU, beside the CPU. Skipped where there is none."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.data.labelio import read_maps
from lib.files.imageio import read_mask
from tests.conftest import OUTSIDE
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, place

ROOT = Path(__file__).parent.parent
PROBE = 'import sys, torch; sys.exit(not torch.cuda.is_available())'
# The devices draw other random numbers, so dropout is left out.
WITHOUT_DROPOUT = """
import sys, torch
torch.nn.Dropout.forward = torch.nn.Dropout2d.forward = lambda self, values: values
from {script} import main
main(sys.argv[1:])
"""
TRAININGS = {'cam': ('train_cam_voc', *CAM_TRAINING), 'aff': ('train_aff', *TRAINING),
             'seg': ('train_seg', *TRAINING, *HEAD)}
INFERENCES = (('infer_cam', *SCALES), ('infer_aff',), ('infer_seg', *HEAD, *SCALES))


@pytest.fixture(scope='module', autouse=True)
def gpu() -> None:
    """Skip all tests of this file on machines without a GPU."""
    if not shutil.which('nvidia-smi') or subprocess.run([sys.executable, '-c', PROBE], env=OUTSIDE).returncode:
        pytest.skip('needs a GPU')


@pytest.fixture
def exp(run_folder, tmp_path) -> Path:
    """A folder with a copy of the run that the CPU made."""
    shutil.copytree(run_folder, tmp_path / 'exp/toy')
    return tmp_path / 'exp'


def run(script: str, *words) -> None:
    """Run a stage, with GPUs visible and without dropout."""
    command = [sys.executable, '-c', WITHOUT_DROPOUT.format(script=script), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=OUTSIDE, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr


def first_losses(folder: Path) -> dict:
    """The loss terms of the first step."""
    return json.loads((folder / 'metrics.jsonl').read_text().splitlines()[0])


@pytest.mark.parametrize('amp, tolerance', [('none', 0.01), ('bf16', 0.1), ('fp16', 0.1)])
@pytest.mark.parametrize('stage', TRAININGS)
def test_training_starts_with_the_losses_of_the_cpu(toy, run_folder, exp, stage, amp, tolerance):
    script, *words = TRAININGS[stage]
    losses = []
    for flags in ((), ('--device', 'cuda', '--amp', amp)):
        shutil.rmtree(exp / 'toy' / stage)
        run(script, *place(toy, exp), *LOADED_HERE, *words, '--weights', run_folder / 'backbone/model.pth', *flags)
        losses.append(first_losses(exp / 'toy' / stage))
    assert losses[1] == pytest.approx(losses[0], rel=tolerance, abs=tolerance)
    assert json.loads((exp / 'toy' / stage / 'env.json').read_text())['device'].startswith('cuda')


def test_inference_gives_the_labels_of_the_cpu(toy, run_folder, exp):
    shutil.rmtree(exp / 'toy/labels/val')
    shutil.rmtree(exp / 'toy/results/val')
    for script, *words in INFERENCES:
        run(script, *place(toy, exp), *LOADED_HERE, *NETWORK, *words, '--split', 'val', '--device', 'cuda')

    cams = sorted((run_folder / 'labels/val/cam').glob('*.npz'))
    assert cams
    for path in cams:
        theirs, ours = (read_maps(folder / path.relative_to(run_folder), 6) for folder in (run_folder, exp / 'toy'))
        assert np.array_equal(ours[0], theirs[0])
        assert np.abs(ours[1].astype(float) - theirs[1]).mean() < 0.03
    for folder in ('labels/val/walk', 'results/val'):
        masks = sorted((run_folder / folder).glob('*.png'))
        assert masks
        same = [np.mean(read_mask(path, 7) == read_mask(exp / 'toy' / path.relative_to(run_folder), 7))
                for path in masks]
        assert np.mean(same) > 0.97
