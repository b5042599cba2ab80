"""Where a network runs: device, mixed precision, and the processes that train it together."""
import contextlib
import os
import re
from collections.abc import Callable, Sequence

import torch
from torch import distributed, nn

from lib.process import ranks
from lib.process.ranks import in_last_pass
from lib.run.record import processor


def pick_device(name: str) -> torch.device:
    """The device that a --device value means; each process of a machine gets a GPU of its own.

    Raises:
        ValueError: if the device does not exist.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    if not re.fullmatch(r'cpu|cuda(:[1-9]?[0-9])?', name):
        raise ValueError(f'--device {name} is unknown; use auto, cpu, cuda or cuda:N')
    device = torch.device(name)
    if device.type == 'cpu':
        return device
    count, (_, world, local, srun) = torch.cuda.device_count(), ranks.place()
    if world == 1:
        if (device.index or 0) >= count:
            raise ValueError(f'--device {name}: {count} GPUs are visible; use --device cpu, or check '
                             'CUDA_VISIBLE_DEVICES')
        return device
    if device.index is not None:
        raise ValueError(f'--device {name} is one GPU, but each of {world} processes needs its own; use --device cuda, '
                         'and choose GPUs with CUDA_VISIBLE_DEVICES')
    if srun and count:
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
    return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(processor()[1])


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
        print(f'note: only one of {gpus} GPUs is used, because batch norm needs the whole batch; torchrun uses all of '
              'them')
        gpus = 1
    if amp:
        network = Autocast(network, device, amp)
    if world > 1:
        connect(device)
        network = SharedGradients(network, [device] if device.type == 'cuda' else None)
        network.broadcast_buffers = False           # not by its argument, which torch 2.14 warns of
        return network
    return nn.DataParallel(network, list(range(gpus))) if gpus > 1 else network


def connect(device: torch.device) -> None:
    """Connect the processes of a training run; does nothing where there is one.

    Raises:
        ValueError: if they were not started by torchrun.
    """
    rank, world, *_ = ranks.place()
    if world == 1 or distributed.is_initialized():
        return
    if 'MASTER_ADDR' not in os.environ:
        raise ValueError(f'{world} srun tasks cannot train together; start torchrun on each node, see '
                         'examples/slurm/run_voc_nodes.sh')
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    # torchrun on one node keeps its store when it restarts workers: without a prefix they would find the addresses of
    # the dead. On several nodes the counts may differ; there torchrun is told to make a new store (see the example).
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', 0) if os.environ.get('GROUP_WORLD_SIZE', '1') == '1' else 0
    store, *_ = next(distributed.rendezvous('env://'))
    distributed.init_process_group('cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo', rank=rank,
                                   world_size=world, store=distributed.PrefixStore(f'attempt-{attempt}', store))


def any_of(flags: Sequence[bool]) -> list[bool]:
    """For each flag, whether it is set in any process. Does not synchronise with the device."""
    if not distributed.is_initialized():
        return list(flags)
    shared = torch.tensor(flags, dtype=torch.uint8)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return shared.bool().tolist()


def texts_of_all(text: str) -> list[str]:
    """The texts of all processes, without empty ones."""
    texts = [text]
    if distributed.is_initialized():
        texts = [None] * ranks.place().world
        distributed.all_gather_object(texts, text)
    return [text for text in texts if text]


def mean_of_all(values: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over the processes."""
    if not distributed.is_initialized():
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values / ranks.place().world


def by_the_first(function: Callable[[], None]) -> None:
    """Call a function in rank 0 while the others wait; its error is raised in all."""
    problem = ''
    if ranks.is_first():
        try:
            function()
        except (ValueError, OSError) as error:
            problem = str(error)
            if not distributed.is_initialized():
                raise
    if problems := texts_of_all(problem):
        raise ValueError(problems[0])
