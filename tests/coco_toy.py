"""A synthetic data set in COCO 2014's layout: the four archives with instances files and images as COCO has them.

It has polygons in parts, crowds, run lengths of both kinds, grey images, images without any object, ids of up to
six digits, annotations in no order, and another split of the images in 2017 than in 2014.
"""
import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as run_length

from coco.dataset import COCO_CLASSES
from lib.data.toy_draw import draw

ABSENT_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}       # COCO's category ids run to 90 with these left out
CATEGORY_IDS = [number for number in range(1, 91) if number not in ABSENT_IDS]
SHOWN = (1, 3, 17, 44, 62, 90)                              # categories that stand for the six synthetic classes
GREY, EMPTY, CROWD, COMPRESSED = 5, 6, 3, 4                 # every fifth image is grey, and so on


def write_archives(folder: Path, train: int, val: int, seed: int = 0) -> dict[str, list[str]]:
    """Write the four archives to a folder; returns the names of the 2014 lists in file order."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(581_929, train + val, replace=False) + 1
    splits = {'train': ids[:train].tolist(), 'val': ids[train:].tolist()}
    images, annotations, pictures = {}, [], {}
    for split, members in splits.items():
        for index, image_id in enumerate(members):
            image, mask = draw_one(seed, split, index)
            images[image_id] = {'id': image_id, 'height': mask.shape[0], 'width': mask.shape[1]}
            annotations += annotate(mask, image_id, index)
            pictures[f'{image_id:012d}.jpg'] = jpeg(image, grey=index % GREY == 1)
    plain = [item for item in annotations if not item['iscrowd']]
    order = rng.permutation(len(plain))
    annotations = [*(plain[i] for i in order), *(item for item in annotations if item['iscrowd'])]
    small = splits['val'][::2]                              # val2017 is a part of val2014, the rest is train2017
    years = {'2014': splits, '2017': {'train': sorted(set(images) - set(small)), 'val': small}}
    folder.mkdir(parents=True, exist_ok=True)
    for year, parts in years.items():
        with zipfile.ZipFile(folder / f'annotations_trainval{year}.zip', 'w', zipfile.ZIP_DEFLATED) as file:
            for part, members in parts.items():
                prefix = f'COCO_{part}2014_' if year == '2014' else ''
                listed = [{'license': 1, 'file_name': f'{prefix}{image_id:012d}.jpg', **images[image_id]}
                          for image_id in members]
                file.writestr(f'annotations/instances_{part}{year}.json', instances(listed, annotations))
                file.writestr(f'annotations/captions_{part}{year}.json', '{}')
    for part, members in years['2017'].items():
        with zipfile.ZipFile(folder / f'{part}2017.zip', 'w') as file:
            file.writestr(f'{part}2017/', '')
            for image_id in members:
                file.writestr(f'{part}2017/{image_id:012d}.jpg', pictures[f'{image_id:012d}.jpg'])
    return {f'{part}2014': [f'{image_id:012d}' for image_id in members] for part, members in splits.items()}


def draw_one(seed: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """(image uint8 [H, W, 3], mask uint8 [H, W]); every sixth has no object."""
    image, mask, _ = draw(seed, split, index)
    if index % EMPTY == 2:
        image, mask = cv2.GaussianBlur(image, (0, 0), 12), np.zeros_like(mask)
    return image, np.where(mask > len(SHOWN), 0, mask)      # the outline is void there, background here


def annotate(mask: np.ndarray, image_id: int, index: int) -> list[dict]:
    """The annotations of one image, one object per class."""
    found = []
    for value in np.unique(mask)[1:].tolist():
        inside = (mask == value).astype(np.uint8)
        crowd = index % GREY in (CROWD, COMPRESSED)
        segmentation = (plain_runs(inside) if index % GREY == CROWD else
                        compressed_runs(inside) if index % GREY == COMPRESSED else polygons(inside))
        if segmentation:
            number = 900_100_000_000 + image_id if crowd else image_id
            found.append({'segmentation': segmentation, 'area': float(inside.sum()), 'iscrowd': int(crowd),
                          'image_id': image_id, 'bbox': [0.0, 0.0, 1.0, 1.0], 'category_id': SHOWN[value - 1],
                          'id': number * 10 + value})
    return found


def polygons(inside: np.ndarray) -> list[list[float]]:
    """The outlines of all parts, in fractions of pixels."""
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [np.round(outline.reshape(-1) + 0.37, 2).tolist() for outline in outlines if len(outline) > 3]


def plain_runs(inside: np.ndarray) -> dict:
    """Run lengths as a list, background first, down the columns."""
    values = inside.T.ravel()
    changes = np.flatnonzero(np.diff(values)) + 1
    runs = np.diff([0, *changes, values.size]).tolist()
    return {'counts': runs if not values[0] else [0, *runs], 'size': list(inside.shape)}


def compressed_runs(inside: np.ndarray) -> dict:
    """Run lengths as pycocotools encodes them."""
    encoded = run_length.encode(np.asfortranarray(inside))
    return {'counts': encoded['counts'].decode(), 'size': list(inside.shape)}


def instances(images: list[dict], annotations: list[dict]) -> str:
    """Text of an instances file."""
    ids = {image['id'] for image in images}
    categories = [{'supercategory': 'thing', 'id': number, 'name': name}
                  for number, name in zip(CATEGORY_IDS, COCO_CLASSES)]
    return json.dumps({'info': {'description': 'synthetic', 'year': 2014}, 'licenses': [{'id': 1, 'name': 'none'}],
                       'images': images, 'annotations': [item for item in annotations if item['image_id'] in ids],
                       'categories': categories})


def jpeg(image: np.ndarray, grey: bool) -> bytes:
    """An image's file, of one channel if grey."""
    rgb, file = Image.fromarray(image), io.BytesIO()
    (rgb.convert('L') if grey else rgb).save(file, format='JPEG', quality=92)
    return file.getvalue()
