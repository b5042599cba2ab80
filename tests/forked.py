"""Runs the scripts in processes forked from one that has everything loaded: a command takes a tenth of a second.

    with Forks() as forks:
        ended = forks.run('infer_cam', words, cwd=folder)               one process
        ended = forks.run('infer_cam', words, folder, processes=2)      two, as srun starts them
        ended = forks.run('infer_cam', words, folder, kill_at=7)        SIGKILL at its seventh file operation

The server is a fresh interpreter with one thread, so that its children may use torch whatever the caller did with it.
"""
import gc
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PATIENCE = 120          # seconds that a command may take
KILLABLE = ('os.rename', 'os.remove', 'os.mkdir', 'os.truncate', 'os.rmdir')
LAUNCHER = 'torch.distributed.run'


class Ended(NamedTuple):
    """How a command ended."""

    status: int             # the first of its processes that is not 0; negative for a signal
    out: str
    errors: list[str]       # lines on stderr of the processes that did not end with 0
    operations: int         # file operations at which the first process could have been killed


class Forks:
    """The server; used as a context. `folder` takes what the commands print."""

    def __init__(self, folder: Path | None = None):
        self.folder, self.numbers = Path(folder or tempfile.mkdtemp()), itertools.count()

    def __enter__(self) -> 'Forks':
        self.server = subprocess.Popen([sys.executable, '-m', 'tests.forked'], cwd=ROOT, text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       env={**os.environ, 'OMP_NUM_THREADS': '1'})
        return self

    def __exit__(self, *_) -> None:
        self.server.stdin.close()
        self.server.wait(30)

    def run(self, script: str, words: list[str], cwd: Path, *, processes: int = 1, launcher: bool = False,
            kill_at: int | None = None) -> Ended:
        """Run a script to its end.

        Args:
            script: its module.
            words: of its command line.
            cwd: where it runs.
            processes: as many tasks of srun, or with `launcher` processes that torchrun starts.
            kill_at: number of the file operation, from 1, at which its first process is killed.
        """
        number = next(self.numbers)
        tasks = 1 if launcher else processes
        job = {'SLURM_JOB_ID': str(number), 'SLURM_STEP_ID': '0', 'SLURM_STEP_NUM_TASKS': str(tasks)}
        environments = [{**job, 'SLURM_PROCID': str(rank), 'SLURM_LOCALID': str(rank)} if tasks > 1 else {}
                        for rank in range(tasks)]
        if launcher:
            words = ['--nproc-per-node', str(processes), '--rdzv-backend', 'c10d', '--rdzv-endpoint', 'localhost:0',
                     '--', str(ROOT / f'{script}.py'), *words]
            script = LAUNCHER
        place = str(self.folder / 'said')
        request = {'script': script, 'words': words, 'cwd': str(cwd), 'environments': environments, 'place': place,
                   'kill_at': kill_at}
        self.server.stdin.write(json.dumps(request) + '\n')
        self.server.stdin.flush()
        statuses = json.loads(self.server.stdout.readline())
        said = [[Path(f'{place}.{rank}.{kind}').read_text() for kind in ('out', 'err')] for rank in range(tasks)]
        return Ended(next((status for status in statuses if status), 0), said[0][0],
                     [line for status, (_, text) in zip(statuses, said) if status for line in text.splitlines()],
                     int(Path(f'{place}.0.count').read_text() or 0))


def serve() -> None:
    """Body of the server: a request a line, a list of exit statuses each."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for script in ('pretrain_toy', 'train_cam_voc', 'infer_cam', 'train_aff', 'infer_aff', 'train_seg', 'infer_seg',
                   'eval', LAUNCHER, 'torch.utils.tensorboard', 'torch.distributed.elastic.multiprocessing'):
        importlib.import_module(script)
    _warm_up()
    importlib.import_module('lib.run.origin').RECENT = 0.1     # else a history would hardly come to remember a digest
    gc.freeze()         # collecting garbage in a child would copy all pages
    for line in sys.stdin:
        request = json.loads(line)
        children = []
        for rank, environment in enumerate(request['environments']):
            child = os.fork()
            if not child:
                _child(request, rank, environment)
            children.append(child)
        answers.write(json.dumps(_statuses(children)) + '\n')
        answers.flush()


def _warm_up() -> None:
    """Have loaded what libraries load at first use."""
    import torch
    from torch.utils.tensorboard import SummaryWriter
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.SGD([weight]).step()
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as board:
        board.add_scalar('value', 0, 0)


def _statuses(children: list[int]) -> list[int]:
    """Exit statuses of the children; those that do not end are killed."""
    until, left, found = time.monotonic() + PATIENCE, list(children), {}
    while left:
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                found[child] = os.waitstatus_to_exitcode(status)
                left.remove(child)
        if time.monotonic() > until:
            for child in left:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.001)
    return [found[child] for child in children]


def _child(request: dict, rank: int, environment: dict) -> None:
    """Run the script and end."""
    status = 1
    try:
        os.chdir(request['cwd'])
        os.environ.update(environment)
        for number, kind in ((1, 'out'), (2, 'err')):
            file = os.open(f'{request["place"]}.{rank}.{kind}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = [request['script'] + '.py', *request['words']]
        count = os.open(f'{request["place"]}.{rank}.count', os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        main = importlib.import_module(request['script']).main
        sys.addaudithook(_counter(count, request['kill_at'] if rank == 0 else None))
        try:
            if request['script'] == LAUNCHER:
                main(request['words'])
                status = 0
            else:
                importlib.import_module('lib.process.ending').run_script(lambda: main(request['words']))
        except SystemExit as end:
            status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _counter(file: int, kill_at: int | None):
    """Audit hook that counts file operations and kills the process before one of them."""
    done, process = 0, os.getpid()

    def count(event: str, words: tuple) -> None:
        nonlocal done
        writes = event == 'open' and isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in KILLABLE) and os.getpid() == process:
            done += 1
            os.pwrite(file, str(done).encode(), 0)
            if done == kill_at:
                os.kill(process, signal.SIGKILL)

    return count


if __name__ == '__main__':
    serve()
