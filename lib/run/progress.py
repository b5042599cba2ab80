"""Progress bars over images, alike in all scripts."""
from collections.abc import Iterable

from tqdm import tqdm

from lib.run import ranks
from tool.progress import bar_style


def progress(images: Iterable, title: str) -> tqdm:
    """Bar over images one by one: how many a second, and the time left. The first of several processes shows it."""
    return tqdm(images, disable=not ranks.is_first(), **bar_style(title))
