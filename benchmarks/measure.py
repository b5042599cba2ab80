"""Time and memory of two forms of one computation."""
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

BUDGET = 120        # seconds of one comparison; a round that has begun is finished
STATUS, CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def alternate(forms: Mapping[str, Callable[[], Any]], device: torch.device,
              rounds: int = 5) -> tuple[dict[str, float], dict]:
    """Run the forms in turn, several rounds; medians of their seconds, and their last results, by name."""
    seconds, results, begin = {name: [] for name in forms}, {}, time.perf_counter()
    for _ in range(rounds):
        for name, form in forms.items():
            start = _now(device)
            results[name] = form()
            seconds[name].append(_now(device) - start)
        if time.perf_counter() - begin > BUDGET:
            break
    return {name: statistics.median(values) for name, values in seconds.items()}, results


def _now(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(form: Callable[[], Any], device: torch.device) -> float:
    """Bytes that a call holds at its peak beyond what was held before.

    On a GPU as its allocator counts them. On a CPU the peak of the process's resident memory (Linux): call it in a
    fresh process, since freed memory that the process kept would not count again.
    """
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        form()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    CLEAR.write_text('5')           # sets the peak to what is resident now
    before = _resident('VmRSS')
    form()
    return _resident('VmHWM') - before


def _resident(field):
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
