"""What a helper process does first."""
import multiprocessing
import os
import signal
import threading

import cv2
import torch


def settle_in(number: int | None = None) -> None:
    """Make this process a well-behaved helper; `number` is what a DataLoader passes.

    Libraries start no threads here, as the processes share the cores already. Signals sent to all processes of a job
    are left to the main process, which ends its helpers itself. Should it be killed, they end too.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signal_number, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
