"""Your own photos as a data set: a folder and a table become a dataset.json. No image is copied.

    python -m lib.data.own photos/ labels.csv --out data/my.json
    python -m lib.data.own photos/ labels.csv --masks masks/ --classes wren "red kite" --out data/my.json

The table is CSV with the header image,labels (and optionally split: train, val or test), labels separated by ';', or
JSON, a list of {"image": ..., "labels": [...]}; images are named relative to the folder. Classes are all labels that
occur, in alphabetical order, or those of --classes: masks count them from 1. A mask is a palette or grey PNG with the
name of its image: 0 background, 255 ignored; some images may have none. Problems are listed by line, those of the table
and the images first, then those of classes and masks, and nothing is written. Otherwise the lists are written to a
folder beside dataset.json, data/my_lists.
"""
import argparse
import hashlib
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lib.data.own_checks import MASK_SUFFIXES, check_masks, find_classes, match_images
from lib.data.own_table import SPLITS, Report, Row, read_table
from lib.data.registry import LARGEST_SIDE, read_spec
from lib.files.dataspec import check_classes
from lib.files.fileio import remove_leftovers, replacing
from lib.files.imageio import read_size
from lib.files.jsonfile import read_json, write_json
from lib.files.outpaths import refuse_foreign, refuse_inputs
from lib.process.cli import Parser, integer, number
from lib.process.ending import run_script

MAKER = 'lib.data.own'


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(__doc__)
    parser.add_argument('photos', type=Path, help='folder of the images')
    parser.add_argument('table', type=Path, help='CSV or JSON file with their labels')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='dataset.json to write; its name is '
                        'that of the data set and its runs, for example data/my.json')
    parser.add_argument('--masks', type=Path, metavar='DIR', help='folder of ground-truth masks, for scores only')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='all classes, in the order of the values in the '
                        'masks; any other label is an error')
    parser.add_argument('--separator', default=';', help='between the labels of an image in CSV (default: %(default)s)')
    parser.add_argument('--val', type=number(0, 1, above=True, below=True), default=0.2, metavar='FRACTION',
                        help='fraction of the images held out for validation, where the table has no column split '
                        '(default: %(default)s)')
    parser.add_argument('--max-side', type=integer(32, LARGEST_SIDE), default=500, metavar='PIXELS',
                        help='larger images are reduced to this long side when read; training and inference are set '
                        'up for it (default: %(default)s)')
    return parser


def split_rows(rows: Sequence[Row], fraction: float, table: Path, report: Report) -> dict[str, list[Row]]:
    """Rows by split, as the table says or, where it does not, with a fraction for val.

    The choice depends on the names alone, so the same table always gives the same split; a class keeps at least one
    image in train.
    """
    splits = {name: [row for row in rows if row.split == name] for name in SPLITS}
    remedy = 'mark some in the column split, or leave the column out'
    if not any(splits.values()):
        remedy = 'add images: a class needs two before one of them is held out for val'
        left, val = Counter(label for row in rows for label in row.labels), set()
        for row in sorted(rows, key=lambda row: digest(Path(row.image).stem)):
            if len(val) < max(1, round(fraction * len(rows))) and all(left[label] > 1 for label in row.labels):
                val.add(row)
                left.subtract(row.labels)
        splits = {'train': [row for row in rows if row not in val], 'val': [row for row in rows if row in val]}
    elif unmarked := [row for row in rows if not row.split]:
        report(unmarked[0].location, 'has no split, but other images have one')
    for name in ('train', 'val'):
        if not splits[name]:
            report(str(table), f'leaves no image for {name}; {remedy}')
    taught = {label for row in splits['train'] for label in row.labels}
    for name in sorted({label for row in rows for label in row.labels} - taught if taught else ()):
        report(str(table), f'no image of the split train shows {name!r}')
    return {name: part for name, part in splits.items() if part}


