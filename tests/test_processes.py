"""Several processes, started as a user starts them: the same networks and files as one makes."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train_aff
from lib.process import ranks
from lib.run import device as devices
from tests.fault import contents
from tests.processes import averages_in_affinity_training, deeplab_steps, together
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, error_line, place, tensors

ROOT = Path(__file__).parent.parent
ALONE = {**os.environ, 'OMP_NUM_THREADS': '1'}


def torchrun(processes, script, words, *options):
    """The command that a user types, started."""
    return subprocess.Popen([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node',
                             str(processes), *options, '--', f'{script}.py', *words],
                            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ALONE)


def output(*started):
    """What processes print that end well."""
    printed = [process.communicate(timeout=120)[0] for process in started]
    assert all(process.returncode == 0 for process in started), printed
    return ''.join(printed)


def stages(run_folder, toy, exp):
    common = [*place(toy, exp), *LOADED_HERE, '--weights', str(run_folder / 'backbone/model.pth'),
              '--picture-every', '0']
    labels = run_folder / 'labels/train'
    return {'cam': ['train_cam_voc', [*common, *CAM_TRAINING]],
            'aff': ['train_aff', [*common, *TRAINING, '--seed-dir', str(labels / 'seeds')]],
            'seg': ['train_seg', [*common, *TRAINING, *HEAD, '--labels', str(labels / 'walk')]]}


def difference(one, other):
    """Largest difference between the tensors of two networks: its norm over the tensor's."""
    assert one.keys() == other.keys()
    pairs = [[torch.as_tensor(tensors[key]).double() for tensors in (one, other)] for key in one]
    return max(float((first - second).norm() / first.norm().clamp(min=1e-9)) for first, second in pairs)


def test_four_processes_train_the_same_network_as_one(run_folder, toy, tmp_path):
    script, words = stages(run_folder, toy, tmp_path)['cam']
    printed = output(torchrun(4, script, words))
    assert difference(*(tensors(folder / 'cam/model.pth') for folder in (run_folder, tmp_path / 'toy'))) < 5e-5
    assert printed.count(' steps of 4 images (') == 1            # said once, not by every process


def test_segmentation_in_two_processes_has_the_same_losses_as_in_one(run_folder, toy, tmp_path):
    """Its batch norm, here over two channels, makes of rounding in float32 a difference; float64 shows it below."""
    script, words = stages(run_folder, toy, tmp_path)['seg']
    output(torchrun(2, script, words))
    rows, others = ([json.loads(line) for line in (folder / 'seg/metrics.jsonl').read_text().splitlines()]
                    for folder in (tmp_path / 'toy', run_folder))
    assert rows[0] == pytest.approx(others[0], rel=1e-4)
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=0.1)


def test_batch_norm_over_several_processes_is_that_of_the_whole_batch():
    assert difference(deeplab_steps(0, 1), together(4, deeplab_steps)) < 1e-9


def worker(agent, rank):
    """Process id of a worker of torchrun."""
    for child in Path(f'/proc/{agent}/task/{agent}/children').read_text().split():
        if f'LOCAL_RANK={rank}' in Path(f'/proc/{child}/environ').read_bytes().decode().split('\0'):
            return int(child)


def test_a_killed_worker_comes_back_and_the_run_ends_as_it_should(run_folder, toy, tmp_path):
    script, words = stages(run_folder, toy, tmp_path)['aff']
    words += ['--max-steps', '30']
    train_aff.main([*words, '--run', 'alone'])
    started = torchrun(2, script, [*words, '--save-every', '1', '--fresh'], '--max-restarts', '1')
    while not (tmp_path / 'toy/aff/last.pth').exists() and started.poll() is None:
        time.sleep(0.01)
    os.kill(worker(started.pid, 1), signal.SIGKILL)
    assert 'resuming ' in output(started)
    assert difference(*(tensors(tmp_path / run / 'aff/model.pth') for run in ('alone', 'toy'))) < 1e-5


def test_passes_share_their_gradients_once_for_each_batch(run_folder, toy, tmp_path):
    script, words = stages(run_folder, toy, tmp_path)['aff']
    found = [together(2, averages_in_affinity_training, [*words, '--run', passes, '--accumulate', passes])
             for passes in ('1', '2')]
    assert found[0] == found[1] >= 4
    assert difference(*(tensors(tmp_path / run / 'aff/model.pth') for run in ('1', '2'))) < 1e-5


@pytest.mark.parametrize('stage', ['cam', 'aff'])
def test_a_batch_in_several_passes_trains_the_same_network(run_folder, toy, tmp_path, stage):
    script, words = stages(run_folder, toy, tmp_path)[stage]
    __import__(script).main([*words, '--accumulate', '2'])
    other = tensors(tmp_path / 'toy' / stage / 'model.pth')
    assert difference(tensors(run_folder / stage / 'model.pth'), other) < 5e-5


def test_two_processes_write_the_same_files_as_one(run_folder, toy, tmp_path):
    """By torchrun; tests/test_outputs.py is each task of an srun in turn."""
    words = [*place(toy, tmp_path), *LOADED_HERE, *NETWORK, *SCALES, '--split', 'train', '--checkpoint',
             str(run_folder / 'cam/model.pth')]
    output(torchrun(2, 'infer_cam', words))
    ours, theirs = contents(tmp_path / 'toy/labels/train'), contents(run_folder / 'labels/train')
    assert len(ours) >= 24 and ours == {path: theirs[path] for path in theirs if not path.startswith('walk/')}


def test_passes_are_refused_where_batch_norm_needs_the_whole_batch(run_folder, toy, tmp_path, capsys):
    script, words = stages(run_folder, toy, tmp_path)['seg']
    line = error_line(__import__(script).main, (*words, '--accumulate', '2'), capsys)
    assert '--accumulate 2: batch norm needs the whole batch' in line


def told(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_torchrun_is_believed_before_srun_and_nonsense_is_refused(monkeypatch):
    assert ranks.place() == (0, 1, 0, False)
    told(monkeypatch, SLURM_PROCID=3, SLURM_STEP_NUM_TASKS=4, SLURM_LOCALID=1)
    assert ranks.place() == (3, 4, 1, True)
    told(monkeypatch, RANK=1, WORLD_SIZE=2, LOCAL_RANK=1)
    assert ranks.place() == (1, 2, 1, False) and not ranks.is_first()
    for rank in ('2', '-1', 'one', ''):
        told(monkeypatch, RANK=rank)
        with pytest.raises(ValueError, match=f'RANK is {rank}, WORLD_SIZE is 2, LOCAL_RANK is 1: expected numbers'):
            ranks.place()


def test_a_batch_that_cannot_be_shared_is_refused_with_the_next_sizes(monkeypatch):
    told(monkeypatch, RANK=0, WORLD_SIZE=4)
    assert ranks.shares(8) == (0, 4) and ranks.shares(8, 2) == (0, 4)
    with pytest.raises(ValueError, match='--batch-size 10 cannot be shared by 4 processes; use 8 or 12'):
        ranks.shares(10)
    with pytest.raises(ValueError, match='by 4 processes in 3 accumulation steps .--accumulate.; use 12'):
        ranks.shares(8, 3)


def test_tasks_of_srun_alone_cannot_train_together(monkeypatch):
    told(monkeypatch, SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=2)
    monkeypatch.delenv('MASTER_ADDR', raising=False)
    with pytest.raises(ValueError, match='2 srun tasks cannot train together; start torchrun'):
        devices.connect(torch.device('cpu'))
