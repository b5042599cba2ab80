"""suspects.csv of a run: image-level labels that are likely wrong or missing, as lib/suspects.py finds them."""
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lib.files.dataspec import DatasetSpec
from lib.files.fileio import replacing
from lib.files.imageio import read_image
from lib.report.examples import jpeg

FILE = 'suspects.csv'
HEAD = ['image', 'class', 'given', 'score', 'verdict']
WRONG, MISSING = 'likely wrong', 'likely missing'
SHOWN = 4 * 5           # on the page: rows of five


class Suspect(NamedTuple):
    """A line of the file."""

    image: str
    name: str           # of the class
    given: int          # 1 if the image has the label
    score: float        # probability of the class
    verdict: str


def write_suspects(path: Path, suspects: Sequence[Suspect]) -> None:
    with replacing(path) as temporary, open(temporary, 'w', newline='', encoding='utf-8-sig') as file:
        csv.writer(file).writerows([HEAD, *(one._replace(score=f'{one.score:.4f}') for one in suspects)])


def read_suspects(path: Path) -> list[Suspect]:
    """The lines of the file; none if it does not exist. Raises ValueError if its format is wrong."""
    if not path.exists():
        return []
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            head, *rows = csv.reader(file)
        suspects = [Suspect(image, name, int(given), float(score), verdict)
                    for image, name, given, score, verdict in rows]
    except (ValueError, csv.Error):
        head = None
    if head != HEAD:
        raise ValueError(f'{path} was not written by python -m lib.suspects; move or rename it')
    return suspects


def suspect_images(spec: DatasetSpec, path: Path) -> list[dict]:
    """The first entries for the page: 'caption' and 'image' (data URI), without those corrected since."""
    samples = {sample.name: sample for split in (spec.train_split, spec.val_split) for sample in spec.samples(split)}
    known = [one for one in read_suspects(path) if one.image in samples and one.name in spec.classes]
    labels = spec.image_labels([one.image for one in known])
    shown = [one for one, row in zip(known, labels) if row[spec.classes.index(one.name)] == one.given][:SHOWN]
    return [{'caption': f'{one.name} {one.verdict} ({one.score:.2f}): {one.image}',
             'image': jpeg(read_image(samples[one.image].image, **spec.reading))} for one in shown]
