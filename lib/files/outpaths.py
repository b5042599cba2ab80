"""Checks of output paths: a command never overwrites one of its inputs, or a file that it did not write.

A file says which command made it: JSON in its entry "made_by", HTML in <meta name="generator">.
"""
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lib.files.fileio import write_text


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Make sure that no output is an input, whatever its spelling and whatever symbolic links lead to it."""
    # Hard links need no check: files are replaced, not overwritten, so another name keeps its content.
    taken = {os.path.realpath(path): path for path in inputs}
    for path in outputs:
        if os.path.realpath(path) in taken:
            raise ValueError(f'{path} is an input of this command ({taken[os.path.realpath(path)]}) and would be '
                             'overwritten; choose another --out')


def refuse_foreign(path: Path, maker: str, flag: str = '--out', former: str | None = None) -> None:
    """Make sure that a file is absent, empty or written by the same command (former: its earlier name)."""
    content = path.read_bytes() if path.is_file() else b'a folder, or a link to nowhere' * os.path.lexists(path)
    mark = rf'(made_by|generator" content)\W+({re.escape(maker)}|{re.escape(former or maker)})'.encode()
    if content and not re.search(mark, content):
        raise ValueError(f'{path} exists and was not written by python -m {maker}; choose another {flag}, or move the '
                         'file away')


def check_lists(folder: Path, texts: Mapping[str, str], maker: str) -> None:
    """Make sure that text files, given by name, are absent or have this content already; else raise ValueError."""
    for name, text in texts.items():
        path = folder / name
        if path.exists() and path.read_bytes() != text.encode():
            raise ValueError(f'{path} exists and differs from what python -m {maker} would write; delete it, or '
                             'choose another --lists')


def write_lists(folder: Path, texts: Mapping[str, str], maker: str) -> None:
    """Write text files that are absent; raises ValueError as check_lists before anything is written."""
    check_lists(folder, texts, maker)
    for name, text in texts.items():
        if not (folder / name).exists():
            write_text(folder / name, text)
