"""The demo's starting point and expected result: the backbone in the repository, and scores with their range."""
from pathlib import Path

from lib.run.record import read_scores
from lib.run.table import STAGE_NAMES, aligned

BACKBONE = Path('pretrained/toy_backbone.pth')      # made by ./run_demo.sh --stages backbone
# Mean validation mIoU in percent over the seeds 0, 1 and 2; of CAMs at the best of the published thresholds.
EXPECTED = {'cam': 76.9, 'walk': 80.4, 'seg': 82.3}
RANGE = 3               # accepted deviation, for other seeds and processors


def comparison_text(file: Path) -> str:
    """The newest scores of a demo's scores.json beside the expected ones, one line per stage, and the verdict."""
    newest = {record['what']: record['results'][-1] for record in read_scores(file)
              if (record['split'], record['protocol']) == ('val', 'reference')}
    rows = [['percent', 'mIoU', 'expected', 'contour F', '']]
    for what, expected in EXPECTED.items():
        result = newest.get(what, {'miou': None, 'contour_f': None})
        difference = None if result['miou'] is None else abs(result['miou'] - expected)
        verdict = 'not scored' if difference is None else 'as expected' if difference <= RANGE else 'out of range'
        rows.append([STAGE_NAMES[what] + (' at best threshold' if what == 'cam' else ''), result['miou'],
                     f'{expected:g} ± {RANGE:g}', result['contour_f'], verdict])
    agree = all(row[-1] == 'as expected' for row in rows[1:])
    return '\n'.join([*aligned(rows), '', 'All scores are in the expected range.' if agree else
                      'Not all scores are in the expected range: unless flags other than --seed were given, something '
                      'is wrong with the installation or the code.'])
