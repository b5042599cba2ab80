"""Write COCO's lists, masks and image-level labels from the official instances files.

    python -m coco.prepare --data-root data/coco2014 --lists coco
    python -m coco.prepare --data-root data/coco2014 --lists coco --masks coco    fill polygons like COCO's tools

Reads  annotations/instances_{train,val}2014.json, which define the two lists, in file order, and
       annotations/instances_{train,val}2017.json, which have the better masks of the same images.
Writes <lists>/{train2014,val2014}.txt, lines '/Images/000000391895.jpg /Masks/000000391895.png', and labels.txt;
       Masks/<id>.png under the data root, and Masks/made_by.json, which names their source and rule.

The image-level labels are the classes in the mask; an image may have none. If interrupted, the same command resumes:
existing masks are kept.
"""
import argparse
import pickle
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as run_length

from coco.dataset import COCO_CLASSES, LISTS, OFFICIAL, ROOT
from lib.files.imageio import read_mask, write_label_png
from lib.files.jsonfile import read_json, write_json
from lib.files.outpaths import check_lists, write_lists
from lib.process.cli import progress
from lib.process.ending import run_script
from lib.process.workers import map_in_workers
from lib.setup.datasetup import base_parser, print_lists

MAKER = 'coco.prepare'
RULES = ('reference', 'coco')
INSTANCES = {'images': [{'id': int, 'height': int, 'width': int}], 'categories': [{'id': int, 'name': str}],
             'annotations': [{'image_id': int, 'category_id': int, 'segmentation': (list, dict)}]}


def prepare(root: Path, lists: Path, rule: str = 'reference', workers: int = 0) -> dict[str, list[str]]:
    """Write lists, masks and labels.txt; returns the names by split.

    `root` holds annotations/, and Masks/ is made in it; `rule` says how polygons are filled, see paint_mask. Worker
    processes rasterise the masks, or with 0 this one. Raises FileNotFoundError if an instances file is missing,
    ValueError if one is corrupt, or if Masks holds masks by another rule or from other files.
    """
    root, lists = Path(root), Path(lists)
    splits = {split: [f'{image["id"]:012d}' for image in read_instances(_instances_file(root, split))['images']]
              for split in OFFICIAL}
    texts = {f'{split}.txt': ''.join(f'/Images/{name}.jpg /Masks/{name}.png\n' for name in names)
             for split, names in splits.items()}
    check_lists(lists, texts, MAKER)
    files = [_instances_file(root, part) for part in ('train2017', 'val2017')]
    _claim(root / 'Masks', rule, files)
    sizes, annotations = {}, defaultdict(list)
    for content in map(read_instances, files):
        sizes |= {image['id']: (image['height'], image['width']) for image in content['images']}
        for entry in content['annotations']:        # pickled: as lists and dicts they would take gigabytes
            annotations[entry['image_id']].append(pickle.dumps(entry))
        category_ids = sorted(category['id'] for category in content['categories'])
    names = [name for split in splits.values() for name in split]
    if absent := [name for name in names if int(name) not in sizes]:
        raise ValueError(f'{files[0]} and {files[1].name} lack image {absent[0]}; unpack the annotations of both years')
    if annotations.keys() - sizes.keys():
        raise ValueError(f'{files[0]} or {files[1].name} annotates an image that it does not list; unpack them again')
    jobs = ((root / f'Masks/{name}.png', sizes[int(name)], annotations.get(int(name), ())) for name in names)
    work = partial(present_classes, category_ids=category_ids, rule=rule)
    present = progress(map_in_workers(work, jobs, workers, chunk=32), 'masks', 'file', len(names))
    texts['labels.txt'] = ''.join('\t'.join([name, *(COCO_CLASSES[value - 1] for value in values)]) + '\n'
                                  for name, values in zip(names, present))
    write_lists(lists, texts, MAKER)
    return splits


def present_classes(job: tuple[Path, tuple[int, int], Sequence[bytes]], category_ids: Sequence[int],
                    rule: str) -> list[int]:
    """Mask values, without background, in the mask of one image, which is rasterised unless it exists.

    The job: path of the mask, height and width of the image, its pickled annotations. The rest is as in paint_mask.
    """
    path, size, annotations = job
    if path.exists():
        mask = read_mask(path, len(category_ids) + 1)
        if mask.shape != size:
            raise ValueError(f'{path} has size {mask.shape}, its image {size}; delete it and run this again')
    else:
        try:
            mask = paint_mask(map(pickle.loads, annotations), category_ids, *size, rule)
        except ValueError as error:
            raise ValueError(f'instances files of 2017, image {path.stem}: {error}; unpack them again') from error
        write_label_png(path, mask)
    return [value for value in np.flatnonzero(np.bincount(mask.ravel())).tolist() if value]


