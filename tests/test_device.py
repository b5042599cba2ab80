"""Which device a process takes, the dtype that its network computes in, and compiled networks."""
import os

import pytest
import torch
from torch import nn

from lib.net.freeze import freeze_early, set_train_mode
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from lib.net.weights import load_network, save_network
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


def test_one_process_uses_one_gpu_and_names_the_way_to_use_all(monkeypatch, capsys):
    visible(monkeypatch, 2)
    network = nn.Linear(1, 1)
    assert devices.parallel(network, CUDA) is network
    assert 'note: one GPU of 2 is used; torchrun' in capsys.readouterr().out
    told(monkeypatch, TORCHRUN, 0, 2, 0)
    with pytest.raises(ValueError, match='--compile works in one process'):
        devices.parallel(network, CUDA, compiled=True)


def test_weights_of_a_wrapped_network_have_its_own_names(tmp_path):
    network = nn.Linear(2, 2)
    wrapped = devices.parallel(network, CPU, amp=torch.bfloat16)
    assert wrapped(torch.ones(1, 2)).dtype == torch.bfloat16
    save_network(tmp_path / 'model.pth', wrapped, {})
    other = nn.Linear(2, 2)
    load_network(other, tmp_path / 'model.pth')
    assert torch.equal(other.weight, network.weight)


def test_without_a_compiler_compile_is_refused(monkeypatch):
    monkeypatch.setenv('PATH', os.devnull)
    monkeypatch.delenv('CXX', raising=False)
    with pytest.raises(ValueError, match=r'--compile needs a C\+\+ compiler, .*; install g\+\+, or leave'):
        devices.parallel(nn.Linear(1, 1), CPU, compiled=True)


def test_compiled_network_learns_as_the_plain_one_and_shares_its_weights(monkeypatch):
    monkeypatch.setattr(torch, 'compile', lambda network, **settings: torch._dynamo.optimize('eager')(network))
    torch.manual_seed(0)
    network = Seam(ResNet38d(1 / 32, (0, 0)), 4, dropout=0)
    freeze_early(network)
    set_train_mode(network, batch_norm='running')
    gradients = []
    for compiled in (False, True):
        forward = devices.parallel(network, CPU, compiled=compiled)
        network.zero_grad()
        for side in (48, 24):
            output = forward(torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side))
            (output.refined.square().mean() + output.cam.square().mean()).backward()
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.requires_grad])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)
