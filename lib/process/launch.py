"""How the drivers start a stage: in one process or, by torchrun, in several; none is left behind, however it ends.

    python -m lib.process.launch --standalone --nproc-per-node 4 -- train_seg.py --dataset voc12

is torchrun (same flags, same processes), except that it exits with the status of its processes, where torchrun exits
with 1 and a traceback whatever they said, and that they end with it even if it is killed.
"""
import argparse
import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
STOPPED = os.EX_TEMPFAIL    # 75, as of the scripts
FOLLOW = '--follow'         # first word in the processes that torchrun starts
PR_SET_PDEATHSIG = 1
CONTINUES = 'the same command continues'


class Runner:
    """Runs commands one by one. A signal ends the running one, by SIGTERM, and no other follows; twice Ctrl-C kills."""

    def __init__(self):
        self.caught, self.passed_on, self.child = None, False, None
        for number in CAUGHT:
            if signal.getsignal(number) != signal.SIG_IGN:      # as nohup has it
                signal.signal(number, self._note)

    def run(self, words: Sequence[str], name: str) -> int:
        """Status of a command, 0 for success; `name` stands for it in messages."""
        if not self.caught:
            # A process group of its own: Ctrl-C reaches it once, by way of this process.
            self.child = subprocess.Popen(words, process_group=0, preexec_fn=_Follow(os.getpid()))
            self._pass_on()
            status = self.child.wait()
            self._kill()                # what a killed stage may have left
            self.child = None
            if not self.caught and status >= 0:
                return status
            if not self.caught:
                print(f'error: {name} was killed by {signal.Signals(-status).name} (SIGKILL is often lack of memory); '
                      f'{CONTINUES}', file=sys.stderr)
                return 128 - status
            if status > 0 and status != STOPPED:
                return status
        print(f'stopped by {self.caught.name} at {name}; {CONTINUES}', file=sys.stderr)
        return STOPPED

    def _note(self, number: int, frame) -> None:
        if self.caught and self.child and number == signal.SIGINT:
            self._kill()
        self.caught = self.caught or signal.Signals(number)
        self._pass_on()

    def _pass_on(self) -> None:
        if self.caught and self.child and not self.passed_on:
            self.passed_on = True
            self.child.terminate()      # whatever came: SIGTERM is quiet while Python is still importing, too

    def _kill(self) -> None:
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class _Follow:
    """Called in a new process: have Linux send it SIGTERM when its parent ends, even by SIGKILL."""

    def __init__(self, parent: int):
        self.parent = parent
        self.prctl = ctypes.CDLL(None).prctl if sys.platform == 'linux' else None

    def __call__(self) -> None:
        if self.prctl:
            self.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != self.parent:         # it has ended already
                os.kill(os.getpid(), signal.SIGTERM)


def check_batch(stage: str, args: argparse.Namespace, processes: int) -> None:
    """Make sure that the processes can share each batch.

    Raises:
        ValueError: if they cannot.
    """
    for name in ('batch_size', 'whole_batch_size'):
        if (size := getattr(args, name, processes)) % processes:
            raise ValueError(f'{stage}: --{name.replace("_", "-")} {size} cannot be shared by {processes} '
                             f'processes; use a multiple of {processes}')


def torchrun(words: Sequence[str]) -> int:
    """Be torchrun, with its words; the status is that of the process that failed first."""
    if 'LOGLEVEL' not in os.environ:
        logging.disable(logging.ERROR)      # torchrun's own log in this process
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    flags, script = words[:words.index('--')], words[words.index('--') + 1:]
    signals = ','.join(number.name for number in CAUGHT)
    try:
        run.main([f'--signals-to-handle={signals}', *flags, '--no-python', '--', sys.executable, '-m',
                  'lib.process.launch', FOLLOW, str(os.getpid()), *script])
        return 0
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        print(f'error: process {rank} was killed by {signal.Signals(-failure.exitcode).name} (SIGKILL is often lack of '
              f'memory); {CONTINUES}', file=sys.stderr)
        return 128 - failure.exitcode
    except (SignalException, KeyboardInterrupt):
        return STOPPED


def main(words: Sequence[str]) -> int:
    """Be torchrun; or, as one of its processes, become the script, which ends when torchrun does."""
    if words[:1] == [FOLLOW]:
        _Follow(int(words[1]))()
        os.execv(sys.executable, [sys.executable, '-u', *words[2:]])
    if '--' not in words:
        print('error: put -- between the flags of torchrun and the script', file=sys.stderr)
        return 2
    return torchrun(words)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
