"""COCO 2014: the names of its classes in the order of their category ids, and its folders."""
from pathlib import Path
from shlex import quote

from lib.files.dataspec import DatasetSpec

COCO_CLASSES = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat', 'traffic light',
    'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog', 'horse', 'sheep', 'cow',
    'elephant', 'bear', 'zebra', 'giraffe', 'backpack', 'umbrella', 'handbag', 'tie', 'suitcase', 'frisbee',
    'skis', 'snowboard', 'sports ball', 'kite', 'baseball bat', 'baseball glove', 'skateboard', 'surfboard',
    'tennis racket', 'bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple', 'sandwich',
    'orange', 'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant', 'bed',
    'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote', 'keyboard', 'cell phone', 'microwave', 'oven',
    'toaster', 'sink', 'refrigerator', 'book', 'clock', 'vase', 'scissors', 'teddy bear', 'hair drier', 'toothbrush')
ROOT = Path('data/coco2014')
LISTS = Path('coco')

# Of the official lists: number of images, and SHA-256 of the 12-digit ids in file order, one per line.
OFFICIAL = {'train2014': (82783, ''),
            'val2014': (40504, '7f5fb1b62b08374a29e3f5a2c88346113b31173b9cad855a562a3b68d900ce9b')}


def spec(root: Path = ROOT, lists: Path = LISTS) -> DatasetSpec:
    """COCO 2014 in `root` (the folder with Images and Masks), its lists in `lists`."""
    return DatasetSpec(
        name='coco', classes=COCO_CLASSES, root=Path(root), lists=Path(lists),
        image_template='Images/{}.jpg', mask_templates=('Masks/{}.png',),
        train_split='train2014', val_split='val2014', score_split='train2014', preset='coco',
        prepare=f'python -m coco.prepare --data-root {quote(str(root))} --lists {quote(str(lists))}', flag='coco')
