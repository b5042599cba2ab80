"""The data set that --dataset names: VOC, COCO, or one that a dataset.json describes. Only this file knows all three.

dataset.json holds, as for the toy set and for a user's own photos:

    {"name": "birds", "classes": ["wren", "red kite"], "images": "photos/{}.jpg", "masks": ["masks/{}.png"],
     "lists": "lists", "train_split": "train", "val_split": "val", "score_split": "train", "preset": "voc12"}

Paths are relative to the folder of dataset.json; "root" names another folder for images and masks. Without "masks" the
set can be trained on and predicted, not scored. "lists" holds <split>.txt and labels.txt, described in
lib/files/dataspec.py. With "upright": true, images are turned as their EXIF tag says; "max_side" is the long side in
pixels to which larger images are reduced when read. lib/own writes such a file from a folder and a list of labels;
"made_by" then says so, and no command overwrites a file without it.
"""
from pathlib import Path

import coco.dataset
import voc12.dataset
from lib.files.dataspec import DatasetSpec
from lib.files.jsonfile import read_json

TOY = Path('data/toy/dataset.json')


def get_spec(dataset: str, root: Path | None = None, lists: Path | None = None) -> DatasetSpec:
    """Describe a data set.

    Args:
        dataset: voc12, coco, toy, or the path of a dataset.json.
        root: folder of the images; None for the data set's own folder under data/.
        lists: folder of the split lists and labels.txt; None for the data set's own.

    Raises:
        ValueError, FileNotFoundError: if the name is unknown, or its dataset.json is missing.
    """
    folders = {key: Path(value) for key, value in (('root', root), ('lists', lists)) if value}
    if dataset == 'voc12':
        return voc12.dataset.spec(**folders)
    if dataset == 'coco':
        return coco.dataset.spec(**folders)
    if dataset == 'toy':
        path = folders.get('root', TOY.parent) / TOY.name
        if not path.exists():
            raise FileNotFoundError(f'{path} does not exist; make the toy set with '
                                    f'python -m lib.data.toy --out {path.parent}')
        return read_spec(path, lists=lists)
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
    """Read dataset.json.

    Args:
        path: the file, or the folder that holds it.
        root, lists: folders of the images and the lists, if not those that the file names.

    Raises:
        FileNotFoundError, ValueError: if the file is missing, or it lacks an entry or has an unknown or wrong one.
    """
    path = Path(path) / 'dataset.json' if Path(path).is_dir() else Path(path)
    entries = read_json(path, ENTRIES, 'python -m lib.own makes one from photos, python -m lib.data.toy a '
                        'synthetic set')
    if problem := _problem(entries):
        raise ValueError(f'{path}: {problem}')
    plain = {key: value for key, value in entries.items() if f'{key}?' in PLAIN}
    return DatasetSpec(**{'train_split': 'train', **plain}, name=entries['name'], classes=tuple(entries['classes']),
                       root=Path(root) if root else path.parent / entries.get('root', ''),
                       lists=Path(lists) if lists else path.parent / entries.get('lists', 'lists'),
                       image_template=entries['images'], mask_templates=tuple(entries.get('masks', ())),
                       flag=str(path))


def _problem(entries: dict) -> str:
    """What is wrong with the values of a dataset.json; '' if nothing."""
    classes, templates = entries['classes'], [entries['images'], *entries.get('masks', ())]
    known = [key.removesuffix('?') for key in ENTRIES]
    texts = [value for value in entries.values() if isinstance(value, str)]
    problems = [
        *(f'unknown entry {key!r}; known ones: {", ".join(known)}' for key in entries if key not in known),
        *(f'{text!r} holds a character that cannot be printed' for text in (*classes, *templates, *texts)
          if not text.isprintable()),
        *(f'class {name!r} is listed twice' for name in classes if classes.count(name) > 1),
        *(f'{template!r} must be a path with one {{}} in place of the name' for template in templates
          if '{}' not in template or template.count('{') + template.count('}') != 2)]
    if not classes or 'background' in classes or not all(map(str.strip, classes)):
        problems.append('"classes" must name at least one class, and foreground only: leave "background" out')
    if not entries['name'] or Path(entries['name']).name != entries['name']:
        problems.append('"name" must be a plain name, as it becomes the name of a folder')
    side = entries.get('max_side')
    if side is not None and not 1 <= side <= LARGEST_SIDE:
        problems.append(f'"max_side" is {side}, expected 1 to {LARGEST_SIDE} pixels')
    return problems[0] if problems else ''
