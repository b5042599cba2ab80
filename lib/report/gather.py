"""What a run's folder says: stages with their settings, time and disk; loss curves; the newest scores."""
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.files.dataspec import DatasetSpec
from lib.files.jsonfile import read_json, read_json_lines
from lib.run.record import METRICS, read_lines, read_scores

STAGES = {'cam': 'CAM training', 'labels/{}/cam': 'CAMs of {}', 'labels/{}/seeds': 'CRF seeds of {}, with its CAMs',
          'aff': 'affinity training', 'labels/{}/walk': 'random walk of {}', 'seg': 'segmentation training',
          'results/{}': 'segmentations of {}'}
ENVIRONMENT = {'command?': [str], 'time?': str, 'args?': {}}
STAMP = '%Y-%m-%d %H:%M:%S'


@dataclass(frozen=True)
class Stage:
    """One stage that has left traces. seconds is None where it cannot be told, size is in bytes."""

    title: str
    command: list[str]
    settings: dict
    environment: dict
    seconds: float | None
    size: int
    metrics: list[dict]                 # of training: rows with 'step', loss terms and 'lr'


def read_stages(folder: Path, spec: DatasetSpec) -> list[Stage]:
    """The stages of a run in order, as far as they are there."""
    splits = list(dict.fromkeys([spec.train_split, spec.val_split, spec.score_split]))
    stages = []
    for place, title in STAGES.items():
        for split in splits if '{}' in place else ['']:
            part = folder / place.format(split)
            if (part / 'made_by.json').is_file():
                stages.append(_made(part, title.format(split), timed=part.name != 'seeds'))
            elif (part / 'env.json').is_file():
                stages.append(_trained(part, title))
    return stages


def newest_scores(folder: Path) -> dict[str, dict[tuple[str, str], dict]]:
    """The newest evaluation of each kind: protocol -> (what, split) -> record."""
    found = {}
    for record in read_scores(folder / 'scores.json'):
        found.setdefault(record['protocol'], {})[record['what'], record['split']] = record
    return found


def training_seconds(lines: Sequence[str]) -> float | None:
    """Time from start to end of a training by its log.txt, without breaks; None while it is unfinished."""
    total, start, last = 0.0, None, None
    for line in lines:
        match = re.match(r'(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (\w+)', line)
        if not match:
            continue
        now = time.mktime(time.strptime(match[1], STAMP))
        if match[2] == 'started':
            total, start = 0.0, now
        elif match[2] == 'resumed':
            start = now
        elif start is not None:
            total, start = total + now - start, None
        last = match[2]
    return total if last == 'finished' else None


def _trained(folder: Path, title: str) -> Stage:
    environment = read_json(folder / 'env.json', ENVIRONMENT)
    metrics = read_json_lines(folder / 'metrics.jsonl', METRICS)
    return Stage(title, environment.get('command', []), read_json(folder / 'args.json', {}), environment,
                 training_seconds(read_lines(folder / 'log.txt')), disk_use(folder), metrics)


def _made(folder: Path, title: str, timed: bool) -> Stage:
    """An output folder: its work lies between the time in made_by.json and that of its newest file."""
    environment = read_json(folder / 'made_by.json', ENVIRONMENT)
    try:
        start = time.mktime(time.strptime(environment.get('time', '')[:19], '%Y-%m-%dT%H:%M:%S'))
        seconds = max(path.stat().st_mtime for path in folder.iterdir()) - start
    except (ValueError, OverflowError):
        seconds = -1
    settings = environment.pop('args', {})
    return Stage(title, environment.get('command', []), settings, environment,
                 seconds if timed and 0 <= seconds < 1e6 else None, disk_use(folder), [])


def disk_use(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
