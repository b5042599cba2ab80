"""Write VOC's split lists and image-level labels from the unpacked archives.

    python -m voc12.prepare --data-root data/VOCdevkit/VOC2012 --lists voc12

Reads  ImageSets/Segmentation/{train,val,test}.txt, Annotations/*.xml, the file names in SegmentationClassAug; that
       folder is filled first if there are masks of SBD (SBD/*.mat, as config_voc.sh unpacks them).
Writes <lists>/{train,val,train_aug,test}.txt, lines '/JPEGImages/a.jpg /SegmentationClassAug/a.png', and labels.txt.

train_aug is every image with a mask in SegmentationClassAug that is not in val; without that folder it is the list
ImageSets/Segmentation/trainaug.txt. A subset of the data set also works and is reported as such.
"""
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from lib.files.fileio import replacing, write_lists
from lib.files.imageio import write_label_png
from lib.files.xmlfile import read_voc_objects
from lib.process.cli import progress
from lib.process.ending import run_script
from lib.process.workers import map_in_workers
from lib.setup.datasetup import base_parser, print_lists
from voc12.dataset import LISTS, OFFICIAL, ROOT, VOC_CLASSES

MASK_FOLDERS = ('SegmentationClassAug', 'SegmentationClass')


def prepare(root: Path, lists: Path, workers: int = 0) -> dict[str, list[str]]:
    """Write the lists and labels.txt; returns the names by split. SBD's masks are converted by worker processes.

    Raises FileNotFoundError if the data root, a list or an annotation is missing, ValueError if an annotation is
    corrupt or has an unknown class, or if an existing list was not written by this.
    """
    root, lists = Path(root), Path(lists)
    convert_sbd(root, workers)
    splits = find_splits(root)
    texts = {f'{split}.txt': ''.join(_list_line(root, name, split) for name in names)
             for split, names in splits.items()}
    labelled = sorted({name for split, names in splits.items() if split != 'test' for name in names})
    texts['labels.txt'] = ''.join('\t'.join([name, *classes_of(root / f'Annotations/{name}.xml')]) + '\n'
                                  for name in labelled)
    write_lists(lists, texts, 'voc12.prepare')
    return splits


def convert_sbd(root: Path, workers: int = 0) -> None:
    """Write SegmentationClassAug from SBD/*.mat (Hariharan et al., ICCV 2011) and SegmentationClass in `root`, if any.

    An image that both annotate gets VOC's mask, which has a void border and is exact; SBD's has no void pixels.
    Existing masks are kept. Worker processes convert, or with 0 this one. ValueError if a file is not an SBD mask.
    """
    folder, matrices = root / 'SegmentationClassAug', sorted((root / 'SBD').glob('[!.]*.mat'))
    if not matrices:
        return
    folder.mkdir(exist_ok=True)
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


def find_splits(root: Path) -> dict[str, list[str]]:
    """Names of train, val, train_aug and, if its list exists, test."""
    if not (root / 'JPEGImages').is_dir():
        raise FileNotFoundError(f'{root} has no JPEGImages; --data-root must be the folder VOC2012 of the archives')
    folder = root / 'ImageSets/Segmentation'
    splits = {split: _read_names(folder / f'{split}.txt') for split in ('train', 'val')}
    if (folder / 'test.txt').exists():
        splits['test'] = _read_names(folder / 'test.txt')
    if with_masks := {path.stem for path in (root / 'SegmentationClassAug').glob('[!.]*.png')}:
        return splits | {'train_aug': sorted(with_masks - set(splits['val']))}
    other = folder / 'train_aug.txt'
    return splits | {'train_aug': _read_names(other if other.exists() else folder / 'trainaug.txt')}


def classes_of(path: Path) -> list[str]:
    """Classes of the objects in an annotation, difficult ones too, in label order.

    Raises FileNotFoundError if the file is missing, ValueError if it is not valid XML or names an unknown class.
    """
    if not path.exists():
        raise FileNotFoundError(f'{path} is missing; unpack the annotations of the trainval archive')
    names = set(read_voc_objects(path, 'restore the original file'))
    if unknown := sorted(names - set(VOC_CLASSES)):
        raise ValueError(f'{path} names the class {unknown[0]!r}, which is not one of VOC\'s {len(VOC_CLASSES)}; '
                         'correct the annotation')
    return [name for name in VOC_CLASSES if name in names]


def _list_line(root: Path, name: str, split: str) -> str:
    folders = [folder for folder in MASK_FOLDERS if (root / folder / f'{name}.png').exists()]
    mask = '' if split == 'test' and not folders else f' /{(folders or MASK_FOLDERS)[0]}/{name}.png'
    return f'/JPEGImages/{name}.jpg{mask}\n'


def _read_names(path: Path) -> list[str]:
    """Image names in a list of either bare names or '/JPEGImages/a.jpg ...' lines."""
    if not path.exists():
        raise FileNotFoundError(f'{path} is missing; unpack the trainval archive first')
    words = [line.split()[0] for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    return [Path(word).stem if '/' in word else word for word in words]


def main(argv: list[str] | None = None) -> None:
    args = base_parser(__doc__, 'python -m voc12.prepare', ROOT, LISTS, '--voc12-root', '--voc12_root').parse_args(argv)
    print_lists(prepare(args.data_root, args.lists, args.workers), OFFICIAL)


if __name__ == '__main__':
    run_script(main)