def paint_mask(annotations: Iterable[dict], category_ids: Sequence[int], height: int, width: int,
               rule: str = 'reference') -> np.ndarray:
    """Mask uint8 [height, width] of the annotations of one image, in file order: a later one covers an earlier one.

    Args:
        annotations: of one image, with 'category_id' and 'segmentation' (polygons, or run lengths in either form).
        category_ids: all ids of the data set; a category's mask value is its rank among them + 1.
        rule: how polygons are filled. 'coco': as by COCO's own decoder. 'reference': points truncated to whole pixels
            and filled by OpenCV, border included, as in the reference's masks; up to a pixel larger.

    Raises ValueError if a category is unknown, or a segmentation is invalid, naming its annotation.
    """
    value_of = {category: rank for rank, category in enumerate(sorted(category_ids), 1)}
    mask = np.zeros((height, width), np.uint8)
    for annotation in annotations:
        category, shapes = annotation['category_id'], annotation['segmentation']
        if category not in value_of:
            raise ValueError(f'unknown category {category}')
        try:
            if isinstance(shapes, dict):
                runs = run_length.frPyObjects(shapes, height, width) if isinstance(shapes['counts'], list) else shapes
                mask[run_length.decode(runs) > 0] = value_of[category]
                continue
            for points in _polygons(shapes):
                if rule == 'reference':
                    cv2.fillPoly(mask, [points.reshape(-1, 2).astype(np.int32)], value_of[category])
                else:
                    [runs] = run_length.frPyObjects([points.tolist()], height, width)
                    mask[run_length.decode(runs) > 0] = value_of[category]
        except Exception as error:      # corrupt segmentations end in any error of the libraries
            raise ValueError(f'annotation {annotation.get("id", "without an id")}: {error}') from error
    return mask


def _polygons(shapes: list) -> list[np.ndarray]:
    """Coordinates of polygons x, y, x, y, ...; those of fewer than three points, which have no area, are left out."""
    if not all(isinstance(points, list) and len(points) % 2 == 0 for points in shapes):
        raise ValueError('polygons must be lists of x and y in turn')
    polygons = [np.array(points, np.float64) for points in shapes if len(points) >= 6]
    if not all(np.isfinite(points).all() for points in polygons):
        raise ValueError('polygons have coordinates that are not finite')
    return polygons


def read_instances(path: Path) -> dict:
    """An instances file, which must have COCO's categories: a mask value is the rank of a category's id."""
    content = read_json(path, INSTANCES, 'unpack the annotations, or run ./config_coco.sh')
    if tuple(entry['name'] for entry in sorted(content['categories'], key=itemgetter('id'))) != COCO_CLASSES:
        raise ValueError(f'{path} does not have the {len(COCO_CLASSES)} categories of COCO in the order of their ids; '
                         'describe another data set by a dataset.json')
    return content


def _instances_file(root: Path, part: str) -> Path:
    return root / f'annotations/instances_{part}.json'


def _claim(folder: Path, rule: str, files: Sequence[Path]) -> None:
    """Record what the masks in a folder are made from; refuse a folder with other masks."""
    path = folder / 'made_by.json'
    note = {'masks': rule, 'instances': {file.name: file.stat().st_size for file in files}}
    if not any(folder.glob('[!.]*.png')):
        write_json(path, note)
    elif read_json(path, remedy='masks that were not made by this command: move the folder away') != note:
        raise ValueError(f'{folder} holds masks by another rule than {rule!r} or from other instances files; delete '
                         'the folder, or give another --data-root')


def add_mask_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of this command and of config_coco.sh."""
    parser.add_argument('--masks', choices=RULES, default='reference',
                        help='how polygons are filled: as in the reference (points truncated, filled by OpenCV), or '
                        'like COCO\'s own tools')


def main(argv: list[str] | None = None) -> None:
    parser = base_parser(__doc__, 'python -m coco.prepare', ROOT, LISTS, '--coco-root', '--coco_root')
    add_mask_flag(parser)
    args = parser.parse_args(argv)
    print_lists(prepare(args.data_root, args.lists, args.masks, args.workers), OFFICIAL)


if __name__ == '__main__':
    run_script(main)
