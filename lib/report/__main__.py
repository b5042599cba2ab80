"""Write exp/<run>/report.html: what was run, its scores, curves and pictures, in one page that needs no other file.

    python -m lib.report --dataset data/my.json --run my
    python -m lib.report --dataset toy --run toy-0 --split train --out train.html

Takes whatever the run holds so far. With masks the images are the best, the median and the worst by the IoU of their
segmentation; without, they are spread over the list, and CAM labels are shown at several background scores.
"""
import argparse
import json
import shlex
from pathlib import Path

from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.fileio import replacing
from lib.files.outpaths import refuse_foreign
from lib.panel import best_threshold
from lib.process.ending import run_script
from lib.process.ranges import integer, number
from lib.report import examples, page, plots
from lib.report.gather import Stage, newest_scores, read_stages
from lib.run.options import base_parser, resolve
from lib.run.record import read_scores
from lib.run.table import PROTOCOL_RULE, STAGE_NAMES


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = base_parser(__doc__)
    parser.prog = 'python -m lib.report'        # not __main__.py
    group = parser.add_argument_group('report')
    group.add_argument('--split', help='images to show; the default is the data set\'s validation split')
    group.add_argument('--out', type=Path, metavar='FILE', help='page to write; the default is exp/<run>/report.html')
    group.add_argument('--count', type=integer(1, 1000), default=6, help='images to show')
    group.add_argument('--background-score', type=number(0, 1, above=True), metavar='SCORE',
                       help='CAMs above it are labelled; the default is the best that eval.py found, else 0.25')
    return parser


def score_sections(scores: dict[str, dict], split: str) -> list[str]:
    """Means of each stage, and each class's scores on one split, by protocol."""
    sections = []
    for protocol, records in scores.items():
        splits = list(dict.fromkeys(key[1] for key in records))
        rows = {}
        for (what, name), record in records.items():
            for result in record['results']:
                rows.setdefault(stage_title(what, result, False), {})[name] = result
        order = sorted(rows, key=lambda title: [title.startswith(name) for name in STAGE_NAMES.values()][::-1])
        head = ['', *(f'{name} {measure}' for name in splits for measure in ('mIoU', 'contour F'))]
        means = [[title, *(rows[title].get(name, {}).get(key) for name in splits for key in ('miou', 'contour_f'))]
                 for title in order]
        counts = ', '.join(f'{name} {max(r["images"] for (_, s), r in records.items() if s == name)}'
                           for name in splits)
        parts = [page.table(head, means)]
        shown = {what: record for (what, name), record in records.items() if name == split}
        if shown:
            parts.append(f'<h3 style="margin-top:20px">Each class on {split}: IoU, and contour F</h3>')
            parts.append(class_table(shown))
        sections.append(page.section(
            'Scores', *parts, note=f'Percent, protocol {protocol}: {PROTOCOL_RULE[protocol]}. Images: {counts}. The '
            'best threshold is chosen with the truth.'))
    return sections


def class_table(shown: dict[str, dict]) -> str:
    """A row a class: IoU of each stage with a bar, then contour F."""
    results = [(stage_title(what, result, True), result) for what in STAGE_NAMES if what in shown
               for result in shown[what]['results'][-1:]]
    names = next(iter(shown.values()))['classes']
    rows = [[name, *(result['iou'][number] for _, result in results),
             *([None, *result['f']][number] for _, result in results)] for number, name in enumerate(names)]
    return page.table(['class', *(title for title, _ in results), *(f'{title} F' for title, _ in results)], rows, True)


def stage_title(what: str, result: dict, exact: bool) -> str:
    """Name of a stage's score; the best threshold differs between splits, so only `exact` tells it."""
    if 'threshold' not in result:
        return STAGE_NAMES[what]
    if result.get('best'):
        return f'{STAGE_NAMES[what]}, best {result["threshold"]:.2f}' if exact else f'{STAGE_NAMES[what]}, best'
    return f'{STAGE_NAMES[what]} at {result["threshold"]:g}'


def curve_section(scores: dict[str, dict], stages: list[Stage], fixed: float) -> str | None:
    """The threshold curve and the loss curves."""
    curves = {split: record['curve'] for records in list(scores.values())[:1]
              for (what, split), record in records.items() if what == 'cam' and 'curve' in record}
    found = {'CAM: mIoU over the background score': plots.threshold_plot(curves, fixed)} if curves else {}
    found |= {f'{stage.title}: loss': plots.loss_plot(stage.metrics) for stage in stages if stage.metrics}
    return page.section('Curves', page.plots(found)) if found else None


