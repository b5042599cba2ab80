"""Masks of COCO images, painted from the polygons and run lengths of an instances file, by one of two rules."""
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from pycocotools import mask as run_length


def paint_mask(annotations: Iterable[dict], category_ids: Sequence[int], height: int, width: int) -> np.ndarray:
    """Paint the annotations of one image, in file order: a later one lies over an earlier one.

    Polygon points are truncated to whole pixels and filled by OpenCV, border included, as the masks of the reference
    were; that is up to a pixel larger than what COCO's own decoder makes of a polygon.

    Args:
        annotations: of one image, with 'category_id' and 'segmentation' (polygons, or run lengths in either form).
        category_ids: all ids of the data set; a category's mask value is its rank among them + 1.
        height, width: size of the image in pixels.

    Returns:
        Mask uint8 [height, width], 0 where nothing was painted.

    Raises:
        ValueError: if a category is unknown or run lengths are of another size, naming the annotation.
    """
    mask = np.zeros((height, width), np.uint8)
    for annotation, value in _with_values(annotations, category_ids):
        if isinstance(annotation['segmentation'], dict):
            mask[_decode(annotation, height, width)] = value
        else:
            for points in annotation['segmentation']:
                polygon = np.array(points, np.float64).reshape(-1, 2).astype(np.int32)
                cv2.fillPoly(mask, [polygon], value)
    return mask


def coco_tools_mask(annotations: Iterable[dict], category_ids: Sequence[int], height: int, width: int) -> np.ndarray:
    """The same, with the pixels that COCO's own tools give to a polygon; arguments, result and errors as paint_mask."""
    mask = np.zeros((height, width), np.uint8)
    for annotation, value in _with_values(annotations, category_ids):
        mask[_decode(annotation, height, width)] = value
    return mask


def _with_values(annotations: Iterable[dict], category_ids: Sequence[int]) -> Iterator[tuple[dict, int]]:
    """Each annotation with the mask value of its category."""
    value_of = {category: rank for rank, category in enumerate(sorted(category_ids), 1)}
    for annotation in annotations:
        category = annotation['category_id']
        if category not in value_of:
            raise ValueError(f'annotation {annotation.get("id")} has category {category}, not one of the file')
        yield annotation, value_of[category]


def _decode(annotation: dict, height: int, width: int) -> np.ndarray:
    """Polygons or run lengths, plain or compressed, as bool [height, width]."""
    encoded = annotation['segmentation']
    if isinstance(encoded, list):
        if not encoded:
            return np.zeros((height, width), bool)
        return run_length.decode(run_length.merge(run_length.frPyObjects(encoded, height, width))).astype(bool)
    if list(encoded['size']) != [height, width]:
        raise ValueError(f'annotation {annotation.get("id")} has size {encoded["size"]}, its image {[height, width]}')
    if isinstance(encoded['counts'], list):
        encoded = run_length.frPyObjects(encoded, height, width)
    return run_length.decode(encoded).astype(bool)


RULES = {'reference': paint_mask, 'coco': coco_tools_mask}
