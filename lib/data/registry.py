"""The data set that --dataset names: VOC, COCO, or one that a dataset.json describes. Only this file knows all three.

docs/file_formats.md describes dataset.json. lib/own writes one from a folder and a list of labels; "made_by" then says
so, and no command overwrites a file without it.
"""
from pathlib import Path

import coco.dataset
import voc12.dataset
from lib.files.dataspec import DatasetSpec
from lib.files.jsonfile import read_json

TOY = Path('data/toy')


def get_spec(dataset: str, root: Path | None = None, lists: Path | None = None) -> DatasetSpec:
    """Describe a data set: voc12, coco, toy, or the path of a dataset.json.

    `root` is the folder of the images, and `lists` that of the split lists and labels.txt, if not the data set's own.
    """
    folders = {key: Path(value) for key, value in (('root', root), ('lists', lists)) if value}
    if dataset in ('voc12', 'coco'):
        return {'voc12': voc12, 'coco': coco}[dataset].dataset.spec(**folders)
    if dataset == 'toy':
        return read_spec(folders.get('root', TOY), lists=lists)
    if dataset.endswith('.json') or Path(dataset).is_dir():
        return read_spec(Path(dataset), **folders)
    raise ValueError(f'--dataset {dataset} is unknown; use voc12, coco, toy or the path of a dataset.json')


# Entries that go into a DatasetSpec as they are, and all entries.
PLAIN = {'train_split?': str, 'val_split?': str, 'score_split?': str, 'preset?': str, 'prepare?': str,
         'upright?': bool, 'max_side?': (int, None)}
ENTRIES = {'name': str, 'classes': [str], 'images': str, 'masks?': [str], 'lists?': str, 'root?': str, 'made_by?': str,
           'lists_sha256?': {str: str}, **PLAIN}
LARGEST_SIDE = 16384     # pixels


def read_spec(path: Path, root: Path | None = None, lists: Path | None = None) -> DatasetSpec:
    """Read a dataset.json, or the one in a folder; root and lists as in get_spec."""
    path = Path(path) if Path(path).suffix == '.json' else Path(path) / 'dataset.json'
    entries = read_json(path, ENTRIES, 'python -m lib.own makes one from photos, python -m lib.data.toy a '
                        'synthetic set')
    check_entries(path, entries)
    plain = {key: value for key, value in entries.items() if f'{key}?' in PLAIN}
    return DatasetSpec(**{'train_split': 'train', **plain}, name=entries['name'], classes=tuple(entries['classes']),
                       root=Path(root) if root else path.parent / entries.get('root', ''),
                       lists=Path(lists) if lists else path.parent / entries.get('lists', 'lists'),
                       image_template=entries['images'], mask_templates=tuple(entries.get('masks', ())),
                       flag=str(path))


def check_entries(path: Path, entries: dict) -> None:
    """Raise ValueError for the first value of a dataset.json that cannot be."""
    classes, templates = entries['classes'], [entries['images'], *entries.get('masks', ())]
    known = [key.removesuffix('?') for key in ENTRIES]
    texts = [value for value in entries.values() if isinstance(value, str)]
    side, problem = entries.get('max_side'), ''
    if unknown := [key for key in entries if key not in known]:
        problem = f'unknown entry {unknown[0]!r}; known ones: {", ".join(known)}'
    elif odd := [text for text in (*classes, *templates, *texts) if not text.isprintable()]:
        problem = f'{odd[0]!r} holds a character that cannot be printed'
    elif twice := [name for name in classes if classes.count(name) > 1]:
        problem = f'class {twice[0]!r} is listed twice'
    elif wrong := [text for text in templates if '{}' not in text or text.count('{') + text.count('}') != 2]:
        problem = f'{wrong[0]!r} must be a path with one {{}} in place of the name'
    elif not classes or 'background' in classes or not all(map(str.strip, classes)):
        problem = '"classes" must name at least one class, and foreground only: leave "background" out'
    elif not entries['name'] or Path(entries['name']).name != entries['name']:
        problem = '"name" must be a plain name, as it becomes the name of a folder'
    elif side is not None and not 1 <= side <= LARGEST_SIDE:
        problem = f'"max_side" is {side}, expected 1 to {LARGEST_SIDE} pixels'
    if problem:
        raise ValueError(f'{path}: {problem}')
