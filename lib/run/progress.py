"""Progress bars over images, alike in all scripts."""
from collections.abc import Iterable

from tqdm import tqdm

from tool.progress import bar_style


def progress(images: Iterable, title: str) -> tqdm:
    """Bar over images one by one: how many a second, and the time left."""
    return tqdm(images, **bar_style(title))
