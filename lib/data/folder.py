"""A data set described by a file, dataset.json: how the toy set and a user's own photos come in.

    {"name": "birds", "classes": ["wren", "red kite"], "images": "photos/{}.jpg", "masks": ["masks/{}.png"],
     "lists": "lists", "train_split": "train", "val_split": "val", "score_split": "train", "preset": "voc12"}

Paths are relative to the folder of dataset.json; "root" names another folder for images and masks. Without "masks" the
set can be trained on and predicted, not scored. "lists" holds <split>.txt and labels.txt, described in
lib/files/dataspec.py. With "upright": true, images are turned as their EXIF tag says; "max_side" is the long side in
pixels to which larger images are reduced when read. lib/data/own.py writes such a file from a folder and a table;
"made_by" then says so, and no command overwrites one that does not.
"""
from pathlib import Path

from lib.files.dataspec import DatasetSpec
from lib.files.jsonfile import read_json

ENTRIES = {'name': str, 'classes': [str], 'images': str, 'masks?': [str], 'lists?': str, 'train_split?': str,
           'val_split?': str, 'score_split?': str, 'preset?': str, 'prepare?': str, 'made_by?': str, 'root?': str,
           'upright?': bool, 'max_side?': (int, None)}
LARGEST_SIDE = 16384     # pixels


def read_spec(path: Path, root: Path | None = None, lists: Path | None = None) -> DatasetSpec:
    """Read dataset.json (or the folder that holds it).

    Args:
        path: the file.
        root: folder of the images, if not the folder of the file.
        lists: folder of the lists, if not the one the file names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not valid JSON, lacks an entry, has an unknown one or one of the wrong type.
    """
    path = Path(path) / 'dataset.json' if Path(path).is_dir() else Path(path)
    entries = _read_entries(path)
    root = Path(root) if root else path.parent / entries.get('root', '')
    splits = {key: entries[key] for key in ('train_split', 'val_split', 'score_split', 'preset', 'prepare', 'upright',
                                            'max_side') if key in entries}
    splits.setdefault('train_split', 'train')
    return DatasetSpec(name=entries['name'], classes=tuple(entries['classes']), root=root,
                       lists=Path(lists) if lists else path.parent / entries.get('lists', 'lists'),
                       image_template=entries['images'], mask_templates=tuple(entries.get('masks', ())),
                       flag=str(path), **splits)


def _read_entries(path: Path) -> dict:
    entries = read_json(path, ENTRIES, 'it describes a data set, see lib/data/folder.py')
    known = [key.removesuffix('?') for key in ENTRIES]
    if unknown := [key for key in entries if key not in known]:
        raise ValueError(f'{path} has an unknown entry {unknown[0]!r}; known ones: {", ".join(known)}')
    _check_values(entries, path)
    return entries


def _check_values(entries: dict, path: Path) -> None:
    classes = entries['classes']
    for name in classes:
        if not name.strip() or not name.isprintable():
            raise ValueError(f'{path}: class {name!r} is no plain name')
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f'{path}: "classes" must name at least one class and none twice')
    if 'background' in classes:
        raise ValueError(f'{path}: "classes" lists foreground classes only; leave "background" out')
    if not entries['name'] or Path(entries['name']).name != entries['name']:
        raise ValueError(f'{path}: "name" must be a plain name, as it becomes the name of a folder')
    side = entries.get('max_side')
    if side is not None and not 1 <= side <= LARGEST_SIDE:
        raise ValueError(f'{path}: "max_side" is {side}, expected 1 to {LARGEST_SIDE} pixels')
    for text in (value for value in entries.values() if isinstance(value, str)):
        if not text.isprintable():
            raise ValueError(f'{path}: {text!r} holds a character that cannot be printed; correct it')
    for template in (entries['images'], *entries.get('masks', ())):
        if template.count('{}') != 1 or template.count('{') != 1 or not template.isprintable():
            raise ValueError(f'{path}: {template!r} must be a path with one {{}} in place of the name')
