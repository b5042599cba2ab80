"""PASCAL VOC 2012 with the SBD masks: class names, folders, and checksums of the official lists."""
from pathlib import Path
from shlex import quote

from lib.files.dataspec import DatasetSpec

VOC_CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair',
               'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train',
               'tvmonitor')
ROOT = Path('data/VOCdevkit/VOC2012')
LISTS = Path('voc12')

# Of the official lists: number of images, and SHA-256 of the names in list order, one per line.
OFFICIAL = {'train_aug': (10582, 'd1326bd532648d73bc4b1bd275434eba81930982dc7401a65a8cecb26c028e24'),
            'val': (1449, 'cdc1326d12f69ce5153aa5da04a4d8783e146868d42d19f82f44e74b97ac907d'),
            'train': (1464, 'aa623bd2c8ce4443a8aaae51c524c0eb165e8e44caf6aa9e3ad33d7b75a3ef20')}


def spec(root: Path = ROOT, lists: Path = LISTS) -> DatasetSpec:
    """VOC 2012 in `root` (the folder with JPEGImages), its lists in `lists`."""
    return DatasetSpec(
        name='voc12', classes=VOC_CLASSES, root=Path(root), lists=Path(lists),
        image_template='JPEGImages/{}.jpg',
        mask_templates=('SegmentationClassAug/{}.png', 'SegmentationClass/{}.png'),
        train_split='train_aug', val_split='val', score_split='train', preset='voc12',
        prepare=f'python -m voc12.prepare --data-root {quote(str(root))} --lists {quote(str(lists))}', flag='voc12')
