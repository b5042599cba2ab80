"""SegmentationClassAug: the masks of SBD (Hariharan et al., ICCV 2011), and VOC's own where VOC annotates an image."""
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from lib.files.fileio import remove_leftovers, replacing
from lib.files.imageio import write_label_png
from lib.process.cli import progress
from lib.process.workers import map_in_workers
from voc12.dataset import VOC_CLASSES


def convert_sbd(root: Path, workers: int = 0) -> None:
    """Write SegmentationClassAug from SBD/*.mat and SegmentationClass in `root`; does nothing without SBD's files.

    An image that both annotate gets VOC's mask, which has a void border and is exact; SBD's has no void pixels. Masks
    that exist are left alone. Worker processes convert; 0 converts in this one. Raises ValueError if a file is not a
    mask of SBD.
    """
    folder, matrices = root / 'SegmentationClassAug', sorted((root / 'SBD').glob('[!.]*.mat'))
    if not matrices:
        return
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    for path in (root / 'SegmentationClass').glob('[!.]*.png'):
        if not (folder / path.name).exists():
            with replacing(folder / path.name) as temporary:
                shutil.copyfile(path, temporary)
    absent = [path for path in matrices if not (folder / f'{path.stem}.png').exists()]
    work = map_in_workers(partial(convert_mask, folder=folder), absent, workers, chunk=32)
    for _ in progress(work, 'SBD masks', 'file', len(absent)):
        pass


def convert_mask(path: Path, folder: Path) -> None:
    """Write one of SBD's cls/*.mat files as a label PNG; errors as in convert_sbd."""
    try:
        mask = loadmat(path, variable_names=['GTcls'], simplify_cells=True)['GTcls']['Segmentation']
        if mask.ndim != 2 or mask.dtype != np.uint8 or mask.max(initial=0) > len(VOC_CLASSES):
            raise ValueError(f'shape {mask.shape}, values up to {mask.max(initial=0)}')
    except Exception as error:      # a corrupt file can end in any error of scipy's reader
        raise ValueError(f'{path} is not a mask of SBD ({type(error).__name__}: {error}); delete it, then run the same '
                         'command again') from error
    write_label_png(folder / f'{path.stem}.png', mask)
