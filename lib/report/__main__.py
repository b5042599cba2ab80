"""Write exp/<run>/report.html: commands, scores, curves and images of a run, in a self-contained page.

    python -m lib.report --dataset data/my.json --run my
    python -m lib.report --dataset toy --run toy-0 --split train --out train.html
    python -m lib.report --run 'seam-*' 'both-*'      exp/report.html: the scores of several runs, compared

Uses whatever outputs the run has so far. With ground truth, it shows the images with the best, median and worst IoU of
the segmentation; without, images evenly spaced over the list, and CAM labels at several background scores.
"""
import argparse
import json
import re
import shlex
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jinja2

from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.fileio import refuse_foreign, write_text
from lib.files.imageio import voc_palette
from lib.files.jsonfile import read_json, read_json_lines
from lib.process.cli import integer, number
from lib.process.ending import run_script
from lib.report.examples import image_groups, shown_threshold
from lib.report.plots import loss_plot, threshold_plot
from lib.report.suspects import FILE as SUSPECTS
from lib.report.suspects import suspect_images
from lib.run.chosen import advice, chosen_score, read_recommended, recommended_rows
from lib.run.options import base_parser, resolve
from lib.run.record import METRICS, read_scores
from lib.run.several import are_several, compare
from lib.run.table import class_grid, row_name, score_tables
from lib.trust import check_classes, rows_of, warnings_of

TEMPLATE = Path(__file__).with_name('report.html')
STAGES = {'cam': 'CAM training', 'labels/{}/cam': 'CAMs of {}', 'labels/{}/seeds': 'CRF seeds of {}, with its CAMs',
          'labels/{}/cam_pred': 'CAM labels of {}, with its CAMs', 'aff': 'affinity training',
          'labels/{}/walk': 'random walk of {}', 'seg': 'segmentation training', 'results/{}': 'segmentations of {}'}
ENVIRONMENT = {'command?': [str], 'time?': str, 'args?': {}}
LOG_LINE = re.compile(r'^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (\w+)', re.M)
BEGINNINGS = ('started', 'resumed')


class Stage(NamedTuple):
    """A stage with outputs; seconds is None if unknown, size is in bytes."""

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
    """Training time by its log.txt, without interruptions; None while it is unfinished."""
    entries = [(datetime.fromisoformat(time), word) for time, word in LOG_LINE.findall(log)]
    if not entries or entries[-1][1] != 'finished':
        return None
    first = max((number for number, (_, word) in enumerate(entries) if word == 'started'), default=0)
    return sum((end - start).total_seconds() for (start, word), (end, next_word) in pairwise(entries[first:])
               if word in BEGINNINGS and next_word not in BEGINNINGS)


def make_parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__, several_runs=True)
    parser.prog = 'python -m lib.report'        # not __main__.py
    group = parser.add_argument_group('report')
    group.add_argument('--split', help='split of the images to show; the default is the data set\'s validation split')
    group.add_argument('--out', type=Path, metavar='FILE', help='page to write; the default is exp/<run>/report.html, '
                       'exp/report.html of several runs')
    group.add_argument('--count', type=integer(1, 1000), default=6, help='number of images to show')
    group.add_argument('--background-score', type=number(0, 1, above=True), metavar='SCORE',
                       help='threshold above which CAMs are labelled; the default is the one chosen by python -m '
                       'lib.choose, else the best that eval.py found, else 0.25')
    return parser


def render(**content) -> str:
    """The page as HTML; all text in it is escaped."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {'duration': duration, 'join_words': shlex.join,
                            'json': lambda value: json.dumps(value, indent=1, ensure_ascii=False)}
    return environment.from_string(TEMPLATE.read_text(encoding='utf-8')).render(content)


def duration(seconds: float | None) -> str:
    """A duration as hours:minutes:seconds."""
    return '–' if seconds is None else str(timedelta(seconds=round(seconds)))


def main(argv: list[str] | None = None) -> None:
    args, spec = resolve(make_parser(), argv, '', get_spec)
    several = are_several(args.runs)
    out = args.out or (args.exp if several else args.folder) / 'report.html'
    refuse_foreign(out, 'lib.report')
    if several:         # their scores, and the differences of their settings
        comparison = compare(args.exp, args.runs)
        page = render(run=', '.join(args.runs), comparison=comparison,
                      scores=[{'table': table} for table in comparison.tables])
    else:
        page = page_of_one(args, spec)
    print(f'Report of {", ".join(args.runs)} to {out}')
    if not args.dry_run:
        write_text(out, page)


def score_sections(scores: list[dict], split: str) -> list[dict]:
    """The newest scores for each protocol: their 'table', and the scores of each class on a split."""
    sections = []
    for table in score_tables(scores):
        last = [record for record in table.records if record['split'] == split]
        results = {f', {row_name(record, result)}': result for record in last for result in
                   ([one for one in record['results'] if one.get('chosen')] or record['results'][:2])[-1:]}
        sections.append({'table': table, 'classes': class_grid(last[0]['classes'], results) if last else []})
    return sections


def page_of_one(args: argparse.Namespace, spec: DatasetSpec) -> str:
    """The page of one run; an error if it has no outputs, or is of another data set."""
    split = args.split or spec.val_split
    stages, scores = read_stages(args.folder, spec), read_scores(args.folder / 'scores.json')
    if not stages:
        raise FileNotFoundError(f'{args.folder} has no outputs of a run on {spec.name}; give --run and --exp')
    if stages[0].environment.get('classes', list(spec.classes)) != list(spec.classes):
        raise ValueError(f'{args.folder} is not a run on {spec.name}: its classes differ; give its --dataset')
    threshold = args.background_score or shown_threshold(scores, split, args.folder)
    trained = next((stage for stage in stages if stage.metrics), stages[0])
    facts = {'data set': spec.name, 'classes': spec.num_fg,
             **{f'{name} images': len(spec.samples(name)) for name in (spec.train_split, spec.val_split)},
             'backbone': trained.environment.get('args', {}).get('backbone', 'resnet38d'),
             'time': duration(sum(stage.seconds or 0 for stage in stages))}
    checks = [check for check in check_classes(spec, split, args.folder)
              if (check.precision, check.covered) != (None, None)]
    plots = {f'{stage.title}: loss': loss_plot(stage.metrics) for stage in stages if stage.metrics}
    if curves := {record['split']: record['curve'] for record in scores
                  if record['protocol'] == scores[0]['protocol'] and 'curve' in record}:
        fixed = args.background_score or chosen_score(args.folder)
        plots = {'CAM: mIoU over the background score': threshold_plot(curves, fixed), **plots}
    if recommended := read_recommended(args.folder):
        recommended |= {'rows': recommended_rows(recommended), 'advice': advice(recommended)}
    model = args.folder / 'seg' / 'model.pth'
    return render(run=args.run, split=split, stages=stages, checks=rows_of(checks), warnings=warnings_of(checks),
                  model=shlex.quote(str(model)) if model.exists() else '', facts=facts,
                  scores=score_sections(scores, split), recommended=recommended,
                  suspects=suspect_images(spec, args.folder / SUSPECTS), plots=plots,
                  groups=image_groups(spec, split, args.folder, threshold, args.count, bool(scores)),
                  colours={name: '#' + bytes(colour).hex() for name, colour in zip(spec.class_names, voc_palette())})


if __name__ == '__main__':
    run_script(main)
