"""Processes that share a batch (gloo, CPU), forked from a server that has torch loaded: what no script shows.

    together(count, function, *arguments)    runs function(rank, count, *arguments) in each and returns what rank 0 does
"""
import multiprocessing
import os
import socket
from collections.abc import Callable

import torch
from torch.nn import functional as F

import train_aff
from lib.net.deeplab import DeepLab
from lib.net.freeze import freeze_norm_affine, make_optimizer, set_train_mode
from lib.net.resnet38d import ResNet38d
from lib.net.syncnorm import share_batch_norm
from lib.process.ranks import batch_part
from lib.run import device as devices

CPU = torch.device('cpu')


def together(count: int, function: Callable, *arguments):
    """Run a function in so many processes; what it returns in the first."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    processes = [context.Process(target=_one, args=(sender, rank, count, port, function, arguments))
                 for rank in range(count)]
    for process in processes:
        process.start()
    sender.close()
    result = receiver.recv()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count
    return result


def _one(sender, rank: int, count: int, port: int, function: Callable, arguments: tuple) -> None:
    os.environ |= {'RANK': str(rank), 'WORLD_SIZE': str(count), 'LOCAL_RANK': str(rank), 'MASTER_ADDR': 'localhost',
                   'MASTER_PORT': str(port)}
    torch.set_num_threads(1)
    result = function(rank, count, *arguments)
    if rank == 0:
        sender.send(result)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def deeplab_steps(rank: int, world: int) -> dict:
    """DeepLab after three steps in float64 on batches of four, as arrays by name."""
    devices.connect(CPU)
    torch.manual_seed(0)
    images, masks = torch.randn(3, 4, 3, 32, 32, dtype=torch.float64), torch.randint(0, 4, (3, 4, 32, 32))
    masks[:, 0] = masks[:, 1, :20] = 255        # shares of the labelled pixels differ
    network = DeepLab(ResNet38d(1 / 32), num_classes=4, fov_channels=8).double()
    freeze_norm_affine(network)
    set_train_mode(network, 'batch')
    network = share_batch_norm(network, CPU)
    optimizer, wrapped = make_optimizer(network, 1e-3, 0.9, 5e-4), devices.parallel(network, CPU)
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    for step, (image, mask) in enumerate(zip(images[:, mine], masks[:, mine])):
        count = devices.mean_of_all((mask != 255).sum().double())
        torch.manual_seed(step)
        with batch_part(rank, world):
            logits = wrapped(image)
        optimizer.zero_grad()
        (F.cross_entropy(logits, mask, ignore_index=255, reduction='sum') / count).backward()
        optimizer.step()
    return {name: value.numpy() for name, value in network.state_dict().items()}


def averages_in_affinity_training(rank: int, world: int, words: list[str]) -> int:
    """How often gradients were averaged over the processes (by bucket) in a run of train_aff.py with these words."""
    found = []

    class Counted(devices.SharedGradients):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            self.register_comm_hook(None, self.average)

        @staticmethod
        def average(_, bucket):
            found.append(bucket.index())
            shared = torch.distributed.all_reduce(bucket.buffer().div_(world), async_op=True)
            return shared.get_future().then(lambda done: done.value()[0])

    devices.SharedGradients = Counted
    train_aff.main(words)
    return len(found)
