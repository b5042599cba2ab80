"""Ending well when the job is to be stopped."""
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
EXIT_STATUS = 75        # "temporary failure" of sysexits.h: the same command continues


class Stopped(Exception):
    """A signal ended the run before it was finished; its message says where the same command goes on."""


class Signals:
    """While the context lasts, the first SIGTERM, SIGINT or SIGUSR1 is noted in `caught` instead of ending the process.

    A second SIGINT (Ctrl-C) ends it at once.
    """

    def __init__(self):
        self.caught = None
        self.former = {}

    def __enter__(self) -> 'Signals':
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._note) for number in CAUGHT}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number).name

    def until_caught(self, items: Iterable, where: Callable[[], str]) -> Iterator:
        """The items, until a signal comes.

        Raises:
            Stopped: after the item during which it came; `where` says how much is done.
        """
        for item in items:
            yield item
            if self.caught:
                raise Stopped(f'stopped by {self.caught}: {where()}; the same command continues there')
