"""Which device a process takes, the dtype that its network computes in."""
import contextlib

import pytest
import torch
from torch import nn
from torch.nn.parallel.parallel_apply import parallel_apply

from lib.net.weights import load_network, save_network, unwrapped
from lib.run import device as devices

CPU, CUDA = torch.device('cpu'), torch.device('cuda')
TORCHRUN = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
SRUN = ('SLURM_PROCID', 'SLURM_STEP_NUM_TASKS', 'SLURM_LOCALID')


def told(monkeypatch, names, *values):
    for name, value in zip(names, values, strict=True):
        monkeypatch.setenv(name, str(value))


def visible(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: count > 0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)


@pytest.mark.parametrize('names, rank, local, gpus, device', [
    (SRUN, 3, 3, 1, 'cuda:0'),          # srun --gpus-per-task=1: each task sees one GPU, its own
    (SRUN, 3, 3, 2, 'cuda:1'),          # --gpus-per-task=2
    (SRUN, 6, 2, 4, 'cuda:2'),          # srun --gpus-per-node=4: all tasks of a node see all
    (TORCHRUN, 1, 1, 2, 'cuda:1'),      # torchrun, perhaps under CUDA_VISIBLE_DEVICES=2,3
    (TORCHRUN, 5, 1, 4, 'cuda:1')])
@pytest.mark.parametrize('name', ['auto', 'cuda'])
def test_each_process_takes_a_gpu_that_it_sees(monkeypatch, name, names, rank, local, gpus, device):
    visible(monkeypatch, gpus)
    told(monkeypatch, names, rank, 8, local)
    assert devices.pick_device(name) == torch.device(device)


def test_a_torchrun_that_a_task_of_srun_started_is_believed_about_the_gpu(monkeypatch):
    visible(monkeypatch, 4)
    told(monkeypatch, SRUN, 1, 2, 0)
    told(monkeypatch, TORCHRUN, 7, 8, 3)
    assert devices.pick_device('auto') == torch.device('cuda:3')


@pytest.mark.parametrize('names, gpus', [(TORCHRUN, 1), (TORCHRUN, 0), (SRUN, 0)])
def test_more_processes_than_gpus_are_refused(monkeypatch, names, gpus):
    visible(monkeypatch, gpus)
    told(monkeypatch, names, 3, 4, 3)
    with pytest.raises(ValueError, match=f'process 3 of this machine sees {gpus} GPUs; start as many processes as'):
        devices.pick_device('cuda')


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    visible(monkeypatch, 2)
    told(monkeypatch, TORCHRUN, 0, 2, 0)
    with pytest.raises(ValueError, match='--device cuda:1 is one GPU, but each of 2 processes needs its own; use'):
        devices.pick_device('cuda:1')


@pytest.mark.parametrize('name, message', [('cuda:2', '--device cuda:2: 2 GPUs are visible'), ('tpu', 'is unknown')])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name, message):
    visible(monkeypatch, 2)
    with pytest.raises(ValueError, match=message):
        devices.pick_device(name)


@pytest.mark.parametrize('native', [True, False])
@pytest.mark.parametrize('device', [CPU, CUDA])
def test_auto_is_bfloat16_where_the_hardware_has_it(monkeypatch, native, device):
    monkeypatch.setattr(devices, 'has_bfloat16', lambda device: native)
    assert devices.resolve_amp('auto', device) == ('bf16' if native else 'none')
    assert devices.pick_amp('auto', device) == (torch.bfloat16 if native else None)
    assert devices.resolve_amp('bf16', device) == 'bf16' and devices.resolve_amp('none', device) == 'none'


def test_float16_is_for_gpus():
    assert devices.resolve_amp('fp16', CUDA) == 'fp16' and devices.pick_amp('fp16', CUDA) is torch.float16
    with pytest.raises(ValueError, match='--amp fp16 needs a GPU'):
        devices.pick_amp('fp16', CPU)


class Threads(nn.Module):
    """nn.DataParallel without GPUs: a batch in halves, by torch's own threads, in which the CPU is the accelerator."""

    def __init__(self, module, gpus):
        super().__init__()
        self.module, self.gpus = module, gpus

    def forward(self, images):
        halves = [(half,) for half in images.chunk(len(self.gpus))]
        return torch.cat(parallel_apply([self.module] * len(halves), halves, devices=self.gpus))


@pytest.fixture
def two_gpus(monkeypatch):
    visible(monkeypatch, 2)
    monkeypatch.setattr(nn, 'DataParallel', Threads)
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: True)
    monkeypatch.setattr(torch.accelerator, 'current_accelerator', lambda: CPU)
    enabled = torch.is_autocast_enabled         # asked without a device, it speaks of CUDA
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda device='cpu': enabled(device))
    for name in ('current_stream', 'device_index'):
        monkeypatch.setattr(torch.accelerator, name, lambda *_: contextlib.nullcontext())


class Probe(nn.Linear):
    """Notes the dtype of what it computes."""

    def forward(self, x):
        y = super().forward(x)
        self.seen.append(y.dtype)
        return y.float()


@pytest.mark.parametrize('amp', [torch.bfloat16, torch.float16])
def test_gpus_of_one_process_compute_in_the_dtype_asked_for(two_gpus, monkeypatch, amp):
    network, images = Probe(3, 3), torch.ones(4, 3)
    network.seen = []
    # The threads' accelerator is the CPU here, so autocast must be the CPU's too.
    monkeypatch.setattr(devices, 'autocast', lambda device, amp: torch.autocast('cpu', amp))
    wrapped = devices.parallel(network, CUDA, amp=amp)
    assert type(wrapped) is Threads and unwrapped(wrapped) is network
    wrapped(images)
    assert network.seen == [amp, amp]
    if amp != torch.get_autocast_dtype('cpu'):      # autocast outside, whose dtype the threads never learn
        with torch.autocast('cpu', amp):
            Threads(network, [0, 1])(images)
        assert network.seen[2:] == [torch.get_autocast_dtype('cpu')] * 2


def test_a_network_that_needs_the_whole_batch_takes_one_gpu(two_gpus, capsys):
    network = nn.Linear(1, 1)
    assert devices.parallel(network, CUDA, whole_batch=True) is network
    assert 'only one of 2 GPUs is used' in capsys.readouterr().out
    assert devices.parallel(network, torch.device('cuda:1')) is network


def test_weights_of_a_wrapped_network_have_its_own_names(tmp_path):
    network = nn.Linear(2, 2)
    wrapped = devices.parallel(network, CPU, amp=torch.bfloat16)
    assert wrapped(torch.ones(1, 2)).dtype == torch.bfloat16
    save_network(tmp_path / 'model.pth', wrapped, {})
    other = nn.Linear(2, 2)
    load_network(other, tmp_path / 'model.pth')
    assert torch.equal(other.weight, network.weight)
