"""Writing a user's own data set: splits, lists and dataset.json."""
import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.data.registry import read_spec
from lib.files.fileio import remove_leftovers, replacing
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
        pool = splits['train']
        left, val = Counter(label for row in pool for label in row.labels), set()
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
    photos, mask_folder = args.photos.resolve(), args.masks and args.masks.resolve()
    root = Path(os.path.commonpath([photos, mask_folder or photos]))
    prefix = photos.relative_to(root).as_posix()
    texts = {f'{name}.txt': ''.join(map(_list_line, [Path(prefix, row.image) for row in part],
                                        [row.image in masks and masks[row.image].resolve().relative_to(root)
                                         for row in part])) for name, part in splits.items()}
    texts['labels.txt'] = ''.join('\t'.join([without_suffix(row.image), *row.labels]) + '\n' for row in rows)
    suffix = Counter(Path(row.image).suffix for row in rows).most_common(1)[0][0]
    entries = {'name': args.out.stem, 'classes': list(classes), 'root': Path(os.path.relpath(root, home)).as_posix(),
               'images': Path(prefix, f'{{}}{suffix}').as_posix(), 'lists': f'{args.out.stem}_lists',
               'train_split': 'train', 'val_split': 'val', 'score_split': 'train', 'preset': 'own',
               'upright': args.mask_orientation != 'stored',
               'max_side': _long_side([photos / row.image for row in rows], args.max_side), 'prepare': prepare,
               'made_by': MAKER}
    if mask_folder:
        entries['masks'] = [(mask_folder.relative_to(root) / '{}.png').as_posix()]
    replace_lists(args.out, home / entries['lists'], texts)
    write_json(args.out, {**entries, 'lists_sha256': {name: digest(text) for name, text in texts.items()}})
    remove_leftovers(home)
    read_spec(args.out)


def replace_lists(out: Path, folder: Path, texts: Mapping[str, str]) -> None:
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


def _list_line(image: Path, mask: Path | bool) -> str:
    return f'/{image.as_posix()}' + (f' /{mask.as_posix()}\n' if mask else '\n')


def _long_side(paths: Sequence[Path], limit: int) -> int:
    """The longest side of all images in pixels, or the limit once one reaches it."""
    longest = 0
    for path in paths:
        longest = max(longest, *read_size(path))
        if longest >= limit:
            return limit
    return longest
