"""Several processes (gloo, CPU): the same network as one process makes, and a run that outlives a killed worker."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lib.run import device as devices
from lib.run import ranks
from tests.processes import deeplab_steps
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, TRAINING, error_line, place, tensors

ROOT = Path(__file__).parent.parent


def torchrun(processes, task, *words):
    return subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node',
                           str(processes), *words, '-m', 'tests.processes', json.dumps(task)],
                          cwd=ROOT, capture_output=True, text=True, timeout=120)


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
    return max(float((one[key] - other[key]).double().norm() / one[key].double().norm().clamp(min=1e-9)) for key in one
               if one[key].is_floating_point())


@pytest.mark.parametrize('processes', [2, 4])
def test_several_processes_train_the_same_networks_as_one_with_dropout_and_sampling_too(run_folder, toy, tmp_path,
                                                                                        processes):
    """In float32 DeepLab's batch norm, here over two channels, makes of rounding a difference: float64 shows the steps.

    Through the script its losses stay within some percent.
    """
    words = stages(run_folder, toy, tmp_path)
    done = torchrun(processes, {'stages': list(words.values()), 'deeplab': str(tmp_path / 'deeplab')})
    assert done.returncode == 0, done.stdout + done.stderr
    found = {'cam': None, 'aff': None}
    for stage in found:
        found[stage] = difference(tensors(run_folder / stage / 'model.pth'),
                                  tensors(tmp_path / 'toy' / stage / 'model.pth'))
    found['seg'] = difference(deeplab_steps(0, 1), torch.load(tmp_path / 'deeplab', weights_only=True))
    print(f'{processes} processes, relative differences: {found}')
    assert max(found.values()) < 1e-5
    for stage, tolerance in (('cam', 1e-4), ('aff', 1e-4), ('seg', 0.05)):
        ours, theirs = ([json.loads(line) for line in (folder / stage / 'metrics.jsonl').read_text().splitlines()]
                        for folder in (tmp_path / 'toy', run_folder))
        assert ours[0] == pytest.approx(theirs[0], rel=1e-4, abs=1e-6)
        for row, other in zip(ours, theirs, strict=True):
            assert row == pytest.approx(other, rel=tolerance, abs=1e-6)
    assert done.stdout.count('CAM network:') == 1               # said once, not by every process


def test_a_killed_worker_comes_back_and_the_run_ends_as_it_should(run_folder, toy, tmp_path):
    script, words = stages(run_folder, toy, tmp_path)['aff']
    words += ['--save-every', '1', '--fresh']
    done = torchrun(2, {'stages': [[script, words]], 'kill': [1, 2]}, '--max-restarts', '1')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'resumed after step 2' in (tmp_path / 'toy/aff/log.txt').read_text()
    assert difference(tensors(run_folder / 'aff/model.pth'), tensors(tmp_path / 'toy/aff/model.pth')) < 1e-5


@pytest.mark.parametrize('stage', ['cam', 'aff'])
def test_a_batch_in_several_passes_trains_the_same_network(run_folder, toy, tmp_path, stage):
    script, words = stages(run_folder, toy, tmp_path)[stage]
    __import__(script).main([*words, '--accumulate', '2'])
    other = tensors(tmp_path / 'toy' / stage / 'model.pth')
    assert difference(tensors(run_folder / stage / 'model.pth'), other) < 1e-5


def test_passes_are_refused_where_batch_norm_needs_the_whole_batch(run_folder, toy, tmp_path, capsys):
    script, words = stages(run_folder, toy, tmp_path)['seg']
    line = error_line(__import__(script).main, (*words, '--accumulate', '2'), capsys)
    assert '--accumulate 2: batch norm needs the statistics of the whole batch' in line


def told(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_torchrun_is_believed_before_srun_and_nonsense_is_refused(monkeypatch):
    assert ranks.place() == (0, 1, 0)
    told(monkeypatch, SLURM_PROCID=3, SLURM_STEP_NUM_TASKS=4, SLURM_LOCALID=1)
    assert ranks.place() == (3, 4, 1)
    told(monkeypatch, RANK=1, WORLD_SIZE=2, LOCAL_RANK=1)
    assert ranks.place() == (1, 2, 1) and not ranks.is_first()
    told(monkeypatch, RANK=2)
    with pytest.raises(ValueError, match='RANK is 2, WORLD_SIZE is 2'):
        ranks.place()


def test_a_batch_that_cannot_be_shared_is_refused_with_the_next_sizes(monkeypatch):
    told(monkeypatch, RANK=0, WORLD_SIZE=4)
    assert ranks.shares(8) == (0, 4) and ranks.shares(8, 2) == (0, 4)
    with pytest.raises(ValueError, match='--batch-size 10 cannot be shared by 4 processes; use 8 or 12'):
        ranks.shares(10)
    with pytest.raises(ValueError, match='by 4 processes in 3 passes each .--accumulate.; use 12'):
        ranks.shares(8, 3)


def test_tasks_of_srun_alone_cannot_train_together(monkeypatch):
    told(monkeypatch, SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=2)
    monkeypatch.delenv('MASTER_ADDR', raising=False)
    with pytest.raises(ValueError, match='2 tasks of srun cannot train together by themselves; start torchrun'):
        ranks.connect(torch.device('cpu'))


def test_several_gpus_of_one_process_share_a_batch(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(nn, 'DataParallel', lambda network, gpus: ('shared', gpus))
    network, device = nn.Linear(1, 1), torch.device('cuda')
    assert devices.parallel(network, device) == ('shared', [0, 1])
    assert devices.parallel(network, device, whole_batch=True) is network
    assert 'one GPU of 2 is used' in capsys.readouterr().out