def write_set(args: argparse.Namespace, splits: dict[str, list[Row]], classes: Sequence[str], prepare: str) -> None:
    """Write the lists, then dataset.json, which names their folder; paths are relative to it."""
    home, rows = args.out.resolve().parent, sum(splits.values(), [])
    photos, masks = args.photos.resolve(), args.masks and args.masks.resolve()
    root = Path(os.path.commonpath([photos, masks or photos]))
    prefix = photos.relative_to(root).as_posix()
    texts = {f'{name}.txt': ''.join(f'/{Path(prefix, row.image).as_posix()}\n' for row in part)
             for name, part in splits.items()}
    texts['labels.txt'] = ''.join('\t'.join([Path(row.image).stem, *row.labels]) + '\n' for row in rows)
    suffix = Counter(Path(row.image).suffix for row in rows).most_common(1)[0][0]
    longest = max(max(read_size(photos / row.image)) for row in rows)
    entries = {'name': args.out.stem, 'classes': list(classes), 'root': Path(os.path.relpath(root, home)).as_posix(),
               'images': Path(prefix, f'{{}}{suffix}').as_posix(), 'lists': f'{args.out.stem}_lists',
               'train_split': 'train', 'val_split': 'val', 'score_split': 'train', 'preset': 'own', 'upright': True,
               'max_side': min(args.max_side, longest), 'prepare': prepare, 'made_by': MAKER}
    if masks:
        entries['masks'] = [(masks.relative_to(root) / f'{{}}{suffix}').as_posix() for suffix in MASK_SUFFIXES]
    replace_lists(args.out, home / entries['lists'], texts)
    write_json(args.out, {**entries, 'lists_sha256': {name: digest(text) for name, text in texts.items()}})
    remove_leftovers(home)
    read_spec(args.out)


def replace_lists(out: Path, folder: Path, texts: dict[str, str]) -> None:
    """Replace the lists that `out`, if it exists, was written with; ValueError if one was edited since."""
    former = read_json(out).get('lists_sha256', {}) if out.exists() else {}
    for name in {**former, **texts}:
        known = (former.get(name), digest(texts.get(name, '')))
        if (folder / name).exists() and digest((folder / name).read_text(encoding='utf-8')) not in known:
            raise ValueError(f'{folder / name} was edited, or not written by this command; move it away, or choose '
                             'another --out')
    remove_leftovers(folder)
    for name in former:
        (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding='utf-8')


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def describe(out: Path, splits: dict[str, list[Row]], classes: Sequence[str], photos: Path) -> list[str]:
    """Lines that say what is in the set."""
    rows = sum(splits.values(), [])
    sizes = ', '.join(f'{len(part)} {name}' for name, part in splits.items())
    counts = ', '.join(f'{name} {sum(name in row.labels for row in rows)}' for name in classes)
    unnamed = sum(path.is_file() for path in photos.rglob('*')) - len(rows)
    return [f'{out}: {len(rows)} images ({sizes}); images per class: {counts}; without any class: '
            f'{sum(not row.labels for row in rows)}', f'files in {photos} that the table does not name: {unnamed}']


def main(argv: list[str] | None = None) -> None:
    """Check everything, then write the set."""
    words = sys.argv[1:] if argv is None else argv
    args = make_parser().parse_args(words)
    for folder in filter(None, (args.photos, args.masks)):
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder} is not a folder; expected the folder of the images, or of the masks')
    if args.out.suffix != '.json' or not args.separator:
        raise ValueError(f'--out {args.out} --separator {args.separator!r}: expected a .json file and a character')
    args.out = args.out.resolve() if args.out.is_symlink() else args.out      # the link stays
    refuse_inputs([args.out], [args.table])
    refuse_foreign(args.out, MAKER)
    problems = []

    def report(location: str, problem: str) -> None:
        problems.append((location, problem))

    # The table and the images; then what only all rows together can tell.
    rows, notes = match_images(read_table(args.table, args.separator, report), args.photos, report), []
    if not problems:
        classes = find_classes(rows, args.classes, args.table, report)
        check_classes(classes, args.table)
        notes = check_masks(rows, args.photos, args.masks, classes, report) if args.masks else []
    splits = {} if problems else split_rows(rows, args.val, args.table, report)
    if problems:
        problems.sort(key=lambda problem: [int(digits) for digits in re.findall(r'\d+', problem[0])])
        print(*(': '.join(problem) for problem in problems), sep='\n', file=sys.stderr)
        count = 'one problem' if len(problems) == 1 else f'{len(problems)} problems'
        raise ValueError(f'{count} in {args.table} and what it names; nothing was written')
    write_set(args, splits, classes, f'python -m lib.data.own {shlex.join(map(str, words))}')
    print(*describe(args.out, splits, classes, args.photos), *notes, sep='\n')


if __name__ == '__main__':
    run_script(main)
