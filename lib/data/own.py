"""Your own photos as a data set: a folder and a table become a dataset.json. No image is copied.

    python -m lib.data.own photos/ labels.csv --out data/my.json
    python -m lib.data.own photos/ labels.csv --masks masks/ --classes wren "red kite" --out data/my.json

The table is CSV with the header image,labels (and perhaps split: train, val or test), labels separated by ';', or JSON,
a list of {"image": ..., "labels": [...]}; images are named below the folder. Classes are all labels that occur, in the
order of the alphabet, or those of --classes: masks count them from 1. A mask is a palette or grey PNG with the name of
its image: 0 background, 255 ignored; some images may have none. Every problem in table, images and masks is
listed, and then nothing is written.
"""
import argparse
import hashlib
import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.data.folder import read_spec
from lib.data.own_checks import MASK_ENDINGS, Report, check_masks, check_photos, find_classes, names_on_disk
from lib.data.own_table import SPLITS, Row, read_table
from lib.files.dataspec import check_classes
from lib.files.fileio import remove_leftovers, replacing
from lib.files.imageio import read_size
from lib.files.jsonfile import write_json
from lib.files.outpaths import refuse_foreign, refuse_inputs
from lib.process.ending import run_script
from lib.process.ranges import Parser, integer, number

MAKER = 'lib.data.own'


def split_rows(rows: Sequence[Row], share: float, table: Path, report: Report) -> dict[str, list[Row]]:
    """Rows by split, as the table says or, where it does not, with a share for val.

    The share is drawn by the names, so the same table always gives the same split; a class that has but one image
    left in train keeps it there.
    """
    splits = {name: [row for row in rows if row.split == name] for name in SPLITS}
    if not any(row.split for row in rows):
        left = Counter(label for row in rows for label in row.labels)
        chosen = set()
        for row in sorted(rows, key=lambda row: hashlib.sha256(Path(row.image).stem.encode()).digest()):
            if len(chosen) < max(1, round(share * len(rows))) and all(left[label] > 1 for label in row.labels):
                chosen.add(row)
                left.subtract(row.labels)
        splits = {'train': [row for row in rows if row not in chosen], 'val': [row for row in rows if row in chosen]}
    for name in ('train', 'val'):
        if not splits[name]:
            report(str(table), f'leaves no image for {name}; ' + (
                'mark some in the column split, or leave the column out' if any(row.split for row in rows) else
                'add images: a class needs two before one of them is kept for val'))
    taught = {label for row in splits['train'] for label in row.labels}
    for name in sorted({label for row in rows for label in row.labels} - taught if taught else ()):
        report(str(table), f'no image of the split train shows {name!r}')
    return {name: chosen for name, chosen in splits.items() if chosen}


def write_set(out: Path, splits: dict[str, list[Row]], classes: Sequence[str], photos: Path, masks: Path | None,
              max_side: int, prepare: str) -> None:
    """Write the lists, and then dataset.json, which names their folder; paths are kept relative to it.

    The folder of the lists is named by their content, so dataset.json always names the lists that it was written with.

    Raises:
        ValueError: if such a list was edited since.
    """
    home = out.resolve().parent
    root = Path(os.path.commonpath([photos.resolve(), *([masks.resolve()] if masks else [])]))
    below = photos.resolve().relative_to(root).as_posix()
    prefix = '' if below == '.' else f'{below}/'
    rows = [row for chosen in splits.values() for row in chosen]
    texts = {name: ''.join(f'/{prefix}{row.image}\n' for row in chosen) for name, chosen in splits.items()}
    texts['labels'] = ''.join('\t'.join([Path(row.image).stem, *row.labels]) + '\n' for row in rows)
    lists = home / f'{out.stem}_lists' / lists_digest(texts)
    ending = Counter(Path(row.image).suffix for row in rows).most_common(1)[0][0]
    entries = {'name': out.stem, 'classes': list(classes), 'root': os.path.relpath(root, home).replace(os.sep, '/'),
               'images': f'{prefix}{{}}{ending}', 'lists': lists.relative_to(home).as_posix(), 'train_split': 'train',
               'val_split': 'val', 'score_split': 'train', 'preset': 'own', 'upright': True, 'max_side': max_side,
               'prepare': prepare, 'made_by': MAKER}
    if masks:
        place = masks.resolve().relative_to(root).as_posix()
        entries['masks'] = [f'{place}/{{}}{ending}'.removeprefix('./') for ending in MASK_ENDINGS]
    remove_leftovers(home)
    remove_leftovers(lists)
    for name, text in read_lists(lists).items():
        if text != texts.get(name):
            raise ValueError(f'{lists}/{name}.txt was edited since; move it away, or choose another --out')
    for name, text in texts.items():
        with replacing(lists / f'{name}.txt') as temporary:
            temporary.write_text(text, encoding='utf-8')
    write_json(out, entries)
    read_spec(out)
    remove_former_lists(lists)


def lists_digest(texts: Mapping[str, str]) -> str:
    """Name of the folder of some lists."""
    return hashlib.sha256(json.dumps(dict(texts), sort_keys=True).encode()).hexdigest()[:16]


