"""What test_processes.py has torchrun start: some training stages, one after another; perhaps a process dies in one.

    torchrun --nproc-per-node 2 -m tests.processes JSON    {"stages": [[script, [words]], ...], "kill": [rank, step]}
"""
import importlib
import json
import os
import signal
import sys

import torch

from lib.run import loop
from lib.run.options import run_script


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


def main() -> None:
    """Run the stages."""
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    if 'kill' in task:
        kill_at(*task['kill'])
    for script, words in task['stages']:
        importlib.import_module(script).main(words)


if __name__ == '__main__':
    run_script(main)
