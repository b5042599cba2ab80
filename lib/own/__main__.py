"""Turn your own photos into a data set: a folder and a list of labels become a dataset.json. No image is copied.

    python -m lib.own photos/ labels.csv --out data/my.json
    python -m lib.own photos/ --out data/my.json                    a folder per class, no list
    python -m lib.own photos/ labels.csv --masks masks/ --classes wren "red kite" --out data/my.json

docs/own_data.md shows all formats of labels. The classes are all labels that occur, in alphabetical order, or those of
--classes; masks number them from 1. If there are problems, all are listed and nothing is written. Otherwise the lists
go to a folder next to the .json file, data/my_lists.
"""
import argparse
import hashlib
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.data.registry import LARGEST_SIDE, read_spec
from lib.files.fileio import refuse_foreign, refuse_inputs, write_text
from lib.files.imageio import read_size
from lib.files.jsonfile import read_json, write_json
from lib.own.forms import read_folders, read_labels, splits_by_name
from lib.own.labels import MOST_LINES, clean_labels, find_classes, warn_about_classes
from lib.own.masks import ORIENTATIONS, check_masks, find_masks
from lib.own.photos import Folder, Log, Row, match_images, without_suffix
from lib.process.cli import Parser, integer, number
from lib.process.ending import run_script

MAKER = 'lib.own'


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(__doc__, prog='python -m lib.own')
    parser.add_argument('photos', type=Path, help='folder of the images, including subfolders')
    parser.add_argument('labels', type=Path, nargs='*', help='one or more lists of labels; without one, each subfolder '
                        'is a class')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='file to write; its name becomes that '
                        'of the data set and of its runs, for example data/my.json')
    parser.add_argument('--masks', type=Path, metavar='DIR', help='folder of ground-truth masks, for scores only')
    parser.add_argument('--mask-orientation', choices=ORIENTATIONS, help='orientation of the masks of images with an '
                        'EXIF rotation: upright as in image viewers, or as stored; with stored, images are not rotated')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='all classes, in the order of the values in the '
                        'masks; any other label is an error')
    parser.add_argument('--merge', nargs='+', type=renaming, default=[], metavar='OLD=NEW', help='labels to replace by '
                        'another one, for example dogs=dog, or by no class, for example normal=none')
    parser.add_argument('--keep-labels', action='store_true',
                        help='treat labels that look alike as different classes')
    parser.add_argument('--separator', help='character between several labels in one cell, or none; the default is the '
                        'one that yields the fewest distinct labels')
    parser.add_argument('--val', type=number(0, 1, above=True, below=True), default=0.2, metavar='FRACTION',
                        help='fraction of the images held out for validation, if the labels define no such split')
    parser.add_argument('--max-side', type=integer(32, LARGEST_SIDE), default=500, metavar='PIXELS',
                        help='larger images are reduced to this long side when read; crop sizes follow')
    return parser


def renaming(word: str) -> tuple[str, str]:
    """Type of --merge."""
    old, equals, new = word.partition('=')
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f'{word!r} is not accepted; expected OLD=NEW')
    return old.strip(), new.strip()


def split_rows(rows: Sequence[Row], fraction: float, source: str, log: Log) -> dict[str, list[Row]]:
    """Rows by split, as the label list says; if it has no val, a fraction of the training images is held out.

    The choice depends on the names alone; a class keeps at least one image in train.
    """
    unmarked = [row for row in rows if not row.split]
    if 0 < len(unmarked) < len(rows):
        log.problem(unmarked[0].location, 'has no split, but other images have one')
    splits = {name: [row for row in rows if (row.split or 'train') == name] for name in ('train', 'val', 'test')}
    if not splits['val']:
        pool, val = splits['train'], set()
        left = Counter(label for row in pool for label in row.labels)
        for row in sorted(pool, key=lambda row: (digest(Path(row.image).stem), row.image)):
            if len(val) < max(1, round(fraction * len(pool))) and all(left[label] > 1 for label in row.labels):
                val.add(row)
                left.subtract(row.labels)
        splits |= {'train': [row for row in pool if row not in val], 'val': [row for row in pool if row in val]}
    for name in ('train', 'val'):
        if not splits[name]:
            log.problem(source, f'leaves no image for {name}; add images: a class needs at least two')
    taught = {label for row in splits['train'] for label in row.labels}
    for name in sorted({label for row in rows for label in row.labels} - taught if taught else ()):
        log.problem(source, f'no image of the split train shows {name!r}')
    return {name: part for name, part in splits.items() if part}


