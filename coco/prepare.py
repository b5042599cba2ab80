"""Write COCO's lists, masks and image-level labels from the official instances files.

    python -m coco.prepare --data-root data/coco2014 --lists coco
    python -m coco.prepare --data-root data/coco2014 --lists coco --masks coco    polygons as COCO's tools fill them

Reads  annotations/instances_{train,val}2014.json, which say what the two lists are, in file order, and
       annotations/instances_{train,val}2017.json, which have the better masks of the same pictures.
Writes <lists>/{train2014,val2014}.txt, lines '/Images/000000391895.jpg /Masks/000000391895.png', and labels.txt;
       Masks/<id>.png under the data root, and Masks/made_by.json, which says from what and by which rule.

The image-level labels are the classes in the mask; an image may have none. The files are never in memory as a whole.
An interrupted call goes on where it stopped: a mask that is there is read, not painted again.
"""
import argparse
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coco.dataset import COCO_CLASSES, LIST_SIZES, LISTS, ROOT, VAL_SHA256
from coco.instances import Instances, index_instances, read_annotations
from coco.masks import RULES
from lib.files.dataspec import list_sha256
from lib.files.fileio import remove_leftovers
from lib.files.imageio import read_mask, write_label_png
from lib.files.jsonfile import read_json, write_json
from lib.files.outpaths import check_lists, write_lists
from lib.process.ending import run_script
from lib.process.progress import progress
from lib.process.ranges import Parser, integer
from lib.process.workers import map_in_workers

MASK_YEAR, MAKER = '2017', 'coco.prepare'


class Job(NamedTuple):
    """The mask of one image: where it goes, its size, and where its annotations are."""

    path: Path
    size: tuple[int, int]
    instances: Path
    spans: list[list[int]]


def prepare(root: Path, lists: Path, rule: str = 'reference', workers: int = 0) -> dict[str, list[str]]:
    """Write lists, masks and labels.txt; returns the names by split.

    Args:
        root: folder with annotations/; Masks/ is made in it.
        lists: folder to write the lists to.
        rule: of the masks, a key of coco.masks.RULES.
        workers: processes that paint masks; 0 paints in this one.

    Raises:
        FileNotFoundError: if an instances file is not there.
        ValueError: if one is corrupt, or Masks holds masks of another rule or of other files.
    """
    root, lists = Path(root), Path(lists)
    splits = {split: [f'{image_id:012d}' for image_id in index_instances(_file(root, split)).ids.tolist()]
              for split in LIST_SIZES}
    files = [index_instances(_file(root, f'{part}{MASK_YEAR}')) for part in ('train', 'val')]
    for file in files:
        _check_categories(file)
    for folder in (root / 'Masks', lists):
        remove_leftovers(folder)
    texts = {f'{split}.txt': ''.join(f'/Images/{name}.jpg /Masks/{name}.png\n' for name in members)
             for split, members in splits.items()}
    check_lists(lists, texts, MAKER)
    _claim(root / 'Masks', rule, files)
    names = [name for split in splits.values() for name in split]
    jobs = find_jobs(root, names, files)
    work = partial(present_classes, rule=rule, category_ids=tuple(files[0].categories))
    present = progress(map_in_workers(work, jobs, workers, chunk=32), 'masks', 'file', len(names))
    texts['labels.txt'] = ''.join('\t'.join([name, *(COCO_CLASSES[value - 1] for value in values)]) + '\n'
                                  for name, values in zip(names, present))
    write_lists(lists, texts, MAKER)
    return splits


def find_jobs(root: Path, names: Iterable[str], files: list[Instances]) -> Iterator[Job]:
    """The work on each image, one by one.

    Raises:
        ValueError: if none of the files lists an image.
    """
    rows = {image_id: (number, row) for number, file in enumerate(files)
            for row, image_id in enumerate(file.ids.tolist())}
    for name in names:
        if int(name) not in rows:
            raise ValueError(f'image {name} is in none of {", ".join(str(file.path) for file in files)}; '
                             'unpack the annotations of both years')
        number, row = rows[int(name)]
        file = files[number]
        yield Job(root / f'Masks/{name}.png', tuple(file.sizes[row].tolist()), file.path, file.spans_of(int(name)))


