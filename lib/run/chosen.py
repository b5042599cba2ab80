"""What was chosen from image-level labels alone: settings by lib/choose.py, the result to use by lib/recommend.py."""
import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from lib.files.jsonfile import read_json
from lib.process.cli import AUTO
from lib.run.origin import Digests
from lib.run.table import STAGE_NAMES, aligned

FILE = Path('cam/background.json')
RECOMMENDED = 'recommended.json'
FALLBACK = 0.25         # background score if none was or can be chosen
CHOSEN = {'origin': {'network': str}, 'background_score': float, 'alpha': float, 'seed_alphas': [float]}


def alpha_of(score: float) -> float:
    """The exponent for which the background score (1 - m) ** power of a class score m is equivalent to a constant one.

    The score is in (0, 1), without the ends.
    """
    return round(math.log(score) / math.log(1 - score), 3)


def chosen_score(folder: Path) -> float:
    """The background score that was chosen for a run's CAM network, or FALLBACK."""
    file, network = folder / FILE, folder / 'cam' / 'model.pth'
    if not file.exists():
        return FALLBACK
    chosen, digest = read_json(file, CHOSEN), Digests(folder / '.digests.json')(network)
    return chosen['background_score'] if digest in ('', chosen['origin']['network']) else FALLBACK


def read_recommended(folder: Path) -> dict | None:
    """The recommendation in a run's folder; None if there is none, or if labels have been regenerated since."""
    file, digests = folder / RECOMMENDED, Digests(folder / '.digests.json')
    if not file.exists():
        return None
    record = read_json(file, {'recommended': str, 'split': str, 'stages': {str: {str: float}}, 'files': {str: str}})
    current = digests.of(folder / name for name in record['files'])
    return record if current == [*record['files'].values()] else None


def recommended_rows(record: dict) -> list[list]:
    """The measurements of each stage as a table, whose first row has the titles."""
    return [['labels of', 'evidence, percent', 'area, percent', 'localisation'],
            *([STAGE_NAMES[stage], 100 * found['evidence'], 100 * found['area'], found['localisation']]
              for stage, found in record['stages'].items())]


def recommended_text(record: dict) -> str:
    """The recommendation for the terminal."""
    head = (f'Judged from image-level labels, on {record["split"]}: how much of the class the CAM network still sees '
            'in the labelled pixels alone (evidence), and their area')
    return '\n'.join([head, '', *aligned(recommended_rows(record)), '', advice(record)])


def advice(record: dict) -> str:
    """The recommendation in a sentence."""
    chosen, last = record['recommended'], [*record['stages']][-1]
    rest = (f'; the {STAGE_NAMES[last]} has lost classes, or its labels spill over the objects: inspect them before '
            'you use them') if chosen != last else ''
    return f'Recommended: {STAGE_NAMES[chosen]}{rest}.'


def fill_in(args: argparse.Namespace, digests: Digests, needed: Sequence[str], network: Path | None = None) -> None:
    """Replace the needed settings that are `auto` by those chosen for a CAM network, in place.

    Args:
        args, digests: of the script.
        needed: names of settings.
        network: the file that makes the CAMs; the default is that of the run.

    Raises:
        FileNotFoundError, ValueError: if none were chosen, or for another network; says how to choose.
    """
    if not (wanted := [name for name in needed if getattr(args, name) == AUTO]):
        return
    flag, network = '--' + wanted[0].replace('_', '-'), network or args.folder / 'cam' / 'model.pth'
    other = '' if network == args.folder / 'cam' / 'model.pth' else f' --checkpoint {quote(str(network))}'
    remedy = (f'run python -m lib.choose --dataset {quote(args.dataset)} --run {quote(args.run)}{other}, or '
              f'give {flag} a value')
    chosen = read_json(args.folder / FILE, CHOSEN, f'{flag} is auto: {remedy}')
    if network.exists() and digests(network) != chosen['origin']['network']:
        raise ValueError(f'{args.folder / FILE} was chosen for another network than {network}; {remedy}')
    for name in wanted:
        value = chosen[name]
        setattr(args, name, tuple(value) if isinstance(value, list) else value)
