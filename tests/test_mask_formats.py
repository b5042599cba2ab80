"""Masks in the formats of other tools: read back as those tools read them."""
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as run_length
from pycocotools.coco import COCO

from lib.files.imageio import write_label_png
from lib.mask_formats import FORMATS, Labelled, check_export, export
from tool.polygons import polygons

CLASSES = ('wren', 'red "kite" & co')


def filled(regions, height, width):
    """A mask from polygons, by pycocotools."""
    if not regions:
        return np.zeros((height, width), bool)
    return run_length.decode(run_length.merge(run_length.frPyObjects(
        [np.asarray(region).ravel().tolist() for region in regions], height, width))) > 0


@pytest.fixture
def items(tmp_path):
    """Two images, the first with a ring and a square, the second in a subfolder without any class."""
    label = Image.new('L', (40, 30))
    pen = ImageDraw.Draw(label)
    pen.ellipse((3, 3, 22, 22), 1)
    pen.ellipse((9, 9, 15, 15), 0)
    pen.rectangle((28, 5, 35, 20), 2)
    rng = np.random.default_rng(0)
    found = []
    for name, values in (('a', np.array(label)), ('sub/b', np.zeros((12, 16), np.uint8))):
        image, path = tmp_path / 'photos' / f'{name}.jpg', tmp_path / 'out' / f'{name}.png'
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*values.shape, 3), dtype=np.uint8)).save(image)
        write_label_png(path, values)
        found.append(Labelled(name, image, path))
    return found


@pytest.fixture
def folder(items, tmp_path):
    """All formats of both images."""
    export(tmp_path / 'out', FORMATS, items, CLASSES)
    return tmp_path / 'out'


def masks_of(item):
    return dict(item.masks(CLASSES))


@pytest.mark.parametrize('seed', range(20))
def test_polygons_of_tolerance_0_fill_the_mask_again(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 40, 2)) > rng.random()
    assert np.array_equal(filled(polygons(mask, 0), *mask.shape), mask)


def test_polygons_stay_near_the_outline_with_few_points(items):
    ring = masks_of(items[0])[1]
    region, = polygons(ring)
    assert len(region) < len(polygons(ring, 0)[0]) and (filled([region], *ring.shape) != ring).sum() <= 8


@pytest.mark.parametrize('file', ['rle', 'polygons'])
def test_coco_loads_in_pycocotools(folder, items, file):
    coco = COCO(folder / 'coco' / f'{file}.json')
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert [image['file_name'] for image in coco.loadImgs(coco.getImgIds())] == ['a.jpg', 'sub/b.jpg']
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert not coco.getAnnIds(imgIds=[2])
    for annotation in annotations:
        mask = masks_of(items[0])[annotation['category_id']]
        assert (coco.annToMask(annotation) != mask).sum() <= (0 if file == 'rle' else 8)
        assert annotation['area'] == pytest.approx(mask.sum(), rel=0.1)
        assert run_length.iou([annotation['bbox']], [run_length.toBbox(coco.annToRLE(annotation))], [0]) > 0.8


def test_yolo_lines_are_class_and_fractions(folder, items):
    lines = [line.split() for line in (folder / 'yolo/labels/a.txt').read_text().splitlines()]
    assert [line[0] for line in lines] == ['0', '1']
    for line in lines:
        points = np.array(line[1:], float).reshape(-1, 2)
        assert len(points) > 2 and points.min() >= 0 and points.max() <= 1
        mask = masks_of(items[0])[int(line[0]) + 1]
        assert (filled([points * (40, 30)], 30, 40) != mask).sum() <= 8
    assert (folder / 'yolo/labels/sub/b.txt').read_text() == ''
    assert '  0: "wren"\n  1: "red \\"kite\\" & co"\n' in (folder / 'yolo/data.yaml').read_text()


def test_label_studio_tasks_fit_their_configuration(folder, items):
    tasks = json.loads((folder / 'labelstudio/tasks.json').read_text())
    assert [task['data']['image'] for task in tasks] == ['/data/local-files/?d=a.jpg', '/data/local-files/?d=sub/b.jpg']
    config = ElementTree.parse(folder / 'labelstudio/config.xml').getroot()
    control = config.find('PolygonLabels')
    assert [label.get('value') for label in control] == list(CLASSES)
    results = tasks[0]['predictions'][0]['result']
    assert len({result['id'] for result in results}) == len(results) == 2
    for result, value in zip(results, (1, 2)):
        assert result['from_name'] == control.get('name') and result['to_name'] == config.find('Image').get('name')
        assert (result['original_width'], result['original_height']) == (40, 30)
        assert result['value']['polygonlabels'] == [CLASSES[value - 1]]
        points = np.array(result['value']['points']) * (0.4, 0.3)
        assert (filled([points], 30, 40) != masks_of(items[0])[value]).sum() <= 8


def test_cutouts_are_transparent_outside_the_class(folder, items):
    cutout = np.array(Image.open(folder / 'cutouts/wren/a.png'))
    assert np.array_equal(cutout[..., 3] == 255, masks_of(items[0])[1])
    assert np.array_equal(cutout[..., :3], np.array(Image.open(items[0].image)))
    assert sorted(path.name for path in (folder / 'cutouts').iterdir()) == ['made_by.txt', 'red _kite_ _ co', 'wren']


@pytest.mark.parametrize('name', FORMATS)
def test_only_folders_of_our_own_are_written(folder, items, tmp_path, name):
    check_export(folder, FORMATS)
    export(folder, [name], items, CLASSES)
    other = tmp_path / 'other'
    (other / name).mkdir(parents=True)
    check_export(other, FORMATS)
    (other / name / 'mine.txt').write_text('mine')
    with pytest.raises(ValueError, match='not written by this code'):
        check_export(other, FORMATS)
    (other / name / FORMATS[name][1]).write_text('mine')
    with pytest.raises(ValueError, match='was not written by'):
        check_export(other, FORMATS)
