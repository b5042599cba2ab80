"""Writing a user's own data set: splits, lists and dataset.json."""
import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.data.registry import read_spec
from lib.files.fileio import remove_leftovers, write_text
from lib.files.imageio import read_size
from lib.files.jsonfile import read_json, write_json
from lib.own.photos import Log, Row, without_suffix

MAKER = 'lib.own'
FORMER_MAKER = 'lib.data.own'
SPLITS = ('train', 'val', 'test')


def split_rows(rows: Sequence[Row], fraction: float, source: str, log: Log) -> dict[str, list[Row]]:
    """Rows by split, as the label list says; if it names no val, a fraction of the others is held out.

    The choice depends on the names alone, so the same list always gives the same split; a class keeps at least one
    image in train.
    """
    unmarked = [row for row in rows if not row.split]
    if 0 < len(unmarked) < len(rows):
        log.problem(unmarked[0].location, 'has no split, but other images have one')
    splits = {name: [row for row in rows if (row.split or 'train') == name] for name in SPLITS}
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
            log.problem(source, f'leaves no image for {name}; add images: a class needs two before one of them is held '
                        'out for val')
    taught = {label for row in splits['train'] for label in row.labels}
    for name in sorted({label for row in rows for label in row.labels} - taught if taught else ()):
        log.problem(source, f'no image of the split train shows {name!r}')
    return {name: part for name, part in splits.items() if part}


def write_set(args: argparse.Namespace, splits: Mapping[str, list[Row]], classes: Sequence[str],
              masks: Mapping[str, Path], prepare: str) -> None:
    """Write the lists, then dataset.json, which names their folder; paths are relative to it.

    Args:
        args: settings of the command.
        splits: rows by split.
        classes: names in the order of mask values.
        masks: paths by image.
        prepare: the command, for messages of other commands.
    """
    home, rows = args.out.resolve().parent, [row for part in splits.values() for row in part]
    photos, mask_folder = args.photos.resolve(), (args.masks or args.photos).resolve()
    root = Path(os.path.commonpath([photos, mask_folder]))
    images = {row.image: (photos / row.image).relative_to(root).as_posix() for row in rows}
    lines = {image: f'/{path}\n' for image, path in images.items()} | {
        image: f'/{images[image]} /{mask.resolve().relative_to(root).as_posix()}\n' for image, mask in masks.items()}
    texts = {f'{name}.txt': ''.join(lines[row.image] for row in part) for name, part in splits.items()}
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
    remove_leftovers(home)
    read_spec(args.out)


def replace_lists(out: Path, folder: Path, texts: Mapping[str, str]) -> None:
    """Replace the lists that `out`, if it exists, was written with; ValueError if one was edited since."""
    former = read_json(out).get('lists_sha256', {}) if out.exists() else {}
    for path in (folder / name for name in {**former, **texts}):
        known = (former.get(path.name), digest(texts.get(path.name, '')))
        if path.exists() and digest(path.read_text(encoding='utf-8')) not in known:
            raise ValueError(f'{path} was edited, or not written by this command; move it away, or choose another '
                             '--out')
    remove_leftovers(folder)
    for name in former.keys() - texts.keys():
        (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
