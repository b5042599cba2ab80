"""What a helper process does first."""
import multiprocessing
import os
import signal
import threading

import cv2


def settle_in(number: int | None = None) -> None:
    """Make this process a well-behaved helper; `number` is what a DataLoader passes.

    OpenCV starts no threads here, as the processes share the cores already. Signals sent to all processes of a job
    are left to the main process: SIGTERM counts if it comes from there. Should that be killed, its helpers end too.
    """
    cv2.setNumThreads(0)
    for signal_number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(signal_number, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):          # not on macOS, where any SIGTERM ends a helper
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})      # in all threads: only _heed_parent takes it
        threading.Thread(target=_heed_parent, daemon=True).start()
    threading.Thread(target=_follow_parent, daemon=True).start()


def _heed_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _follow_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
