"""Where a command may write: never over one of its inputs, and never over a file that it did not make.

A file says which command made it: JSON by its entry "made_by", HTML by <meta name="generator">, a PNG by a text chunk,
a JPEG by its comment. Text files have no place for that; made_by.json beside them holds their digests.
"""
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image, PngImagePlugin

from lib.files.fileio import replacing

GENERATOR = re.compile(r'<meta name="generator" content="([\w.]+)">')
PREPARED = re.compile(r'python -m (lib\.data\.\w+) ')       # what a dataset.json of earlier versions says
REPORT_BEFORE = '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Run '


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Make sure that no output is an input, whatever its spelling and whatever links lead to it.

    Raises:
        ValueError: naming the first that is.
    """
    taken = {key: path for path in inputs for key in _identities(Path(path))}
    for path in outputs:
        found = next((taken[key] for key in _identities(Path(path)) if key in taken), None)
        if found is not None:
            raise ValueError(f'{path} is an input of this command ({found}) and would be overwritten; choose another '
                             '--out')


def refuse_foreign(path: Path, maker: str, flag: str = '--out') -> None:
    """Make sure that a file that is to be written is absent or empty, or was written by the same command.

    Raises:
        ValueError: if it is somebody else's.
    """
    empty = Path(path).is_file() and not Path(path).stat().st_size
    if os.path.lexists(path) and not empty and made_by(path) != maker:
        raise ValueError(f'{path} exists and was not written by python -m {maker}; choose another {flag}, or move the '
                         'file away')


def made_by(path: Path) -> str | None:
    """The command that made a file, as the file says; None where it does not."""
    path = Path(path)
    try:
        if path.suffix.lower() == '.json':
            entries = json.loads(path.read_text(encoding='utf-8'))
            prepared = PREPARED.match(str(entries.get('prepare')))
            return entries.get('made_by') or (prepared and prepared[1])
        if path.suffix.lower() in ('.html', '.htm'):
            with open(path, encoding='utf-8') as file:
                head = file.read(4096)
            found = GENERATOR.search(head)
            return found[1] if found else 'lib.report' if head.startswith(REPORT_BEFORE) else None
        with Image.open(path) as image:
            mark = image.info.get('made_by') or image.info.get('comment')
            return mark.decode() if isinstance(mark, bytes) else mark
    except (OSError, ValueError, AttributeError, SyntaxError, Image.DecompressionBombError):
        return None


def image_mark(maker: str) -> dict:
    """Arguments of PIL's save() that have a PNG or JPEG say which command made it."""
    text = PngImagePlugin.PngInfo()
    text.add_text('made_by', maker)
    return {'pnginfo': text, 'comment': maker}


def write_lists(folder: Path, texts: Mapping[str, str], maker: str) -> None:
    """Write text files by name, and made_by.json, which says that they are ours.

    Raises:
        ValueError: as check_lists, before anything is written.
    """
    before = check_lists(folder, texts, maker)
    now = {name: [_digest(text.encode())] for name, text in texts.items()}
    both = {name: [*before.get(name, []), *now.get(name, [])] for name in {**before, **now}}
    _note(folder, maker, both)              # first: a killed call leaves only files that it says are ours
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding='utf-8')
    _note(folder, maker, before | now)


def check_lists(folder: Path, texts: Mapping[str, str], maker: str) -> dict[str, list[str]]:
    """Make sure that the text files can be written; returns the digests of those that are ours by name.

    Raises:
        ValueError: if one is there with another content and was not written by this command.
    """
    note = folder / 'made_by.json'
    refuse_foreign(note, maker, '--lists')
    ours = json.loads(note.read_text()).get('sha256') if note.exists() else {}
    if not isinstance(ours, dict) or not all(isinstance(digests, list) for digests in ours.values()):
        raise ValueError(f'{note} has no digests by file name under "sha256"; move it away')
    for name, text in texts.items():
        path = folder / name
        if path.exists() and _digest(path.read_bytes()) not in (*ours.get(name, ()), _digest(text.encode())):
            raise ValueError(f'{path} exists and was not written by python -m {maker}, or was changed since; choose '
                             'another --lists, or move the file away')
    return ours


def _note(folder: Path, maker: str, digests: Mapping[str, list[str]]) -> None:
    with replacing(folder / 'made_by.json') as temporary:
        temporary.write_text(json.dumps({'made_by': maker, 'sha256': digests}, indent=1) + '\n')


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _identities(path: Path) -> list:
    """What two paths of one file share: the resolved path, and for one that exists the number of its file."""
    found = [os.path.realpath(path)]
    try:
        stat = os.stat(path)
    except OSError:
        return found
    return [*found, (stat.st_dev, stat.st_ino)]
