"""Choice of device and mixed precision, and how a network is distributed over devices and processes."""
import contextlib
import importlib.util
import os
import shutil
from pathlib import Path

import torch
from torch import nn

from lib.process import ranks
from lib.process.batchpart import in_last_pass


def pick_device(name: str) -> torch.device:
    """The device a --device value means; of several processes on a machine, each has its own GPU.

    Raises:
        ValueError: if it is not here.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ('cpu', 'cuda'):
        raise ValueError(f'--device {name} is unknown; use auto, cpu, cuda or cuda:N')
    if device.type == 'cuda':
        count, here = torch.cuda.device_count(), ranks.place()
        if here.world > 1:
            if device.index is not None:
                raise ValueError(f'--device {name} is one GPU, and each of {here.world} processes takes its own; use '
                                 '--device cuda, and choose GPUs with CUDA_VISIBLE_DEVICES')
            # A task of srun may see its own GPUs alone (--gpus-per-task), numbered from 0 in each.
            local = here.local % max(count, 1) if ranks.from_srun() else here.local
            if local >= count:
                raise ValueError(f'process {here.local} of this machine finds {count} GPUs; start as many processes as '
                                 'there are GPUs, or use --device cpu')
            return torch.device('cuda', local)
        if (device.index or 0) >= count:
            raise ValueError(f'--device {name}: {count} GPUs are visible; use --device cpu, or check '
                             'CUDA_VISIBLE_DEVICES')
    return device


def resolve_amp(name: str, device: torch.device) -> str:
    """What an --amp value means on this device: 'none', 'bf16' or 'fp16'.

    `auto` is bf16 where the hardware multiplies in it; elsewhere it would be emulated, slower than float32.

    Raises:
        ValueError: if the device cannot do it.
    """
    if name == 'auto':
        name = 'bf16' if has_bfloat16(device) else 'none'
    if name == 'fp16' and device.type == 'cpu':
        raise ValueError('--amp fp16 needs a GPU; on a CPU use --amp bf16 or none')
    return name


def pick_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype that an --amp value means on this device; None for full float32. Raises as resolve_amp."""
    return {'none': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}[resolve_amp(name, device)]


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path('/proc/cpuinfo')
    flags = cpuinfo.read_text() if cpuinfo.exists() else ''
    return 'avx512_bf16' in flags or 'amx_bf16' in flags


def autocast(device: torch.device, amp: torch.dtype | None) -> contextlib.AbstractContextManager:
    """Context in which the network runs."""
    return torch.autocast(device.type, amp) if amp else contextlib.nullcontext()


def place(network: nn.Module, device: torch.device, amp: torch.dtype | None) -> nn.Module:
    """The network on the device, in the memory format that suits the number format.

    channels_last is used with autocast and on GPUs, where it is the faster one.
    """
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if amp or device.type == 'cuda' else network


class Autocast(nn.Module):
    """A network under autocast. DataParallel calls it in threads of its own, which enter autocast without its dtype."""

    def __init__(self, network: nn.Module, device: torch.device, amp: torch.dtype):
        super().__init__()
        self.module, self.device, self.amp = network, device, amp

    def forward(self, images: torch.Tensor):
        with autocast(self.device, self.amp):
            return self.module(images)


class SharedGradients(nn.parallel.DistributedDataParallel):
    """Averages the gradients over the processes once per batch: in the last pass of gradient accumulation."""

    def forward(self, images: torch.Tensor):
        with contextlib.nullcontext() if in_last_pass() else self.no_sync():
            return super().forward(images)


def parallel(network: nn.Module, device: torch.device, *, amp: torch.dtype | None = None, compiled: bool = False,
             whole_batch: bool = False) -> nn.Module:
    """The network as a training step calls it: under autocast, and over the processes of a run or the GPUs of one.

    Args:
        network: on the device.
        device: of this process.
        amp: autocast dtype; None for full float32.
        compiled: compile it.
        whole_batch: the network needs statistics of the whole batch, which GPUs of one process do not share.

    Raises:
        ValueError: if several GPUs are to share a compiled network, or there is no compiler.
    """
    processes = ranks.place().world
    gpus = torch.cuda.device_count() if device.type == 'cuda' and device.index is None and processes == 1 else 1
    if whole_batch and gpus > 1:
        print(f'note: one GPU of {gpus} is used, as batch norm needs the whole batch; torchrun uses all of them')
        gpus = 1
    if compiled:
        if processes > 1:
            raise ValueError('--compile works in one process; leave it out')
        if gpus > 1:
            raise ValueError(f'--compile works on one device, {gpus} GPUs would share the batch; leave it '
                             'out, or make one GPU visible with CUDA_VISIBLE_DEVICES=0')
        network = compile_network(network, device)
    if amp:
        network = Autocast(network, device, amp)
    if processes > 1:
        ranks.connect(device)
        network = SharedGradients(network, [device] if device.type == 'cuda' else None)
        network.broadcast_buffers = False           # not by its argument, which torch 2.14 warns of
        return network
    return nn.DataParallel(network, list(range(gpus))) if gpus > 1 else network


def compile_network(network: nn.Module, device: torch.device) -> nn.Module:
    """The network, compiled on its first steps."""
    check_compiler(device)
    # Sizes as they come: the two views of the CAM stage make two programs, each for its own size.
    return torch.compile(network, dynamic=False)


def check_compiler(device: torch.device) -> None:
    """Raise ValueError unless torch.compile finds what it needs for the device."""
    names = [os.environ.get('CXX'), 'g++', 'c++', 'clang++'] if device.type == 'cpu' else [
        os.environ.get('CC'), 'gcc', 'cc', 'clang']
    missing = [] if any(shutil.which(name) for name in names if name) else ['a C++ compiler']
    if device.type == 'cuda' and importlib.util.find_spec('triton') is None:
        missing.append('the package triton')
    if missing:
        raise ValueError(f'--compile needs {" and ".join(missing)}, which this machine lacks; install it, or leave '
                         '--compile out')
