"""What a result was made from, in short: digests of files and lists, and how two of them differ."""
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tool.dataspec import DatasetSpec

LENGTH = 16             # hexadecimal digits of a digest that are kept
SAME_OR_NEW = '; give --fresh to start over, or --run NAME to keep both'


def file_digest(path: str | Path) -> str:
    """Digest of a file's bytes; '' for one that is not there, as 'none' is."""
    if not Path(path).is_file():
        return ''
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()[:LENGTH]


def text_digest(parts: Iterable) -> str:
    """Digest of the texts of some values, in order."""
    return hashlib.sha256('\n'.join(map(str, parts)).encode()).hexdigest()[:LENGTH]


def files_digest(paths: Iterable[Path]) -> str:
    """Digest of files' names and sizes: cheap, and other files seldom have the same."""
    return text_digest(f'{path.name} {path.stat().st_size if path.exists() else None}' for path in paths)


def data_inputs(spec: DatasetSpec, split: str, with_labels: bool = True) -> dict[str, str]:
    """Digests of what a data set says of a split: its pictures (names and sizes), and its image-level labels."""
    samples = spec.samples(split)
    found = {'classes': text_digest(spec.classes),
             f'pictures of {split}': files_digest(sample.image for sample in samples)}
    if with_labels:
        found[f'labels of {split}'] = text_digest(row.tolist() for row in spec.image_labels([s.name for s in samples]))
    return found


def folder_input(folder: Path, paths: Iterable[Path]) -> str:
    """Digest of label files that an earlier stage made: what made them (its made_by.json), their names and sizes."""
    made = read_identity(folder / 'made_by.json')
    return text_digest([json.dumps(made, sort_keys=True), files_digest(paths)])


def read_identity(path: Path) -> dict | None:
    """Settings and inputs that a made_by.json tells; None where it is absent or damaged."""
    try:
        made = json.loads(path.read_text())
        return {'settings': dict(made['settings']), 'inputs': dict(made['inputs'])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def difference(made_with: Mapping, now: Mapping) -> str:
    """What differs between two {'settings', 'inputs'}, in words; '' where nothing does."""
    words = [f'--{key.replace("_", "-")} was {old}, is {new}'
             for key, old, new in _changed(made_with['settings'], now['settings'])]
    words += [f'{key} had the checksum {old}, has {new}'
              for key, old, new in _changed(made_with['inputs'], now['inputs'])]
    return ', '.join(words)


def _changed(old: Mapping, new: Mapping) -> list[tuple]:
    return [(key, old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)]
