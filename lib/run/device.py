"""Choice of device and mixed precision, and how a training step calls a network."""
import contextlib
from pathlib import Path

import torch
from torch import nn

from lib.process import ranks
from lib.process.ranks import in_last_pass


def pick_device(name: str) -> torch.device:
    """The device that a --device value means; each process of a machine gets a GPU of its own.

    Raises:
        ValueError: if the device does not exist.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ('cpu', 'cuda'):
        raise ValueError(f'--device {name} is unknown; use auto, cpu, cuda or cuda:N')
    if device.type == 'cpu':
        return device
    count, (_, world, local) = torch.cuda.device_count(), ranks.place()
    if world == 1:
        if (device.index or 0) >= count:
            raise ValueError(f'--device {name}: {count} GPUs are visible; use --device cpu, or check '
                             'CUDA_VISIBLE_DEVICES')
        return device
    if device.index is not None:
        raise ValueError(f'--device {name} is one GPU, but each of {world} processes needs its own; use --device cuda, '
                         'and choose GPUs with CUDA_VISIBLE_DEVICES')
    if ranks.from_srun() and count:
        local %= count          # srun may show each task its own GPUs alone (--gpus-per-task), numbered from 0
    if local >= count:
        raise ValueError(f'process {local} of this machine sees {count} GPUs; start as many processes as there are '
                         'GPUs, or use --device cpu')
    return torch.device('cuda', local)


def resolve_amp(name: str, device: torch.device) -> str:
    """What an --amp value means on this device: 'none', 'bf16' or 'fp16'.

    `auto` is bf16 where the hardware supports it; elsewhere it would be emulated, slower than float32.

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
    """Context in which a network runs."""
    return torch.autocast(device.type, amp) if amp else contextlib.nullcontext()


def place(network: nn.Module, device: torch.device, amp: torch.dtype | None) -> nn.Module:
    """The network on the device; with autocast and on GPUs in channels_last, which is faster there."""
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if amp or device.type == 'cuda' else network


class Autocast(nn.Module):
    """A network under autocast."""

    def __init__(self, network: nn.Module, device: torch.device, amp: torch.dtype):
        super().__init__()
        self.module, self.device, self.amp = network, device, amp

    def forward(self, images: torch.Tensor):
        with autocast(self.device, self.amp):
            return self.module(images)


class SharedGradients(nn.parallel.DistributedDataParallel):
    """Averages the gradients over the processes once per batch: in its last gradient accumulation step."""

    def forward(self, images: torch.Tensor):
        with contextlib.nullcontext() if in_last_pass() else self.no_sync():
            return super().forward(images)


def parallel(network: nn.Module, device: torch.device, *, amp: torch.dtype | None = None,
             whole_batch: bool = False) -> nn.Module:
    """The network as a training step calls it: under autocast, and over the processes of a run or the GPUs of one.

    Args:
        network: on the device.
        device: of this process.
        amp: autocast dtype; None for full float32.
        whole_batch: the network needs statistics of the whole batch, which GPUs of one process do not share.
    """
    world = ranks.place().world
    gpus = torch.cuda.device_count() if device.type == 'cuda' and device.index is None and world == 1 else 1
    if whole_batch and gpus > 1:
        print(f'note: one GPU of {gpus} is used, as batch norm needs the whole batch; torchrun uses all of them')
        gpus = 1
    if amp:
        network = Autocast(network, device, amp)
    if world > 1:
        ranks.connect(device)
        network = SharedGradients(network, [device] if device.type == 'cuda' else None)
        network.broadcast_buffers = False           # not by its argument, which torch 2.14 warns of
        return network
    return nn.DataParallel(network, list(range(gpus))) if gpus > 1 else network
