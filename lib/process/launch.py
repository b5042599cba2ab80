"""How the drivers start a stage: in one process or, by torchrun, in several; no process outlives the one it belongs to.

    python -m lib.process.launch --standalone --nproc-per-node 4 -- train_seg.py --dataset voc12

is torchrun (same flags, same processes), but exits with the status of the process that failed first, where torchrun
exits with 1 and a traceback.
"""
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from lib.process.ending import CAUGHT, EXIT_STATUS, end_with_parent

RESUMES = 'the same command resumes'


class Runner:
    """Runs commands one by one. A signal ends the running one, by SIGTERM, and no other follows; twice Ctrl-C kills."""

    def __init__(self):
        self.caught, self.child = None, None
        for number in CAUGHT:
            if signal.getsignal(number) != signal.SIG_IGN:      # as nohup sets it
                signal.signal(number, self._note)

    def run(self, command: Sequence[str], name: str) -> int:
        """Exit status of a command, 0 for success; `name` stands for it in messages."""
        if not self.caught:
            # A process group of its own, so that Ctrl-C reaches it once, through this process.
            self.child = subprocess.Popen(command, process_group=0,
                                          preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()))
            if self.caught:         # it came while the command was started
                self.child.terminate()
            status, self.child = self.child.wait(), None
            if not self.caught or 0 < status != EXIT_STATUS:
                return _reported(status, name)
        print(f'stopped by {self.caught.name} at {name}; {RESUMES}', file=sys.stderr)
        return EXIT_STATUS

    def _note(self, number: int, frame) -> None:
        first, self.caught = not self.caught, self.caught or signal.Signals(number)
        if self.child and first:
            self.child.terminate()
        elif self.child and number == signal.SIGINT:
            self.child.kill()


def _reported(status: int, name: str) -> int:
    """The exit status as a shell has it; a signal that killed the process is reported."""
    if status >= 0:
        return status
    print(f'error: {name} was killed by {signal.Signals(-status).name} (SIGKILL is often lack of memory); {RESUMES}',
          file=sys.stderr)
    return 128 - status


def main(words: Sequence[str]) -> int:
    """Be torchrun; the status is that of the process that failed first."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    if 'LOGLEVEL' not in os.environ:
        logging.disable(logging.ERROR)      # torchrun's own log in this process
    try:
        run.main([f'--signals-to-handle={",".join(number.name for number in CAUGHT)}', *words])
        return 0
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _reported(failure.exitcode, f'process {rank}')
    except (SignalException, KeyboardInterrupt):
        return EXIT_STATUS


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
