"""Masks of COCO images, rasterised from the polygons and run lengths of an instances file by one of two rules."""
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from pycocotools import mask as run_length

RULES = ('reference', 'coco')


def paint_mask(annotations: Iterable[dict], category_ids: Sequence[int], height: int, width: int,
               rule: str = 'reference') -> np.ndarray:
    """Mask uint8 [height, width] of the annotations of one image, in file order: a later one covers an earlier one.

    Args:
        annotations: of one image, with 'category_id' and 'segmentation' (polygons, or run lengths in either form).
        category_ids: all ids of the data set; a category's mask value is its rank among them + 1.
        height, width: size of the image in pixels.
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
            shapes = _polygons(shapes) if isinstance(shapes, list) else shapes
            if rule == 'reference' and isinstance(shapes, list):
                for points in shapes:
                    cv2.fillPoly(mask, [points.reshape(-1, 2).astype(np.int32)], value_of[category])
            elif shapes:
                mask[_decode(shapes, height, width)] = value_of[category]
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


def _decode(shapes: list | dict, height: int, width: int) -> np.ndarray:
    """Polygons or run lengths, plain or compressed, as bool [height, width]."""
    if isinstance(shapes, list):
        shapes = run_length.merge(run_length.frPyObjects([points.tolist() for points in shapes], height, width))
    elif isinstance(shapes['counts'], list):
        shapes = run_length.frPyObjects(shapes, height, width)
    return run_length.decode(shapes).astype(bool)
