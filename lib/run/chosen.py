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
CHOSEN = {'network': str, 'background_score': float, 'alpha': float, 'seed_alphas': [float]}


def alpha_of(score: float) -> float:
    """The power of the background score (1 - m) ** power that a class m exceeds where it exceeds a constant score.

    Both in their open intervals: score in (0, 1).
    """
    return round(math.log(score) / math.log(1 - score), 3)


def chosen_score(folder: Path, otherwise: float) -> float:
    """The background score that was chosen for the run in a folder, or another if none was."""
    return read_json(folder / FILE, CHOSEN)['background_score'] if (folder / FILE).exists() else otherwise


def read_recommended(folder: Path) -> dict | None:
    """The recommendation in a run's folder; None if there is none."""
    file = folder / RECOMMENDED
    return read_json(file, {'recommended': str, 'split': str, 'stages': {str: {str: float}}}) if file.exists() else None


def recommended_rows(record: dict) -> list[list]:
    """What was measured of each stage, as a table; its first row the titles."""
    return [['labels of', 'evidence, percent', 'area, percent', 'localisation'],
            *([STAGE_NAMES[stage], 100 * found['evidence'], 100 * found['area'], found['localisation']]
              for stage, found in record['stages'].items())]


def recommended_text(record: dict) -> str:
    """The recommendation for the terminal."""
    head = (f'Judged from image-level labels, on {record["split"]}: how much of what the classifier knows a class by '
            'is labelled (evidence), and on what area')
    return '\n'.join([head, '', *aligned(recommended_rows(record)), '', advice(record)])


def advice(record: dict) -> str:
    """The recommendation in a sentence."""
    chosen, last = record['recommended'], [*record['stages']][-1]
    rest = (f'; the {STAGE_NAMES[last]} has lost classes, or its labels flow over the images: look at them before you '
            'use it') if chosen != last else ''
    return f'Recommended: {STAGE_NAMES[chosen]}{rest}.'


def fill_in(args: argparse.Namespace, digests: Digests, needed: Sequence[str]) -> None:
    """Replace the needed settings that are `auto` by what was chosen for the run's CAM network, in place.

    Raises:
        FileNotFoundError, ValueError: if nothing was chosen, or for another network; says how to choose.
    """
    if not (wanted := [name for name in needed if getattr(args, name) == AUTO]):
        return
    flag = '--' + wanted[0].replace('_', '-')
    remedy = (f'choose with python -m lib.choose --dataset {quote(args.dataset)} --run {quote(args.run)}, or give '
              f'{flag} a value')
    file, network = args.folder / FILE, args.folder / 'cam' / 'model.pth'
    chosen = read_json(file, CHOSEN, f'{flag} is auto: {remedy}')
    if network.exists() and digests(network) != chosen['network']:
        raise ValueError(f'{file} was chosen for another network than {network}; {remedy}')
    for name in wanted:
        value = chosen[name]
        setattr(args, name, tuple(value) if isinstance(value, list) else value)
