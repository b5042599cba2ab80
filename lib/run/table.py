"""Scores of a run as tables, and as text."""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lib.files.dataspec import shortened
from tool.evalutils import PUBLISHED, THRESHOLDS

PROTOCOL_RULE = {'reference': 'void is ignored in IoU and counts as background in contours; absent classes stay in the '
                 'mean', 'strict': 'void is ignored everywhere; absent classes are left out of the mean'}
STAGE_NAMES = {'cam': 'CAM', 'cam-crf': 'CAM with CRF', 'cam-pred': 'CAM labels', 'walk': 'random walk',
               'seg': 'segmentation'}
END = float(THRESHOLDS[-1])
BEST = {'curve': f'best of 0.00 to {END:.2f}',
        'published': f'best of 0.00 to {THRESHOLDS[PUBLISHED - 1]:.2f} (published)'}


class Table(NamedTuple):
    """Scores under one protocol: their title, {row: {column: percent or None}}, and notes on them."""

    title: str
    rows: dict[str, dict[str, float | None]]
    notes: list[str]
    records: Sequence[dict] = ()

    def grid(self) -> list[list]:
        """A row of titles, then the rows, each starting with its name."""
        columns = list(dict.fromkeys(column for row in self.rows.values() for column in row))
        return [['percent', *columns], *([name, *map(row.get, columns)] for name, row in self.rows.items())]

    def lines(self) -> list[str]:
        """The grid as aligned lines, then the notes."""
        return [*aligned(self.grid()), *(['', *self.notes] if self.notes else [])]


def evaluation_text(record: dict) -> str:
    """One evaluation: a line of means per threshold, then IoU and contour F of each class, in percent."""
    means = {row_name(record, result, at=True): _means(result) for result in record['results']}
    classes = class_grid(record['classes'], {_at(result): result for result in record['results']})
    return '\n'.join([
        f'{STAGE_NAMES[record["what"]]} of {record["dataset"]} {record["split"]}, {record["images"]} images, '
        f'protocol {record["protocol"]} ({PROTOCOL_RULE[record["protocol"]]})', '',
        *Table('', means, _warnings(record)).lines(), '', *aligned(classes)])


def summary_text(records: Sequence[dict], run: str) -> str:
    """The newest score of each kind in a run: a table per protocol, with a line per stage and columns per split."""
    if not records:
        raise ValueError(f'run {run} has no scores yet; make some with eval.py')
    return '\n\n'.join('\n'.join([f'Run {run}, {table.title}', '', *table.lines()])
                       for table in score_tables(records))


def score_tables(records: Sequence[dict]) -> list[Table]:
    """The newest scores of each kind in a run, a table per protocol with a row per stage, in order."""
    last, tables = {(record['protocol'], record['split'], record['what']): record for record in records}.values(), []
    for protocol in dict.fromkeys(record['protocol'] for record in records):
        newest = sorted((record for record in last if record['protocol'] == protocol),
                        key=lambda record: list(STAGE_NAMES).index(record['what']))
        rows = {}
        for record in newest:
            for result in record['results']:
                means = {f'{record["split"]} {name}': value for name, value in _means(result).items()}
                rows.setdefault(row_name(record, result), {}).update(means)
        tables.append(Table(f'protocol {protocol} ({PROTOCOL_RULE[protocol]})', rows, _notes(newest), newest))
    return tables


def _means(result: Mapping) -> dict[str, float | None]:
    """The means of a result by name; those of the strict protocol too where they differ."""
    strict = result.get('strict')
    return {'mIoU': result['miou'], 'contour F': result['contour_f'],
            **({'strict mIoU': strict['miou'], 'strict contour F': strict['contour_f']} if strict else {})}


def _notes(records: Sequence[dict]) -> list[str]:
    """The number of images scored, the best thresholds, and warnings about the scores."""
    counts, best, lines = {}, {}, {}
    for record in records:
        split = record['split']
        counts.setdefault(split, set()).add(record['images'])
        lines |= dict.fromkeys(f'{split}: {line}' for line in _warnings(record))
        for result in record['results']:
            if mark := _best(result):
                best.setdefault(mark, []).append(f'{result["threshold"]:.2f} ({split})')
    images = ', '.join(f'{" or ".join(map(str, sorted(found)))} ({split})' for split, found in counts.items())
    oracle = '; '.join(f'{mark}: {", ".join(at)}' for mark, at in best.items())
    return [f'Images: {images}.', *([f'Thresholds selected on the ground truth (oracle), {oracle}.'] if best else []),
            *lines]


def _warnings(record: dict) -> list[str]:
    """Lines on images without a score, classes that the ground truth lacks, a best threshold that may not be the best.
    """
    names = record.get('left_out', ())
    absent, highest = len(record.get('absent', [])), max([0, *(result['miou'] or 0 for result in record['results'])])
    rule = ('each counts 0 in mIoU, and 100 in contour F unless it is predicted; strict leaves them out'
            if record['protocol'] == 'reference' else 'they are left out')
    lines = [f'skipped {len(names)} of {record["images"] + len(names)} images as corrupt: {shortened(names)}'
             ] if names else []
    lines += [f'the ground truth lacks {absent} of {len(record["classes"])} classes: {rule}'] if absent else []
    return lines + [f'the best threshold may lie beyond those of the curve, 0.00 to {END:.2f}'
                    for best in record['results'] if best.get('best') == 'curve'
                    and (best.get('threshold') == END or (best['miou'] or 0) < highest)]


def class_grid(classes: Sequence[str], results: Mapping[str, Mapping]) -> list[list]:
    """A row of titles, then IoU and contour F of each class in percent; `results` by the ends of their titles."""
    columns = [column for result in results.values() for column in (result['iou'], [None, *result['f']])]
    return [['class', *(title + end for end in results for title in ('IoU', 'F'))], *map(list, zip(classes, *columns))]


def aligned(rows: Sequence[Sequence]) -> list[str]:
    """Rows of cells as lines: the first column flush left, the others flush right, a rule below the first row."""
    rows = [['-' if cell is None else cell if isinstance(cell, str) else f'{cell:.2f}' for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ['  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return [lines[0], '-' * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def _best(result: Mapping) -> str | None:
    """The range in which the threshold of a result is the best; earlier versions had only the published one."""
    best = result.get('best')
    return BEST['published' if best is True else best] if best else None


def row_name(record: Mapping, result: Mapping, at: bool = False) -> str:
    """Name of a row; with `at`, a best threshold is shown too."""
    best = _best(result)
    return STAGE_NAMES[record['what']] + (_at(result, at) if at or not best else '') + (f', {best}' if best else '')


def _at(result: Mapping, number: bool = True) -> str:
    """The threshold or strength of a result; without `number`, a chosen score is called so, as it differs by run."""
    if 'alpha' in result:
        return f', alpha {result["alpha"]:g}'
    if result.get('chosen') and not number:
        return ' at the chosen score'
    return f' at {result["threshold"]:.2f}' if 'threshold' in result else ''
