"""Checks of ground-truth masks: do they fit the images, their orientation and the order of the classes?"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from lib.files.dataspec import shortened
from lib.files.imageio import IGNORED, read_mask, read_orientation, read_size, without_remedy
from lib.own.photos import Folder, Log, Row, without_suffix

ORIENTATIONS = ('upright', 'stored')


def find_masks(rows: Sequence[Row], folder: Path, log: Log) -> dict[str, Path]:
    """The mask below `folder` of each image that has one; reports masks that could belong to two images."""
    masks, found, owners = Folder(folder, ('.png',)), {}, {}
    for row in rows:
        paths = masks.find(without_suffix(row.image))
        other = owners.setdefault(paths[0], row.image) if paths else row.image
        if len(paths) > 1 or other != row.image:
            log.problem(row.location, f'{folder} has {shortened(paths)} for {row.image}'
                        + (f' and {other}' if other != row.image else '') + '; put masks into the same subfolders as '
                        'their images')
        elif paths:
            found[row.image] = folder / paths[0]
    if not found:
        log.problem(folder, 'has no mask for any image; masks are PNGs with the names of the images')
    log.note(f'{len(found)} of {len(rows)} images have a mask')
    return found


def check_masks(rows: Sequence[Row], images: Path, masks: dict[str, Path], classes: Sequence[str], fixed: bool,
                orientation: str | None, log: Log) -> None:
    """Report masks, given by image, that are corrupt, differ in size from their image, or are ambiguous.

    fixed: whether the user has given the order of the classes; orientation: that of the masks, if given.
    """
    rows = [row for row in rows if row.image in masks]
    shown, turned = np.zeros((len(rows), IGNORED + 1), bool), {}
    for number, row in enumerate(rows):
        path, image = masks[row.image], images / row.image
        try:
            mask = read_mask(path, len(classes) + 1)
            sizes = {name: read_size(image, name == 'upright') for name in ORIENTATIONS}
        except (ValueError, OSError) as error:
            log.problem(row.location, without_remedy(error))
            continue
        shown[number, np.unique(mask)] = True
        fits = [name for name in ORIENTATIONS if mask.shape == sizes[name]]
        if read_orientation(image) > 1:
            turned[row.image] = fits
        if not fits or orientation and orientation not in fits:
            height, width = sizes[orientation or 'upright']
            log.problem(row.location, f'{path} is {mask.shape[1]}x{mask.shape[0]} pixels, its image {width}x{height}')

    # Images that EXIF rotates: masks that fit only one orientation decide for all.
    decided = {fits[0] for fits in turned.values() if len(fits) == 1}
    if turned and not orientation and decided != {'upright'}:
        log.problem('--masks', f'{len(turned)} images with masks are rotated by EXIF ({shortened(sorted(turned))}): '
                    + ('the masks fit their pixels as stored: --mask-orientation stored' if decided == {'stored'} else
                       'are the masks drawn on the rotated images, as viewers show them (--mask-orientation upright), '
                       'or on their pixels as stored (--mask-orientation stored)?'))
    if shown[:, IGNORED].any() and not shown[:, 1:IGNORED].any():
        log.problem('--masks', f'masks hold only 0 and {IGNORED} (ignored); save objects with the value of their '
                    'class, 1 for the first')
    elif not log.problems:
        _check_order(rows, classes, shown[:, 1:len(classes) + 1], fixed, log)


def _check_order(rows: Sequence[Row], classes: Sequence[str], held: np.ndarray, fixed: bool, log: Log) -> None:
    """Compare the classes in each mask, bool [images, K], with the labels: is the order of the classes right?"""
    labelled = np.array([[name in row.labels for name in classes] for row in rows]).reshape(held.shape)
    differing = np.flatnonzero((held != labelled).any(1))
    if not len(differing):
        return
    first = rows[differing[0]]
    drawn = ', '.join(np.array(classes)[held[differing[0]]]) or 'nothing'
    text = (f'{len(differing)} masks show other classes than the labels ({Path(first.image).stem}.png shows {drawn}, '
            f'labelled {", ".join(first.labels) or "nothing"})')
    cost = held.T.astype(int) @ ~labelled + (~held).T.astype(int) @ labelled       # masks in which they disagree
    values, order = linear_sum_assignment(cost)
    if cost[values, order].sum() < np.trace(cost) and not fixed:
        better = ' '.join(f'"{classes[place]}"' for place in order)
        log.problem('--masks', f'{text}; they agree better in another order: --classes {better}')
    else:
        log.note(f'{text}: is the order of the classes right? It is {", ".join(classes)}; --classes sets it')
