"""How a program ends: whatever the cause, with one line that says what to do, and without leaving processes behind."""
import ctypes
import errno
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
EXIT_STATUS = 75        # "temporary failure" of sysexits.h: the same command resumes
RANK0_FIRST = 2         # seconds in which rank 0 can report an error before the others do
PR_SET_PDEATHSIG = 1
AGAIN = 'then run the same command again: it resumes'
MEMORY = f'out of memory; free some, use fewer --workers, or in training --accumulate 2, {AGAIN}'
GPU_MEMORY = ('the GPU is out of memory; in training, --accumulate 2 halves the need with the same result; --amp bf16 '
              'and more GPUs help too; a lower --batch-size or --crop-size changes the result')
TOO_MANY = f'too many open files; raise the limit (ulimit -n 4096) or use fewer --workers, {AGAIN}'
BY_NUMBER = {errno.ENOMEM: MEMORY, errno.EMFILE: TOO_MANY, errno.ENFILE: TOO_MANY,
             errno.EAGAIN: f'no more processes can be started; use fewer --workers, {AGAIN}',
             errno.ENOSPC: f'no space is left for the output; free some, {AGAIN}',
             errno.EPIPE: 'the output stream was closed early; run the same command again to see everything'}
NO_MEMORY = re.compile(r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|std::bad_alloc")
LOST = re.compile(r'Connection (closed|reset) by peer|gloo/transport|NCCL|Broken pipe')


class Stopped(BaseException):
    """A signal ended the run before it was finished; its message says where the same command resumes.

    Not an Exception: code that catches those, as file readers do, must not catch this one.
    """


class Signals:
    """While the context lasts, the first signal that asks a program to end is noted in `caught`.

    With at_once it also raises Stopped, whatever the main thread does. A second SIGINT (Ctrl-C) always ends the program
    at once. An ignored SIGHUP (nohup) stays ignored.
    """

    def __init__(self, at_once: bool = False):
        self.at_once, self.caught, self.former = at_once, None, {}

    def __enter__(self) -> 'Signals':
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._note) for number in CAUGHT
                           if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """Ignore signals from here to the end of the context: the program is ending already."""
        for number in self.former:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame) -> None:
        if self.caught:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.caught = signal.Signals(number).name
        if self.at_once:
            raise Stopped(f'stopped by {self.caught}; the same command resumes')


def run_script(main: Callable) -> NoReturn:
    """Run a program's main and exit: with its status, or with one line on stderr.

    The status is 2 after a problem the user can fix; 75 after a signal and 130 after a second Ctrl-C: then the same
    command resumes. A fault of the program keeps its traceback, and so does any error with HFPL_DEBUG set.
    """
    torchrun = 'TORCHELASTIC_RUN_ID' in os.environ
    if torchrun:
        end_with_parent(signal.SIGTERM)
    # Characters that the terminal lacks are printed as escapes; output to a closed stream is dropped.
    sys.stdout, sys.stderr = (stream or open(os.devnull, 'w') for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    with Signals(at_once=True) as signals:
        try:
            try:
                status, line = main(), ''
                sys.stdout.flush()
            finally:
                signals.ignore()
                for child in multiprocessing.active_children():
                    child.kill()
        except SystemExit as end:       # --help
            status, line = end.code, ''
        except BaseException as error:
            status, line = _explained(error)
            if not line or status == 2 and os.environ.get('HFPL_DEBUG'):
                raise
        if line and int(os.environ.get('LOCAL_RANK') or 0):     # if rank 0 ends with it, torchrun ends this process
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(RANK0_FIRST)
        try:
            print(line, end='\n' * bool(line), file=sys.stderr, flush=True)
            sys.stdout.flush()
        except OSError:     # nobody reads it, as after `| head`
            os._exit(status or 0)
        if torchrun:        # a thread of the process group can crash the interpreter at its end
            os._exit(status or 0)
        sys.exit(status)


def end_with_parent(number: int, parent: int | None = None) -> None:
    """Have Linux send this process a signal when its parent ends, even by SIGKILL. Elsewhere nothing happens.

    `parent` is the parent's process id where the caller knows it: then a parent that has already ended counts too.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != (parent or os.getppid()):
            os.kill(os.getpid(), number)


def _explained(error: BaseException) -> tuple[int, str]:
    """Exit status and line for an error; no line for a fault of the program."""
    text, runtime = ' '.join(str(error).split()) or type(error).__name__, isinstance(error, RuntimeError)
    if isinstance(error, Stopped):
        return EXIT_STATUS, text
    if isinstance(error, KeyboardInterrupt):
        return 130, 'interrupted; the same command resumes'
    if isinstance(error, OSError) and error.errno in BY_NUMBER:
        problem, remedy = BY_NUMBER[error.errno].split('; ')
        text = f'{f"{error.filename}: {error.strerror}" if error.filename else problem}; {remedy}'
    elif isinstance(error, MemoryError) or runtime and NO_MEMORY.search(text):
        text = f'{MEMORY} ({text[:120]})'
    elif runtime and 'out of memory' in text:       # CUDA's, in several classes
        text = f'{GPU_MEMORY} ({text[:120]})'
    elif runtime and LOST.search(text):
        return EXIT_STATUS, f'error: another process of this run ended ({text[:120]}); see its message, {AGAIN}'
    elif not isinstance(error, ValueError | OSError | ImportError):
        return 1, ''
    return 2, f'error: {text}'
