"""Start a stage of a driver in one process or, with torchrun, in several; no process outlives its parent.

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

from lib.process.ending import CAUGHT, EXIT_STATUS, Signals, Stopped, end_with_parent

# Freed memory stays in a process (glibc): a sixth of the time of CAM inference on a CPU.
KEEP_MEMORY = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': '2000000000'}
RESUMES = 'the same command resumes'


def run(command: Sequence[str], name: str) -> int:
    """Exit status of a command, 0 for success; `name` stands for it in messages. A signal is passed on as SIGTERM.

    Raises:
        Stopped: if the command ended because of a signal.
        KeyboardInterrupt: after a second Ctrl-C, which kills it.
    """
    # A process group of its own, so that Ctrl-C reaches it once, through this process.
    with Signals(at_once=True) as signals:
        child = subprocess.Popen(command, process_group=0, env={**KEEP_MEMORY, **os.environ},
                                 preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()))
        try:
            try:
                status = child.wait()
            except Stopped:
                child.terminate()
                status = child.wait()
        except KeyboardInterrupt:
            child.kill()
            raise
    if signals.caught and (status <= 0 or status == EXIT_STATUS):
        raise Stopped(f'stopped by {signals.caught} at {name}; {RESUMES}')
    return _reported(status, name)


def _reported(status: int, name: str) -> int:
    """The exit status as a shell has it; a signal that killed the process is reported."""
    if status >= 0:
        return status
    print(f'error: {name} was killed by {signal.Signals(-status).name} (SIGKILL is often lack of memory); {RESUMES}',
          file=sys.stderr)
    return 128 - status


def main(words: Sequence[str]) -> int:
    """Act as torchrun; the status is that of the process that failed first."""
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
