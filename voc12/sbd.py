"""SegmentationClassAug: the masks of SBD (Hariharan et al., ICCV 2011), with VOC's own where there are such."""
import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from lib.files.fileio import remove_leftovers, replacing
from lib.files.imageio import write_label_png
from lib.process.progress import progress
from lib.process.workers import map_in_workers
from lib.setup.unpack import check_member, damage_named
from voc12.dataset import VOC_CLASSES

MEMBER = re.compile(r'benchmark_RELEASE/dataset/cls/(\d{4}_\d{6})\.mat')
FOLDER = 'SegmentationClassAug'


def convert_sbd(archive: Path, root: Path, workers: int = 0) -> int:
    """Write SegmentationClassAug from SBD's archive and VOC's SegmentationClass; returns the number of masks.

    An image that both annotate gets VOC's mask, which has a void border and is exact; SBD's has no void pixels. The
    archive is read from beginning to end, not unpacked. Masks that are there are left alone.

    Args:
        archive: benchmark.tgz.
        root: the folder VOC2012, with SegmentationClass in it.
        workers: processes that convert; 0 converts in this one.

    Raises:
        ValueError: if the archive or a mask in it is corrupt, or a member would leave the folder.
    """
    own = sorted((root / 'SegmentationClass').glob('*.png'))
    if not own:
        raise FileNotFoundError(f'{root}/SegmentationClass has no masks; unpack the trainval archive first')
    (root / FOLDER).mkdir(exist_ok=True)
    remove_leftovers(root / FOLDER)
    for path in own:
        target = root / FOLDER / path.name
        if not target.exists():
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)
    with damage_named(archive), tarfile.open(archive, 'r|gz') as file:
        matrices = _matrices(archive, file, root / FOLDER)
        for _ in progress(map_in_workers(partial(_convert, folder=root / FOLDER), matrices, workers, chunk=32),
                          'SBD masks', 'file'):
            pass
    return sum(1 for _ in (root / FOLDER).glob('*.png'))


def mask_of(content: bytes) -> np.ndarray:
    """The class mask uint8 [H, W] in the bytes of one of SBD's cls/*.mat files.

    Raises:
        ValueError: if it is no such file or holds a value that no class has.
    """
    try:
        mask = loadmat(io.BytesIO(content), variable_names=['GTcls'], simplify_cells=True)['GTcls']['Segmentation']
    except Exception as error:      # scipy's reader raises whatever its parts raise on bytes that make no sense
        raise ValueError(f'no mask of SBD ({type(error).__name__}: {error})') from error
    if np.ndim(mask) != 2 or mask.dtype != np.uint8 or mask.max(initial=0) > len(VOC_CLASSES):
        raise ValueError(f'no mask of SBD: {np.shape(mask)} values to {np.max(mask, initial=0)}')
    return mask


def _matrices(archive: Path, file: tarfile.TarFile, folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each mask that is not there yet."""
    found = 0
    for info in file:
        check_member(archive, info.name, info.isreg() or info.isdir())
        if match := MEMBER.fullmatch(info.name):
            found += 1
            if not (folder / f'{match[1]}.png').exists():
                yield match[1], file.extractfile(info).read()
    if not found:
        raise ValueError(f'{archive} has no {MEMBER.pattern}; is it the archive of SBD?')


def _convert(item: tuple[str, bytes], folder: Path) -> None:
    name, content = item
    try:
        write_label_png(folder / f'{name}.png', mask_of(content))
    except ValueError as error:
        raise ValueError(f'{name}.mat in the archive of SBD: {error}; move the archive away, and the same command '
                         'fetches it again') from error
