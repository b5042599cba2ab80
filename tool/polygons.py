"""Outlines of labelled regions as polygons."""
import cv2
import numpy as np


def polygons(mask: np.ndarray, tolerance: float = 0.5) -> list[np.ndarray]:
    """The connected regions of a mask, bool [H, W], as polygons whose outlines deviate by at most `tolerance` pixels.

    A hole is joined to its outline by a bridge of width 0, so each region is a single polygon, as most formats require.
    Filling the polygons of tolerance 0, for instance with pycocotools, restores the mask. Returns for each region
    float64 [n, 2], n >= 3: x and y in pixels, where (0, 0) is the corner of the first pixel.
    """
    # At twice the size, an outline through the centres of pixels has an area even for a region of one pixel.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    regions = {}
    for index, contour in enumerate(contours):
        parent = int(hierarchy.reshape(-1, 4)[index, 3])
        points = cv2.approxPolyDP(contour, 2 * tolerance, closed=True)[:, 0] if tolerance else contour[:, 0]
        if parent < 0:
            regions[index] = points if len(points) > 2 else contour[:, 0]
        elif len(points) > 2:           # a hole, joined to the outline where they are closest
            outline = regions[parent]
            distances = np.abs(outline[:, None] - points).sum(2)
            i, j = np.unravel_index(distances.argmin(), distances.shape)
            regions[parent] = np.concatenate([outline[:i + 1], points[j:], points[:j + 1], outline[i:]])
    return [(points + 0.5) / 2 for points in regions.values()]
