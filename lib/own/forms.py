"""All formats of label lists, recognised by file extension and content; each reader yields the same kind of rows."""
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lib.files.imageio import IMAGE_SUFFIXES
from lib.files.jsonfile import misfit, parse_json
from lib.files.xmlfile import read_voc_objects, read_xml
from lib.own.photos import Folder, Log, Row
from lib.own.tables import SPLIT_NAMES, read_csv, read_excel, read_text, rows_of

FORMS = ('a table (.csv, .tsv, .txt, .xlsx), JSON (records, a mapping, COCO, Label Studio), JSON lines, CVAT XML, a '
         'folder of VOC XML, or no list for a folder per class')
NO_CLASS_FOLDERS = {'none', 'normal', 'background', 'negative', 'negatives', 'free'}
COCO = {'images': [{'id': (int, str), 'file_name': str}], 'categories': [{'id': (int, str), 'name': str}],
        'annotations?': [{'image_id': (int, str), 'category_id': (int, str)}]}
TASKS = [{'data': dict, 'annotations?': [{'result': [dict]}], 'completions?': [{'result': [dict]}]}]
MAPPING = {str: (str, [str], None)}


def read_labels(path: Path, separator: str | None, log: Log) -> list[Row]:
    """The rows of a label list in any format: a file, or a folder of VOC XML; separator: see rows_of()."""
    ending = path.suffix.lower()
    if path.is_dir():
        return read_voc(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; expected the list of labels')
    if ending in ('.json', '.jsonl', '.ndjson'):
        return read_json(path, separator, log)
    if ending == '.xml':
        return read_cvat(path)
    if ending not in ('.xlsx', '.xlsm', '.csv', '.tsv', '.txt', ''):
        raise ValueError(f'{path} is not a list of labels in a supported format: {FORMS}')
    read = read_excel if ending in ('.xlsx', '.xlsm') else read_csv
    return rows_of(read(path, log), path, separator, log)


def read_json(path: Path, separator: str | None, log: Log) -> list[Row]:
    """JSON of any kind; a .json file may also hold JSON lines."""
    text = read_text(path, log)
    try:
        try:
            value = parse_json(text)
        except ValueError:
            value = [parse_json(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON ({error}); export it again') from None
    if isinstance(value, dict) and {'images', 'categories'} <= value.keys():
        return read_coco(_checked(value, COCO, path), path, log)
    if isinstance(value, dict):
        value = [{'image': name, 'labels': labels} for name, labels in _checked(value, MAPPING, path).items()]
    records = _checked(value, [dict], path)
    if records and all('data' in record for record in records):
        return read_label_studio(_checked(records, TASKS, path), path, log)
    return rows_of([(f'{path}: entry {number}', record) for number, record in enumerate(records, 1)], path, separator,
                   log)


def read_coco(content: dict, path: Path, log: Log) -> list[Row]:
    """COCO: the categories of the annotations of each image."""
    names = {category['id']: category['name'] for category in content['categories']}
    labels = {image['id']: [] for image in content['images']}
    for number, annotation in enumerate(content.get('annotations', ()), 1):
        try:
            labels[annotation['image_id']].append(names[annotation['category_id']])
        except KeyError:
            log.problem(f'{path}: annotation {annotation.get("id", number)}',
                        'names an image or a category that is not listed')
    return [Row(f'{path}: image {image["id"]}', image['file_name'], tuple(labels[image['id']]))
            for image in content['images']]


def read_label_studio(tasks: Sequence[dict], path: Path, log: Log) -> list[Row]:
    """Label Studio's JSON: choices, or the labels of boxes and polygons. Tasks without annotations are not labelled."""
    rows = []
    for number, task in enumerate(tasks, 1):
        location = f'{path}: task {task.get("id", number)}'
        texts = [value for value in task['data'].values() if isinstance(value, str)]
        texts.sort(key=lambda text: not text.lower().endswith(IMAGE_SUFFIXES))
        sets = {tuple(sorted({label for result in annotation['result'] for label in _chosen(result)}))
                for annotation in task.get('annotations', task.get('completions', ()))
                if not annotation.get('was_cancelled')}
        if len(sets) > 1:
            log.problem(location, 'has annotations that differ; keep one')
        rows.append(Row(location, (texts or [''])[0], sets.pop() if sets else None))
    return rows


def _chosen(result: dict) -> list[str]:
    value = result.get('value')         # {"choices": [...]} of type choices, {"rectanglelabels": [...], "x": ...}, ...
    labels = value.get(str(result.get('type'))) if isinstance(value, dict) else None
    return [label for label in labels if isinstance(label, str)] if isinstance(labels, list) else []


def read_cvat(path: Path) -> list[Row]:
    """CVAT's 'CVAT for images': the labels of tags, boxes and polygons."""
    rows = [Row(f'{path}: {image.get("name")}', image.get('name', ''),
                tuple(shape.get('label') for shape in image.iter() if shape.get('label')),
                SPLIT_NAMES.get(image.get('subset', '').casefold(), ''))
            for image in read_xml(path).iterfind('{*}image')]
    if not rows:
        raise ValueError(f'{path} has no <image> element: export it from CVAT as "CVAT for images"; for VOC XML, name '
                         'the folder')
    return rows


def read_voc(folder: Path) -> list[Row]:
    """A folder with one VOC XML file per image, named like the image."""
    rows = [Row(str(path), path.relative_to(folder).with_suffix('').as_posix(), read_voc_objects(path))
            for path in sorted(folder.rglob('*.xml'))]
    if not rows:
        raise ValueError(f'{folder} is a folder without XML files; if you have a folder per class, give no list of '
                         'labels')
    return rows


def read_folders(photos: Folder, log: Log) -> list[Row]:
    """A folder per class, optionally below folders train, val, test; deeper folders belong to the class."""
    folders = {image: image.split('/')[:-1] for image in photos.images if '/' in image}
    splits = {}
    while folders and all(len(parts) > 1 for parts in folders.values()):
        level = {parts[0].casefold() for parts in folders.values()}
        if level <= SPLIT_NAMES.keys():
            splits = {image: SPLIT_NAMES[parts[0].casefold()] for image, parts in folders.items()}
        elif len(level) > 1:
            break
        folders = {image: parts[1:] for image, parts in folders.items()}
    classes = sorted({parts[0] for parts in folders.values()})
    if all(name.casefold() in SPLIT_NAMES for name in classes):
        raise ValueError(f'{photos.folder} has no folder per class ({", ".join(classes) or "no folder"}); name the '
                         'list of labels')
    none = [name for name in classes if name.casefold() in NO_CLASS_FOLDERS]
    log.note('every folder is a class' + (f', but these mean no class: {", ".join(none)}' if none else ''))
    return [Row(f'{photos.folder}/{image}', image, () if name in none else (name,), splits.get(image, ''))
            for image, (name, *_) in folders.items()]


def splits_by_name(rows: Sequence[Row], log: Log) -> list[Row]:
    """Rows with splits from the names of the images' folders, or else of the label lists, if all of them name one."""
    folders = [str(PurePosixPath(row.image).parent) for row in rows]
    lists = ['/'.join(Path(row.location.partition(':')[0]).parts[-2:]) for row in rows]
    for what, paths in (('folders of the images', folders), ('lists', lists)):
        splits = [next((SPLIT_NAMES[word] for word in re.split('[^a-z]+', path.casefold()) if word in SPLIT_NAMES), '')
                  for path in paths]
        if all(splits) and 'train' in splits and len(set(splits)) > 1 and not any(row.split for row in rows):
            log.note(f'splits are taken from the names of the {what}')
            return [row._replace(split=split) for row, split in zip(rows, splits)]
    return list(rows)


def _checked(value: Any, shape: Any, path: Path) -> Any:
    if problem := misfit(value, shape):
        raise ValueError(f'{path}: {problem}; expected {FORMS}')
    return value
