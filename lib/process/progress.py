"""Progress bars, the same everywhere."""
import os
import sys
from collections.abc import Iterable

from tqdm import tqdm


def bar_style(title: str, unit: str = 'image') -> dict:
    """Settings of every tqdm bar. In a file, one line every half minute is enough."""
    terminal = sys.stderr.isatty()
    return {'desc': title, 'unit': unit, 'dynamic_ncols': terminal, 'mininterval': 0.5 if terminal else 30,
            'maxinterval': 1 if terminal else 60}


def progress(items: Iterable, title: str, unit: str = 'image', total: int | None = None) -> tqdm:
    """A bar over items: how many per second, and the time left. Of several processes, rank 0 shows it."""
    rank = os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or '0'
    return tqdm(items, total=total, disable=rank != '0', **bar_style(title, unit))