def present_classes(job: Job, rule: str, category_ids: tuple[int, ...]) -> list[int]:
    """Mask values, without background, in the mask of one image, which is painted unless it is there."""
    if job.path.exists():
        mask = read_mask(job.path, len(category_ids) + 1)
        if mask.shape != job.size:
            raise ValueError(f'{job.path} is {mask.shape}, its image {job.size}; delete the mask, then run the same '
                             'command again')
    else:
        mask = RULES[rule](read_annotations(job.instances, job.spans), category_ids, *job.size)
        write_label_png(job.path, mask)
    return [value for value in np.flatnonzero(np.bincount(mask.ravel())).tolist() if value]


def report(splits: dict[str, list[str]]) -> Iterator[str]:
    """A line for each list: its length and whether it is the official one."""
    for split, names in splits.items():
        yield f'{split}: {len(names)} images, {"the" if is_official(split, names) else "NOT the"} official list'


def is_official(split: str, names: list[str]) -> bool:
    """Whether a list has the official number of images and, where it is known, the official checksum."""
    return len(names) == LIST_SIZES[split] and (split != 'val2014' or list_sha256(names) == VAL_SHA256)


def _file(root: Path, part: str) -> Path:
    return root / f'annotations/instances_{part}.json'


def _check_categories(file: Instances) -> None:
    """The rank of a category id is its mask value, so the categories have to be COCO's."""
    found = tuple(file.categories[key] for key in sorted(file.categories))
    if found != COCO_CLASSES:
        strange = next((name for name in found if name not in COCO_CLASSES), f'{len(found)} categories')
        raise ValueError(f'{file.path} has {strange!r}; expected the {len(COCO_CLASSES)} classes of COCO in the order '
                         'of their ids: describe another data set by a dataset.json')


def _claim(folder: Path, rule: str, files: list[Instances]) -> None:
    """Note what the masks of a folder are made from; refuse a folder of other masks."""
    note = {'masks': rule, 'instances': {file.path.name: file.path.stat().st_size for file in files}}
    path = folder / 'made_by.json'
    if path.exists():
        earlier = read_json(path, {}, 'move the folder away')
        if earlier != note:
            differing = next((key for key in note if earlier.get(key) != note[key]), 'entries')
            raise ValueError(f'{folder} holds masks with {differing} {earlier.get(differing)}, this call asks for '
                             f'{note.get(differing)}; delete the folder, or give another --data-root')
    elif next(folder.glob('[!.]*.png'), None):
        raise ValueError(f'{folder} holds masks that this command did not make; move them away')
    else:
        write_json(path, note)


def add_mask_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that preparing shares with the whole set-up."""
    parser.add_argument('--masks', choices=tuple(RULES), default='reference',
                        help='how polygons become pixels: as in the reference (points truncated, filled by OpenCV), or '
                        'as in COCO\'s own tools')


def main(argv: list[str] | None = None) -> None:
    """Write lists, masks and labels, and say what they are."""
    parser = Parser(__doc__)
    parser.add_argument('--data-root', '--coco-root', '--coco_root', '--data_root', type=Path, default=ROOT,
                        metavar='DIR', help='the folder with annotations/ and Images/ in it')
    parser.add_argument('--lists', type=Path, default=LISTS, metavar='DIR', help='folder to write the lists to')
    add_mask_flag(parser)
    parser.add_argument('--workers', type=integer(0, 256), default=os.cpu_count() or 1, metavar='N',
                        help='helper processes; 0 does all in this one')
    args = parser.parse_args(argv)
    print('\n'.join(report(prepare(args.data_root, args.lists, args.masks, args.workers))))


if __name__ == '__main__':
    run_script(main)
