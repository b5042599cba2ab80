"""Scores as text for people."""
from collections.abc import Sequence

PROTOCOL_RULE = {'reference': 'void left out of IoU, background in contours; absent classes stay in the mean',
                 'strict': 'void ignored everywhere; absent classes left out of the mean'}
NAMES_SHOWN = 10
STAGE_NAMES = {'cam': 'CAM', 'walk': 'random walk', 'seg': 'segmentation'}


def evaluation_text(record: dict) -> str:
    """One evaluation: a line of means for each threshold, then IoU and contour F of each class, in percent."""
    lines = [f'{STAGE_NAMES[record["what"]]} of {record["dataset"]} {record["split"]}, {record["images"]} images, '
             f'protocol {record["protocol"]} ({PROTOCOL_RULE[record["protocol"]]})', *_left_out(record), '']
    results = record['results']
    means = [[_name(record, result), _cell(result['miou']), _cell(result['contour_f'])] for result in results]
    lines += aligned([['percent', 'mIoU', 'contour F'], *means])
    columns = [column for result in results for column in (result['iou'], [None, *result['f']])]
    titles = ['class', *(title + _at(result) for result in results for title in ('IoU', 'F'))]
    rows = [[name, *(_cell(value) for value in values)] for name, *values in zip(record['classes'], *columns)]
    return '\n'.join([*lines, '', *aligned([titles, *rows])])


def summary_text(records: Sequence[dict], run: str) -> str:
    """Every score of a run, the newest of each kind: a line a stage, a pair of columns a split.

    Raises:
        ValueError: if nothing was scored yet.
    """
    if not records:
        raise ValueError(f'run {run} has no scores yet; make some with eval.py')
    newest = {(record['protocol'], record['split'], record['what']): record for record in records}
    text = []
    for protocol in dict.fromkeys(key[0] for key in newest):
        splits = list(dict.fromkeys(key[1] for key in newest if key[0] == protocol))
        rows, thresholds = {}, []
        for split in splits:
            for what in STAGE_NAMES:
                record = newest.get((protocol, split, what))
                for result in record['results'] if record else ():
                    name = 'CAM at best threshold' if result.get('best') else _name(record, result)
                    rows.setdefault(name, {})[split] = result
                    if result.get('best'):
                        thresholds.append(f'{result["threshold"]:.2f} ({split})')
        counts = {split: sorted({r['images'] for k, r in newest.items() if k[:2] == (protocol, split)})
                  for split in splits}
        table = [['percent', *(title for split in splits for title in (f'{split} mIoU', f'{split} contour F'))]]
        for name, cells in rows.items():
            found = [cells.get(split, {}) for split in splits]
            table.append([name, *(_cell(result.get(key)) for result in found for key in ('miou', 'contour_f'))])
        text += [f'Run {run}, protocol {protocol} ({PROTOCOL_RULE[protocol]})', '', *aligned(table), '',
                 'Images: ' + ', '.join(f'{" or ".join(map(str, count))} ({split})' for split, count in counts.items())
                 + (f'. Best thresholds, chosen with the truth: {", ".join(thresholds)}.' if thresholds else '.'),
                 *(f'{split}: {line}' for split in splits for line in dict.fromkeys(
                     line for key, record in newest.items() if key[:2] == (protocol, split)
                     for line in _left_out(record))), '']
    return '\n'.join(text[:-1])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column flush left, the others flush right, a rule below the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ['  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return [lines[0], '-' * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def _left_out(record: dict) -> list[str]:
    """A line that names images without a score, if there are any."""
    names = record.get('left_out', ())
    shown = ', '.join(names[:NAMES_SHOWN]) + (f' and {len(names) - NAMES_SHOWN} more' if names[NAMES_SHOWN:] else '')
    return [f'left out {len(names)} of {record["images"] + len(names)} images: corrupt: {shown}'] if names else []


def _name(record: dict, result: dict) -> str:
    name = STAGE_NAMES[record['what']]
    if 'threshold' not in result:
        return name
    return f'{name} at {result["threshold"]:.2f}' + (', the best of 60 thresholds' if result.get('best') else '')


def _at(result: dict) -> str:
    return f' at {result["threshold"]:.2f}' if 'threshold' in result else ''


def _cell(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'