def read_lists(folder: Path) -> dict[str, str]:
    """The lists in a folder by name; whatever else is in it has a name of its own."""
    return {path.stem if path.suffix == '.txt' else path.name:
            path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''
            for path in folder.glob('*')}


def remove_former_lists(current: Path) -> None:
    """Remove the lists of earlier calls, unless somebody has edited them or added files."""
    for folder in current.parent.iterdir():
        if folder != current and folder.is_dir() and folder.name == lists_digest(read_lists(folder)):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def check_out(out: Path, photos: Path, table: Path) -> None:
    """Make sure that --out is neither an input nor somebody else's file nor the description of other images.

    Raises:
        ValueError: if it is.
    """
    refuse_inputs([out], [table])
    refuse_foreign(out, MAKER)
    if out.exists():
        spec = read_spec(out)
        earlier = (spec.root / spec.image_template).parent
        if earlier.is_dir() and not earlier.samefile(photos):
            raise ValueError(f'{out} describes the images of {earlier}, not those of {photos}; choose another --out, '
                             'or move the file away')


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(__doc__)
    parser.add_argument('photos', type=Path, help='folder of the images')
    parser.add_argument('table', type=Path, help='CSV or JSON file with their labels')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='dataset.json to write; its name names '
                        'the set and its runs, as data/my.json')
    parser.add_argument('--masks', type=Path, metavar='DIR', help='folder of exact masks, for scores only')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='all classes in the order in which masks count '
                        'them; any other label is a problem')
    parser.add_argument('--separator', default=';', help='what stands between the labels of an image in CSV (default: '
                        '%(default)s)')
    parser.add_argument('--val', type=number(0, 1, above=True, below=True), default=0.2, metavar='SHARE',
                        help='share of the images that is kept '
                        'from training, where the table has no column split (default: %(default)s)')
    parser.add_argument('--max-side', type=integer(32, 16384), default=500, metavar='PIXELS',
                        help='larger images are read at this '
                        'long side; training and inference are set up for it (default: %(default)s)')
    return parser


def main(argv: list[str] | None = None) -> None:
    """Check everything, then write the set."""
    words = sys.argv[1:] if argv is None else argv
    args = make_parser().parse_args(words)
    problems = []
    notes = make_set(args, lambda place, problem: problems.append(f'{place}: {problem}'),
                     f'python -m lib.data.own {shlex.join(map(str, words))}')
    if problems:
        print(*sorted(problems, key=line_number), sep='\n', file=sys.stderr)
        count = 'one problem' if len(problems) == 1 else f'{len(problems)} problems'
        raise ValueError(f'{count} in {args.table} and what it names; nothing was written')
    print(*notes, sep='\n')


def line_number(problem: str) -> int:
    """Line or entry of the table that a reported problem names; 0 where it names none."""
    match = re.match(r'.*?:(?: entry )?(\d+): ', problem)
    return int(match[1]) if match else 0


def make_set(args: argparse.Namespace, report: Report, prepare: str) -> list[str]:
    """Write the set unless something was reported; returns what there is to say about it."""
    for folder in (args.photos, *([args.masks] if args.masks else [])):
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder} is not a folder; expected the folder of the images, or of the masks')
    if args.out.suffix != '.json' or not args.separator:
        raise ValueError(f'--out {args.out} --separator {args.separator!r}: expected a .json file and a character')
    args.out = args.out.resolve() if args.out.is_symlink() else args.out      # the link stays
    check_out(args.out, args.photos, args.table)
    wrong = set()

    def note(place: str, problem: str) -> None:
        wrong.add(place)
        report(place, problem)

    rows = names_on_disk(read_table(args.table, args.separator, note), args.photos)
    whole = not wrong
    if not rows and not wrong:
        note(str(args.table), 'names no image')
    check_photos(rows, args.photos, note)
    sound = [row for row in rows if row.place not in wrong]
    classes = find_classes(rows, args.classes, args.table, whole, note) if rows else []
    check_classes(classes, args.table)
    said = check_masks(sound, args.photos, args.masks, classes, note) if args.masks and sound else []
    splits = {} if wrong else split_rows(rows, args.val, args.table, note)
    if wrong:
        return []
    longest = max(max(read_size(args.photos / row.image)) for row in rows)
    write_set(args.out, splits, classes, args.photos, args.masks, min(args.max_side, longest), prepare)
    return [*describe(args.out, splits, classes, args.photos), *said]


def describe(out: Path, splits: dict[str, list[Row]], classes: Sequence[str], photos: Path) -> list[str]:
    """What the set holds, for people."""
    rows = [row for chosen in splits.values() for row in chosen]
    shares = ', '.join(f'{len(chosen)} {name}' for name, chosen in splits.items())
    counts = ', '.join(f'{name} {sum(name in row.labels for row in rows)}' for name in classes)
    lines = [f'{out}: {len(rows)} images ({shares}); {len(classes)} classes with their images: {counts}']
    bare = sum(not row.labels for row in rows)
    if bare:
        lines.append(f'images without any class: {bare}')
    unnamed = sum(path.is_file() for path in photos.rglob('*')) - len(rows)
    if unnamed:
        lines.append(f'files below {photos} that the table does not name, left out: {unnamed}')
    return lines


if __name__ == '__main__':
    run_script(main)
