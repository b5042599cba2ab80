"""Progress bars, alike in all scripts."""
import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(images: Iterable, title: str) -> tqdm:
    """Bar over images one by one: how many a second, and the time left."""
    return tqdm(images, **bar_style(title))


def bar_style(title: str) -> dict:
    """Settings of every bar. Where output goes to a file, a line every half minute is enough."""
    terminal = sys.stderr.isatty()
    return {'desc': title, 'unit': 'image', 'dynamic_ncols': terminal, 'mininterval': 0.5 if terminal else 30,
            'maxinterval': 1 if terminal else 60}
