"""What test_processes.py has torchrun start: some training stages, one after another; perhaps a process dies in one.

    torchrun --nproc-per-node 2 -m tests.processes JSON    {"stages": [[script, [words]], ...], "kill": [rank, step]}
"""
import importlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from lib.net.deeplab import DeepLab
from lib.net.freeze import freeze_norm_affine, set_train_mode
from lib.net.optimizer import make_optimizer
from lib.net.resnet38d import ResNet38d
from lib.net.syncnorm import share_batch_norm
from lib.run import device as devices
from lib.run import loop, ranks
from lib.run.options import run_script
from tool.batchpart import batch_part


def kill_at(rank: int, step: int) -> None:
    """Have this process killed in that step of the first attempt, if it is that rank."""
    if int(os.environ['RANK']) != rank or int(os.environ['TORCHELASTIC_RESTART_COUNT']):
        return
    update = loop._Run.update

    def killed(run, index, batch):
        if index == step:
            os.kill(os.getpid(), signal.SIGKILL)
        update(run, index, batch)

    loop._Run.update = killed


def deeplab_steps(rank: int, world: int) -> dict[str, torch.Tensor]:
    """DeepLab after three steps in float64 on batches of four, shared by so many processes."""
    torch.manual_seed(0)
    images, masks = torch.randn(3, 4, 3, 32, 32, dtype=torch.float64), torch.randint(0, 4, (3, 4, 32, 32))
    masks[:, 0] = masks[:, 1, :20] = 255        # shares of the labelled pixels differ
    network = DeepLab(ResNet38d(1 / 32), num_classes=4, fov_channels=8).double()
    freeze_norm_affine(network)
    set_train_mode(network, 'batch')
    network = share_batch_norm(network, torch.device('cpu'))
    optimizer, spread = make_optimizer(network, 1e-3, 0.9, 5e-4), devices.parallel(network, torch.device('cpu'))
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    for step, (image, mask) in enumerate(zip(images[:, mine], masks[:, mine])):
        count = ranks.mean((mask != 255).sum().double())
        torch.manual_seed(step)
        with batch_part(rank, world):
            logits = spread(image)
        optimizer.zero_grad()
        (F.cross_entropy(logits, mask, ignore_index=255, reduction='sum') / count).backward()
        optimizer.step()
    return network.state_dict()


def save_steps(path: Path) -> None:
    """Take the steps in this process among the others; the first one writes the network."""
    ranks.connect(torch.device('cpu'))
    state = deeplab_steps(*ranks.place()[:2])
    if ranks.is_first():
        torch.save(state, path)


def main() -> None:
    """Run the stages."""
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    if 'kill' in task:
        kill_at(*task['kill'])
    for script, words in task['stages']:
        importlib.import_module(script).main(words)
    if 'deeplab' in task:
        save_steps(Path(task['deeplab']))


if __name__ == '__main__':
    run_script(main)
