"""Scores as text."""
from collections.abc import Iterable, Sequence

PROTOCOL_RULE = {'reference': 'void left out of IoU, background in contours; absent classes stay in the mean',
                 'strict': 'void ignored everywhere; absent classes left out of the mean'}
NAMES_SHOWN = 10
STAGE_NAMES = {'cam': 'CAM', 'cam-crf': 'CAM with CRF', 'cam-pred': 'CAM labels', 'walk': 'random walk',
               'seg': 'segmentation'}


def evaluation_text(record: dict) -> str:
    """One evaluation: a line of means per threshold, then IoU and contour F of each class, in percent."""
    results = record['results']
    means = [[_name(record, result), _cell(result['miou']), _cell(result['contour_f'])] for result in results]
    columns = [column for result in results for column in (result['iou'], [None, *result['f']])]
    titles = ['class', *(title + _at(result) for result in results for title in ('IoU', 'F'))]
    rows = [[name, *map(_cell, values)] for name, *values in zip(record['classes'], *columns)]
    return '\n'.join([
        f'{STAGE_NAMES[record["what"]]} of {record["dataset"]} {record["split"]}, {record["images"]} images, '
        f'protocol {record["protocol"]} ({PROTOCOL_RULE[record["protocol"]]})', *_left_out(record), '',
        *aligned([['percent', 'mIoU', 'contour F'], *means]), '', *aligned([titles, *rows])])


def summary_text(records: Sequence[dict], run: str) -> str:
    """The newest score of each kind in a run: a table per protocol, with a line per stage and two columns per split."""
    if not records:
        raise ValueError(f'run {run} has no scores yet; make some with eval.py')
    newest = {(record['protocol'], record['split'], record['what']): record for record in records}.values()
    tables = []
    for protocol in _values(newest, 'protocol'):
        of_protocol = [record for record in newest if record['protocol'] == protocol]
        tables.append('\n'.join([f'Run {run}, protocol {protocol} ({PROTOCOL_RULE[protocol]})', '',
                                 *_summary_table(of_protocol), '', *_summary_notes(of_protocol)]))
    return '\n\n'.join(tables)


def _summary_table(records: Sequence[dict]) -> list[str]:
    splits, rows = _values(records, 'split'), {}
    for record in sorted(records, key=lambda record: list(STAGE_NAMES).index(record['what'])):
        for result in record['results']:
            name = 'CAM at best threshold' if result.get('best') else _name(record, result)
            rows.setdefault(name, {})[record['split']] = _cell(result['miou']), _cell(result['contour_f'])
    table = [['percent', *(f'{split} {score}' for split in splits for score in ('mIoU', 'contour F'))]]
    for name, cells in rows.items():
        table.append([name, *(cell for split in splits for cell in cells.get(split, ('-', '-')))])
    return aligned(table)


def _summary_notes(records: Sequence[dict]) -> list[str]:
    """How many images were scored, the best thresholds, and which images were left out."""
    splits = {split: [record for record in records if record['split'] == split] for split in _values(records, 'split')}
    counts = [f'{" or ".join(str(count) for count in sorted(_values(part, "images")))} ({split})'
              for split, part in splits.items()]
    best = [f'{result["threshold"]:.2f} ({split})' for split, part in splits.items() for record in part
            for result in record['results'] if result.get('best')]
    oracle = f' Best thresholds, selected on the ground truth (oracle): {", ".join(best)}.' if best else ''
    left_out = dict.fromkeys(f'{split}: {line}' for split, part in splits.items() for record in part
                             for line in _left_out(record))
    return [f'Images: {", ".join(counts)}.{oracle}', *left_out]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column flush left, the others flush right, a rule below the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ['  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return [lines[0], '-' * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def _values(records: Iterable[dict], key: str) -> list:
    """The distinct values of an entry in order of appearance."""
    return list(dict.fromkeys(record[key] for record in records))


def _left_out(record: dict) -> list[str]:
    """A line that names images without a score, if there are any."""
    names = record.get('left_out', ())
    shown = ', '.join(names[:NAMES_SHOWN]) + (f' and {len(names) - NAMES_SHOWN} more' if names[NAMES_SHOWN:] else '')
    return [f'left out {len(names)} of {record["images"] + len(names)} images: corrupt: {shown}'] if names else []


def _name(record: dict, result: dict) -> str:
    best = ', the best of 60 thresholds' if result.get('best') else ''
    return f'{STAGE_NAMES[record["what"]]}{_at(result)}{best}'


def _at(result: dict) -> str:
    if 'alpha' in result:
        return f', alpha {result["alpha"]:g}'
    return f' at {result["threshold"]:.2f}' if 'threshold' in result else ''


def _cell(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'
