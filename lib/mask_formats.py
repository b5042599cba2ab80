"""Predicted labels in the formats of other tools: COCO JSON, YOLO polygons, Label Studio predictions, cut-outs."""
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image
from pycocotools import mask as run_length

from lib.files.fileio import refuse_foreign, replacing, write_text
from lib.files.imageio import IGNORED, read_image, read_mask, read_size
from lib.files.jsonfile import write_json
from tool.imutils import resize_nearest
from tool.polygons import polygons

MAKER = 'infer_seg'
MODEL = {'made_by': MAKER}


class Labelled(NamedTuple):
    """An image and its label PNG, which may be smaller."""

    name: str               # of the image, without suffix
    image: Path
    label: Path
    upright: bool = True    # whether the image is rotated as its EXIF tag says

    @property
    def file_name(self) -> str:
        """File name of the image for other tools."""
        return self.name + self.image.suffix

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return read_size(self.image, self.upright)

    def masks(self, classes: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        """Label and mask, bool [H, W] at the size of the image, of each class in the image."""
        label = resize_nearest(read_mask(self.label, len(classes) + 1), *self.size)
        return ((value, label == value) for value in np.unique(label).tolist() if value not in (0, IGNORED))

    def regions(self, classes: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        """Label and outline, x and y [n, 2] in pixels, of each connected region."""
        return ((value, region) for value, mask in self.masks(classes) for region in polygons(mask))


def write_coco(folder: Path, items: Iterable[Labelled], classes: Sequence[str]) -> None:
    """COCO JSON, twice: rle.json has one annotation per image and class, exact to the pixel; polygons.json one per
    connected region."""
    images, annotations = [], {'rle': [], 'polygons': []}

    def add(file: str, value: int, area: float, box: list[float], segmentation: dict | list) -> None:
        annotations[file].append({'image_id': len(images), 'category_id': value, 'iscrowd': 0, 'area': area,
                                  'id': len(annotations[file]) + 1, 'bbox': box, 'segmentation': segmentation})

    for number, item in enumerate(items, 1):
        height, width = item.size
        images.append({'id': number, 'file_name': item.file_name, 'width': width, 'height': height})
        for value, mask in item.masks(classes):
            encoded = run_length.encode(np.asfortranarray(mask, np.uint8))
            add('rle', value, int(mask.sum()), run_length.toBbox(encoded).tolist(),
                {'size': encoded['size'], 'counts': encoded['counts'].decode()})
        for value, region in item.regions(classes):
            (x, y), low, size = region.T, region.min(0), np.ptp(region, axis=0)
            area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
            add('polygons', value, float(area), [*low.tolist(), *size.tolist()], [region.ravel().tolist()])
    categories = [{'id': value, 'name': name, 'supercategory': ''} for value, name in enumerate(classes, 1)]
    for file in annotations:
        write_json(folder / f'{file}.json', {'info': MODEL, 'licenses': [], 'images': images,
                                             'categories': categories, 'annotations': annotations[file]})


def write_yolo(folder: Path, items: Iterable[Labelled], classes: Sequence[str]) -> None:
    """YOLO's segmentation labels: labels/<name>.txt has a line per connected region, its class from 0 and the outline's
    x and y as fractions of width and height; data.yaml names the classes."""
    names = ''.join(f'  {index}: {json.dumps(name, ensure_ascii=False)}\n' for index, name in enumerate(classes))
    write_text(folder / 'data.yaml', f'# made_by {MAKER}; put the images into images/\npath: .\ntrain: images\n'
                                     f'val: images\nnames:\n{names}')
    for item in items:
        size = item.size[::-1]
        lines = [' '.join([f'{value - 1}', *(f'{number:.6g}' for number in (region / size).ravel())]) + '\n'
                 for value, region in item.regions(classes)]
        write_text(folder / 'labels' / f'{item.name}.txt', ''.join(lines))


def write_labelstudio(folder: Path, items: Iterable[Labelled], classes: Sequence[str]) -> None:
    """Label Studio's tasks with predictions as polygons, tasks.json, and its labelling configuration, config.xml."""
    tasks = []
    for item in items:
        height, width = item.size
        results = [{'id': f'{index}', 'from_name': 'label', 'to_name': 'image', 'type': 'polygonlabels',
                    'original_width': width, 'original_height': height, 'image_rotation': 0,
                    'value': {'points': (region / (width, height) * 100).tolist(), 'closed': True,
                              'polygonlabels': [classes[value - 1]]}}
                   for index, (value, region) in enumerate(item.regions(classes))]
        # Images are named as in Label Studio's local storage.
        tasks.append({'data': {'image': f'/data/local-files/?d={item.file_name}'}, 'meta': MODEL,
                      'predictions': [{'model_version': MAKER, 'result': results}]})
    write_json(folder / 'tasks.json', tasks)
    labels = ''.join(f'    <Label value={quoteattr(name)}/>\n' for name in classes)
    write_text(folder / 'config.xml', f'<View>\n  <Image name="image" value="$image"/>\n  <PolygonLabels name="label" '
                                      f'toName="image">\n{labels}  </PolygonLabels>\n</View>\n')


def write_cutouts(folder: Path, items: Iterable[Labelled], classes: Sequence[str]) -> None:
    """<class>/<name>.png: the image where it shows the class, transparent elsewhere."""
    write_text(folder / 'made_by.txt', f'made_by {MAKER}\n')
    names = [re.sub(r'[^\w .-]', '_', name).strip(' .') or '_' for name in classes]
    for item in items:
        image = read_image(item.image, item.upright)
        for value, mask in item.masks(classes):
            with replacing(folder / names[value - 1] / f'{item.name}.png') as temporary:
                Image.fromarray(np.dstack([image, mask.astype(np.uint8) * 255])).save(temporary, format='PNG')


# The writer of each format, and the file that shows whether an existing folder was written by this code.
FORMATS: Mapping[str, tuple[Callable[[Path, Iterable[Labelled], Sequence[str]], None], str]] = {
    'coco': (write_coco, 'rle.json'), 'yolo': (write_yolo, 'data.yaml'),
    'labelstudio': (write_labelstudio, 'tasks.json'), 'cutouts': (write_cutouts, 'made_by.txt')}


def check_export(folder: Path, names: Iterable[str]) -> None:
    """Make sure that the folders of these formats are absent or were written by this code; else raise ValueError."""
    for name in names:
        path = folder / name / FORMATS[name][1]
        refuse_foreign(path, MAKER)
        if not path.exists() and any(path.parent.glob('[!.]*')):
            raise ValueError(f'{path.parent} exists and was not written by this code; choose another --out, or move '
                             'the folder away')


def export(folder: Path, names: Iterable[str], items: Sequence[Labelled], classes: Sequence[str]) -> None:
    """Write the labels, if they exist, to <folder>/<format> for each of FORMATS; classes: the foreground names."""
    items = [item for item in items if item.label.exists()]
    for name in names:
        FORMATS[name][0](folder / name, items, classes)