def picture_sections(spec: DatasetSpec, split: str, folder: Path, threshold: float, count: int,
                     scored: bool) -> list[str]:
    """What the stages made of some images, and without scores CAM labels at several background scores."""
    shown = examples.examples(spec, split, folder, threshold, count)
    colours = examples.legend(spec, shown)
    note = f'{split}. Pale yellow is ignored: unsure in the seeds, void in the truth.'
    sections = [page.section('What each stage made of some images', page.example_rows(shown, colours), note=note)]
    if split != spec.train_split and (folder / 'labels' / spec.train_split / 'seeds').is_dir():
        shown = examples.examples(spec, spec.train_split, folder, threshold, 3)
        sections.append(page.section('Training images, with their seeds', page.example_rows(
            shown, examples.legend(spec, shown)), note='What affinity and segmentation training learnt from.'))
    tried = [] if scored else examples.cuts(spec, split, folder, min(count, 4))
    if tried:
        note = ('There are no masks to choose with. Look for the score at which labels fill the objects and no more; '
                'at a lower one they grow. A background score s answers to alpha = ln s / ln(1 - s).')
        sections.append(page.section('CAM labels at several background scores',
                                     page.example_rows(tried, examples.legend(spec, tried)), note=note))
    return sections


def cost_section(stages: list[Stage]) -> str:
    """Time and disk of each stage, with commands and settings to unfold."""
    rows = [[stage.title, clock(stage.seconds), size(stage.size),
             stage.environment.get('gpu') or str(stage.environment.get('device') or 'CPU').upper(),
             str(stage.metrics[-1]['step']) if stage.metrics else ''] for stage in stages]
    rows.append(['all', clock(sum(stage.seconds or 0 for stage in stages)), size(sum(stage.size for stage in stages)),
                 '', ''])
    details = ''.join(page.folded(stage.title, '\n'.join([
        shlex.join(stage.command), '', json.dumps(stage.settings, indent=1), json.dumps(
            {key: value for key, value in stage.environment.items() if key != 'command'}, indent=1)]))
        for stage in stages)
    return page.section('Time and disk', page.table(['stage', 'time', 'disk', 'device', 'steps'], rows),
                        '<h3 style="margin-top:20px">Commands and settings</h3>', details)


def clock(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return '–'
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f'{minutes // 60} h {minutes % 60} min'
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'


def size(count: int) -> str:
    """An amount of bytes for people."""
    return f'{count / 1e9:.2f} GB' if count >= 1e9 else f'{count / 1e6:.1f} MB'


def main(argv: list[str] | None = None) -> None:
    """Write the page."""
    args, spec = resolve(make_parser(), argv, '', get_spec)
    split, out = args.split or spec.val_split, args.out or args.folder / 'report.html'
    refuse_foreign(out, 'lib.report')
    stages, scores = read_stages(args.folder, spec), newest_scores(args.folder)
    if not stages:
        raise FileNotFoundError(f'{args.folder} holds no stage of a run on {spec.name}; name the run with --run and '
                                '--exp')
    threshold = args.background_score or best_threshold(read_scores(args.folder / 'scores.json'), split)
    print(f'Report of {args.run}, {len(stages)} outputs, to {out}')
    if args.dry_run:
        return
    sections = [*score_sections(scores, split), curve_section(scores, stages, args.background_score or 0.25),
                *picture_sections(spec, split, args.folder, threshold, args.count, bool(scores)), cost_section(stages)]
    counts = {name: len(spec.samples(name)) for name in dict.fromkeys([spec.train_split, spec.val_split])}
    trained = next((stage for stage in stages if stage.metrics), stages[0])
    facts = {'data set': spec.name, 'classes': str(spec.num_fg), **{f'{k} images': str(v) for k, v in counts.items()},
             'backbone': str(trained.settings.get('backbone', 'resnet38d')),
             'time': clock(sum(stage.seconds or 0 for stage in stages))}
    about = stages[-1].environment
    sub_title = f'{about.get("time", "")[:16].replace("T", " ")}, code {about.get("git") or "unknown"}, torch ' \
                f'{about.get("torch", "?")}'
    with replacing(out) as temporary:
        temporary.write_text(page.page(f'Run {args.run}', sub_title, facts, filter(None, sections)), encoding='utf-8')


if __name__ == '__main__':
    run_script(main)
