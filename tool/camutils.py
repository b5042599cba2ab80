"""Class activation maps in [0, 1]: background and labels."""
import numpy as np

ROUNDING = 1e-5         # by which a CAM may exceed 1, for rounding


def with_background(cam: np.ndarray, power: float) -> np.ndarray:
    """Prepend the background score, (1 - strongest class) ** power, to the maps as channel 0: float32 [1 + k, H, W].

    Args:
        cam: foreground maps [k, H, W] in [0, 1]; without any, background is 1 everywhere. Values below 0, as in the
            reference's maps, count as 0; ValueError if one exceeds 1 or is not finite.
        power: larger gives less background; the paper uses 1 and 24 for the seeds, 6 for the walk.

    Source: Ahn & Kwak, CVPR 2018.
    """
    strongest = cam.max(0, initial=0).astype(np.float32)
    top = strongest.max(initial=0)
    if not top <= 1 + ROUNDING:
        raise ValueError(f'CAM values must be in [0, 1], found {top}; normalise them with fuse_scales')
    background = np.power(1 - np.minimum(strongest, 1), np.float32(power))
    return np.concatenate([background[None], cam.astype(np.float32)])


def strongest_class(cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index uint8 [H, W] and value float32 [H, W] of the strongest of maps [k, H, W] at each pixel; the first on ties.

    Without maps, the index is 0 and the value -inf.
    """
    index = np.zeros(cam.shape[1:], np.uint8)
    value = np.full(cam.shape[1:], -np.inf, np.float32)
    # A running maximum over contiguous planes: several times faster than argmax over the first axis.
    for i, plane in enumerate(cam.astype(np.float32, copy=False)):
        np.putmask(index, plane > value, i)
        np.maximum(value, plane, out=value)
    return index, value


def labels_of(keys: np.ndarray) -> np.ndarray:
    """Label of each channel if channel 0 is background: uint8 [1 + k], 0 and then class index + 1."""
    return np.asarray([0, *(int(key) + 1 for key in keys)], np.uint8)


def cam_label(keys: np.ndarray, cam: np.ndarray, threshold: float) -> np.ndarray:
    """Label map uint8 [H, W] of CAMs [k, H, W] in [0, 1] and their class indices [k], ascending from 0.

    A pixel is 0 (background) unless a class exceeds the threshold, in float32 as in the reference: then its index + 1.
    """
    index, value = strongest_class(cam)
    return labels_of(keys)[np.where(value > np.float32(threshold), index + 1, 0)]
