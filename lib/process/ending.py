"""How a program ends: with one line that says what to do, whatever ends it, and without processes left behind."""
import atexit
import errno
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
EXIT_STATUS = 75        # "temporary failure" of sysexits.h: the same command resumes
PATIENCE = 16           # seconds that a noted signal waits
OTHERS_FIRST = 2        # seconds that another process of a run leaves the first one to say what is wrong
AGAIN = 'then run the same command again: it resumes'
NO_MEMORY = re.compile(r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|std::bad_alloc")
LOST = re.compile(r'Connection (closed|reset) by peer|gloo/transport|NCCL|Broken pipe')
TOO_MANY = f'too many open files; raise the limit (ulimit -n 4096) or use fewer --workers, {AGAIN}'
MEMORY = f'memory ran out; free memory, use fewer --workers, or in training --accumulate 2, {AGAIN}'
GPU_MEMORY = ('the GPU is out of memory; in training, --accumulate 2 halves the need at the same result; --amp bf16 '
              'and more GPUs help too; a lower --batch-size or --crop-size changes the result')
BY_NUMBER = {errno.ENOMEM: MEMORY, errno.EMFILE: TOO_MANY, errno.ENFILE: TOO_MANY,
             errno.EAGAIN: f'no more processes can be started; use fewer --workers, {AGAIN}',
             errno.ENOSPC: f'no space is left where the output goes; make room, {AGAIN}',
             errno.EPIPE: 'the output was closed before all was printed; run the same command again to see it'}


class Stopped(Exception):
    """A signal ended the run before it was finished; its message says where the same command resumes."""


class Signals:
    """While the context lasts, signals that ask a program to end raise Stopped, or are noted in `caught`.

    A signal that is noted raises Stopped too once PATIENCE seconds have passed. A second SIGINT (Ctrl-C) always ends
    the program at once. A SIGHUP that is ignored (nohup) stays so.

    Args:
        at_once: raise Stopped, in whatever the main thread does; else note.
    """

    def __init__(self, at_once: bool = False):
        self.at_once, self.caught, self.former = at_once, None, {}

    def __enter__(self) -> 'Signals':
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._note) for number in (*CAUGHT, signal.SIGALRM)
                           if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        return self

    def __exit__(self, *_) -> None:
        if self.former:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """From here to the end of the context no signal counts: the program ends already."""
        for number in self.former:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self.caught = self.caught is None, self.caught or signal.Signals(number).name
        if first:       # later ones leave time to clean up; Python may have swallowed what the first one raised
            signal.setitimer(signal.ITIMER_REAL, PATIENCE / 2 if self.at_once else PATIENCE, PATIENCE / 4)
        if first and self.at_once or number == signal.SIGALRM:
            raise Stopped(f'stopped by {self.caught}; the same command resumes')

    def until_caught(self, items: Iterable, where: Callable[[], str]) -> Iterator:
        """The items, until a signal comes.

        Raises:
            Stopped: after the item during which it came; `where` says how much is done.
        """
        for item in items:
            yield item
            if self.caught:
                raise Stopped(f'stopped by {self.caught}: {where()}; the same command resumes there')


def run_script(main: Callable) -> NoReturn:
    """Run a program's main and exit: with its status, or with one line on stderr.

    The status is 2 after a problem the user can fix; 75 after a signal and 130 after a second Ctrl-C: then the same
    command resumes. A fault of the program keeps its traceback, and so does any error with HFPL_DEBUG set.
    """
    _make_printable()
    signals = Signals(at_once=True)
    with signals:
        try:
            try:
                status = main()
                sys.stdout.flush()
            finally:
                signals.ignore()
                for child in multiprocessing.active_children():
                    child.kill()
        except Exception as error:
            status, line = _explained(error)
            if line is None or status == 2 and os.environ.get('HFPL_DEBUG'):
                raise
        except KeyboardInterrupt:
            status, line = 130, 'interrupted; the same command resumes'
        except SystemExit as end:       # of argparse
            status, line = end.code, ''
        else:
            line = ''
        if line and int(os.environ.get('LOCAL_RANK') or 0):     # torchrun ends this process if the first said it too
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(OTHERS_FIRST)
        _print_last(line)
        if 'TORCHELASTIC_RUN_ID' in os.environ:     # a thread of the process group can abort the end of the interpreter
            atexit._run_exitfuncs()
            os._exit(status if isinstance(status, int) else bool(status))
        sys.exit(status)


def one_line(error: BaseException) -> str:
    """Its message on one line."""
    return ' '.join(str(error).split()) or type(error).__name__


def _explained(error: Exception) -> tuple[int, str | None]:
    """Exit status and line for an error; None in place of the line for a fault of the program."""
    text = one_line(error)
    if isinstance(error, Stopped):
        return EXIT_STATUS, text
    if isinstance(error, OSError) and error.errno in BY_NUMBER:
        problem, remedy = BY_NUMBER[error.errno].split('; ')
        return 2, f'error: {f"{error.filename}: {error.strerror}" if error.filename else problem}; {remedy}'
    if isinstance(error, RuntimeError) and 'out of memory' in text:       # CUDA's, in several classes
        return 2, f'error: {GPU_MEMORY} ({text[:120]})'
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and NO_MEMORY.search(text):
        return 2, f'error: {MEMORY} ({text[:120]})'
    if isinstance(error, RuntimeError) and LOST.search(text):
        return EXIT_STATUS, f'error: another process of this run ended ({text[:120]}); see what it said, {AGAIN}'
    if isinstance(error, ValueError | OSError | ImportError):
        return 2, f'error: {text}'
    return 1, None


def _make_printable() -> None:
    """Have letters that the terminal lacks printed as their codes, and what goes to a closed stream nowhere."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, 'w'))
        elif hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')


def _print_last(line: str) -> None:
    """Print the line on stderr; whatever cannot be printed any more, as after `| head`, is dropped without a word."""
    for stream, text in ((sys.stdout, ''), (sys.stderr, f'{line}\n' if line else '')):
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
