"""What a run's folder says: stages with their settings, time and disk; the newest scores."""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from lib.files.dataspec import DatasetSpec
from lib.files.jsonfile import read_json, read_json_lines
from lib.run.record import METRICS
from lib.run.table import class_grid, newest, row_name, score_tables

STAGES = {'cam': 'CAM training', 'labels/{}/cam': 'CAMs of {}', 'labels/{}/seeds': 'CRF seeds of {}, with its CAMs',
          'labels/{}/cam_pred': 'CAM labels of {}, with its CAMs', 'aff': 'affinity training',
          'labels/{}/walk': 'random walk of {}', 'seg': 'segmentation training', 'results/{}': 'segmentations of {}'}
ENVIRONMENT = {'command?': [str], 'time?': str, 'args?': {}}
LOG_LINE = re.compile(r'^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (\w+)', re.M)
BEGINNINGS = ('started', 'resumed')


@dataclass(frozen=True)
class Stage:
    """One stage that has left traces. seconds is None where it cannot be told, size is in bytes."""

    title: str
    environment: dict                   # with its 'command' and settings, 'args'
    seconds: float | None
    size: int
    metrics: list[dict]                 # of training: rows with 'step', loss terms and 'lr'


def read_stages(folder: Path, spec: DatasetSpec) -> list[Stage]:
    """The stages of a run in order, as far as they exist."""
    stages = []
    for template, title in STAGES.items():
        training = '{}' not in template
        for split in dict.fromkeys([''] if training else [spec.train_split, spec.val_split, spec.score_split]):
            part = folder / template.format(split)
            record = part / ('env.json' if training else 'made_by.json')
            if not record.is_file():
                continue
            files, seconds = [path.stat() for path in part.rglob('*') if path.is_file()], None
            environment = read_json(record, ENVIRONMENT)
            if training:
                environment['args'], log = read_json(part / 'args.json', {}), part / 'log.txt'
                seconds = training_seconds(log.read_text() if log.exists() else '')
            elif not title.endswith('with its CAMs'):           # made_by.json is written first
                seconds = max(file.st_mtime for file in files) - record.stat().st_mtime
            stages.append(Stage(title.format(split), environment, seconds, sum(file.st_size for file in files),
                                read_json_lines(part / 'metrics.jsonl', METRICS)))
    return stages


def training_seconds(log: str) -> float | None:
    """Time from start to end of a training by its log.txt, without breaks; None while it is unfinished."""
    entries = [(datetime.fromisoformat(time), word) for time, word in LOG_LINE.findall(log)]
    if not entries or entries[-1][1] != 'finished':
        return None
    first = max((number for number, (_, word) in enumerate(entries) if word == 'started'), default=0)
    return sum((end - start).total_seconds() for (start, word), (end, next_word) in pairwise(entries[first:])
               if word in BEGINNINGS and next_word not in BEGINNINGS)


def score_sections(scores: Sequence[Mapping], shown: str) -> list[dict]:
    """The newest scores for each protocol: their 'table', and the scores of each class on the split `shown`."""
    sections = []
    for table, last in zip(score_tables(scores), newest(scores).values()):
        last = [record for record in last if record['split'] == shown]
        results = {f', {row_name(record, result)}': result for record in last for result in record['results'][:2][-1:]}
        sections.append({'table': table, 'classes': class_grid(last[0]['classes'], results) if last else []})
    return sections
