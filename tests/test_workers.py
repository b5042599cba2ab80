import os
import signal
import subprocess
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset

from tool.workers import settle_in


class Slow(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(0.05)
        return index


def test_a_loader_survives_a_signal_to_the_whole_job_and_ends_when_its_parent_says_so():
    loader = iter(DataLoader(Slow(), num_workers=1, worker_init_fn=settle_in))
    first = next(loader)
    worker, = loader._workers
    for number in ('TERM', 'INT', 'USR1'):
        subprocess.run(['kill', f'-{number}', str(worker.pid)], check=True)
    assert [first.item(), *(value.item() for value in loader)] == list(range(8))
    again = iter(DataLoader(Slow(), num_workers=1, worker_init_fn=settle_in))
    next(again)
    worker, = again._workers
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0         # no failure, as torch would call it


def test_the_helpers_of_a_killed_process_end_too(tmp_path):
    code = ('import os, sys, time\nfrom lib.run.pool import Background\nfrom tests.test_workers import note\n'
            'with Background(1) as pool:\n    pool.submit(note, sys.argv[1])\n    time.sleep(60)')
    process = subprocess.Popen([sys.executable, '-c', code, tmp_path / 'helper'])
    for _ in range(600):
        if (tmp_path / 'helper').exists() and (tmp_path / 'helper').read_text():
            break
        time.sleep(0.1)
    helper = int((tmp_path / 'helper').read_text())
    process.kill()
    process.wait()
    for _ in range(100):
        if not os.path.exists(f'/proc/{helper}') or 'Z' in open(f'/proc/{helper}/stat').read().split()[2]:
            return
        time.sleep(0.1)
    raise AssertionError('the helper lives on')


def note(path):
    """Write this process's number."""
    torch.zeros(1)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    with open(path, 'w') as file:
        file.write(str(os.getpid()))
