"""What the demo starts from and should end with: the backbone in the repository, and scores with the range of seeds."""
from pathlib import Path

from lib.run.origin import LENGTH, Digests
from lib.run.record import read_scores
from lib.run.table import STAGE_NAMES, aligned

BACKBONE = Path('pretrained/toy_backbone.pth')      # made by ./run_demo.sh --stages backbone
SHA256 = 'fccca598354bd74af97a2c86aedf680978e159bc790c735dace0f1f3430c0785'
# Validation scores in percent by stage: means over seeds 0, 1 and 2; of CAMs at the best of the published thresholds.
EXPECTED = {'cam': {'miou': 0.0, 'contour_f': 0.0}, 'walk': {'miou': 0.0, 'contour_f': 0.0},
            'seg': {'miou': 0.0, 'contour_f': 0.0}}
RANGE = 3.0             # how far seeds and processors may be from the mean


def check_backbone() -> None:
    """Make sure that the backbone is the one that the scores were made with.

    Raises:
        ValueError: if it is missing or another one.
    """
    if Digests()(BACKBONE) != SHA256[:LENGTH]:
        raise ValueError(f'{BACKBONE} is missing or has changed (expected SHA-256 {SHA256[:LENGTH]}...); restore it '
                         f'with git checkout -- {BACKBONE}, or name another one with --weights')


def comparison_text(file: Path) -> str:
    """The newest scores of a demo's scores.json beside the expected ones, one line per stage, and the verdict."""
    newest = {record['what']: record['results'][-1] for record in read_scores(file)
              if (record['split'], record['protocol']) == ('val', 'reference')}
    rows, agree = [['percent', 'mIoU', 'expected', 'contour F', 'expected', '']], True
    for what, expected in EXPECTED.items():
        if what not in newest:
            rows.append([STAGE_NAMES[what], '-', '', '-', '', 'not scored'])
            agree = False
            continue
        fits = all(abs(newest[what][key] - value) <= RANGE for key, value in expected.items())
        cells = [text for key, value in expected.items()
                 for text in (f'{newest[what][key]:.2f}', f'{value:.1f} ± {RANGE:g}')]
        rows.append([STAGE_NAMES[what], *cells, 'as expected' if fits else 'out of range'])
        agree &= fits
    verdict = ('All scores are in the expected range.' if agree else 'Scores are out of the expected range: without '
               'flags other than --seed, something is wrong with the installation or the code.')
    return '\n'.join([*aligned(rows), '', verdict])