def write_set(args: argparse.Namespace, splits: Mapping[str, list[Row]], classes: Sequence[str],
              masks: Mapping[str, Path], prepare: str) -> None:
    """Write the lists, then dataset.json; masks: paths by image; prepare: the command, for messages of others."""
    home, rows = args.out.resolve().parent, [row for part in splits.values() for row in part]
    photos, mask_folder = args.photos.resolve(), (args.masks or args.photos).resolve()
    root = Path(os.path.commonpath([photos, mask_folder]))
    images = {row.image: (photos / row.image).relative_to(root).as_posix() for row in rows}
    lines = {image: f'/{path}' for image, path in images.items()} | {
        image: f'/{images[image]} /{mask.resolve().relative_to(root).as_posix()}' for image, mask in masks.items()}
    texts = {f'{name}.txt': ''.join(f'{lines[row.image]}\n' for row in part) for name, part in splits.items()}
    texts['labels.txt'] = ''.join('\t'.join([without_suffix(row.image), *row.labels]) + '\n' for row in rows)
    suffix = Counter(Path(row.image).suffix for row in rows).most_common(1)[0][0]
    largest = max(max(read_size(photos / row.image)) for row in rows)
    entries = {'name': args.out.stem, 'classes': list(classes), 'root': Path(os.path.relpath(root, home)).as_posix(),
               'images': (photos / f'{{}}{suffix}').relative_to(root).as_posix(), 'lists': f'{args.out.stem}_lists',
               'train_split': 'train', 'val_split': 'val', 'score_split': 'train', 'preset': 'own',
               'upright': args.mask_orientation != 'stored', 'max_side': min(largest, args.max_side),
               'prepare': prepare, 'made_by': MAKER}
    if args.masks:
        entries['masks'] = [(mask_folder / '{}.png').relative_to(root).as_posix()]
    replace_lists(args.out, home / entries['lists'], texts)
    write_json(args.out, {**entries, 'lists_sha256': {name: digest(text) for name, text in texts.items()}})
    read_spec(args.out)


def replace_lists(out: Path, folder: Path, texts: Mapping[str, str]) -> None:
    """Replace the lists that `out`, if it exists, was written with; ValueError if one was edited since."""
    former = read_json(out).get('lists_sha256', {}) if out.exists() else {}
    for path in (folder / name for name in {**former, **texts}):
        known = former.get(path.name), digest(texts.get(path.name, ''))
        if path.exists() and digest(path.read_text(encoding='utf-8')) not in known:
            raise ValueError(f'{path} was edited, or not written by this command; move it away, or choose another '
                             '--out')
    for name in former.keys() - texts.keys():
        (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def stop_at(problems: Sequence[tuple[str, str]], source: str) -> None:
    """Print all problems, in order of the numbers in their locations, and raise ValueError."""
    problems = sorted(problems, key=lambda problem: [int(digits) for digits in re.findall(r'\d+', problem[0])])
    more = [f'... and {len(problems) - MOST_LINES} more'] if len(problems) > MOST_LINES else []
    print(*map(': '.join, problems[:MOST_LINES]), *more, sep='\n', file=sys.stderr)
    count = 'one problem' if len(problems) == 1 else f'{len(problems)} problems'
    raise ValueError(f'{count} in {source} and the files that it names; nothing was written')


def describe(out: Path, splits: Mapping[str, list[Row]], classes: Sequence[str]) -> str:
    """Contents of the set: images by split, and a line for each class."""
    rows = [row for part in splits.values() for row in part]
    sizes = ', '.join(f'{len(part)} {name}' for name, part in splits.items())
    counts = Counter(label for row in rows for label in row.labels)
    lines = [*((name, counts[name]) for name in classes), ('no class', sum(not row.labels for row in rows))]
    width = max(len(name) for name, _ in lines)
    return '\n'.join([f'{out}: {len(rows)} images ({sizes}), {len(classes)} classes',
                      *(f'  {name:{width}} {count} images' for name, count in lines)])


def main(argv: list[str] | None = None) -> None:
    """Check everything, then write the set."""
    words = sys.argv[1:] if argv is None else argv
    args = make_parser().parse_args(words)
    for folder in filter(None, (args.photos, args.masks)):
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder} is not a folder; expected the folder of the images, or of the masks')
    if args.out.suffix != '.json' or args.separator == '':
        raise ValueError(f'--out {args.out} --separator {args.separator!r}: expected a .json file and a character')
    args.out = args.out.resolve() if args.out.is_symlink() else args.out      # the link stays
    refuse_inputs([args.out], args.labels)
    refuse_foreign(args.out, MAKER, former='lib.data.own')
    source = ', '.join(map(str, args.labels)) or str(args.photos)

    # The labels of all images that have any, whatever their format.
    log, photos, classes, masks, splits = Log(), Folder(args.photos), [], {}, {}
    rows = [row for path in args.labels for row in read_labels(path, args.separator, log)]
    rows = match_images(rows if args.labels else read_folders(photos, log), photos, log)
    rows = clean_labels(splits_by_name(rows, log), dict(args.merge), log)

    # Checks that need all rows.
    if not log.problems:
        classes = find_classes(rows, args.classes, args.keep_labels, source, log)
    if args.masks and not log.problems:
        masks = find_masks(rows, args.masks, log)
        check_masks(rows, args.photos, masks, classes, bool(args.classes), args.mask_orientation, log)
    if not log.problems:
        splits = split_rows(rows, args.val, source, log)
    if log.problems:
        print('\n'.join(log.notes), end='\n' * bool(log.notes))
        stop_at(log.problems, source)
    warn_about_classes(rows, classes, log)
    write_set(args, splits, classes, masks, f'python -m {MAKER} {shlex.join(map(str, words))}')
    print(*log.notes, describe(args.out, splits, classes), sep='\n')


if __name__ == '__main__':
    run_script(main)
