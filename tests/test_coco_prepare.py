import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import coco.prepare
from coco.dataset import COCO_CLASSES
from coco.prepare import main, paint_mask, prepare, read_instances
from lib.data.registry import get_spec
from lib.files.imageio import read_mask
from tests.coco_toy import CATEGORY_IDS, SHOWN, write_archives
from tests.running import error_line, error_lines

TRAIN, VAL = 12, 6


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """(folder of the unpacked archives, names by split). Not to be changed."""
    folder = tmp_path_factory.mktemp('coco')
    splits = write_archives(folder / 'archives', TRAIN, VAL)
    for archive in (folder / 'archives').glob('annotations*.zip'):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    return folder, splits


@pytest.fixture
def root(source, tmp_path):
    """A data root with the annotations of the toy set."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/annotations').symlink_to(source[0] / 'annotations')
    return tmp_path / 'data'


def own_masks(folder):
    """Masks by name, painted with pycocotools from its own view of the 2017 files, in file order."""
    masks = {}
    for part in ('train', 'val'):
        tools = COCO(folder / f'annotations/instances_{part}2017.json')
        for image_id, image in tools.imgs.items():
            mask = np.zeros((image['height'], image['width']), np.uint8)
            for annotation in tools.dataset['annotations']:
                if annotation['image_id'] == image_id:
                    mask[tools.annToMask(annotation) > 0] = CATEGORY_IDS.index(annotation['category_id']) + 1
            masks[f'{image_id:012d}'] = mask
    return masks


def test_masks_of_cocos_rule_equal_those_of_pycocotools(source, root, tmp_path):
    prepare(root, tmp_path / 'lists', rule='coco')
    for name, mask in own_masks(source[0]).items():
        np.testing.assert_array_equal(read_mask(root / f'Masks/{name}.png', len(COCO_CLASSES) + 1), mask)


def test_lists_are_in_file_order_and_labels_are_the_classes_of_the_masks(source, root, tmp_path):
    assert prepare(root, tmp_path / 'lists') == source[1]
    spec = get_spec('coco', root, tmp_path / 'lists')
    for split, names in source[1].items():
        samples = spec.samples(split)
        assert [sample.name for sample in samples] == names and all(len(name) == 12 for name in names)
        for sample, row in zip(samples, spec.image_labels(names)):
            values = set(np.unique(read_mask(sample.mask, spec.num_classes))) - {0}
            assert values == set(np.flatnonzero(row) + 1) <= {CATEGORY_IDS.index(number) + 1 for number in SHOWN}
    assert not spec.image_labels([source[1]['train2014'][2]]).any()         # an image without any object


def test_the_two_rules_differ_by_the_border_of_polygons_alone(source, root, tmp_path):
    prepare(root, tmp_path / 'lists')
    differing = 0
    for name, mask in own_masks(source[0]).items():
        ours = read_mask(root / f'Masks/{name}.png', len(COCO_CLASSES) + 1)
        differing += (ours != mask).any()
        assert (ours != mask).mean() < 0.03
    assert differing > 0


def test_worker_processes_change_nothing(root, tmp_path):
    prepare(root, tmp_path / 'alone', workers=0)
    masks = {path.name: path.read_bytes() for path in (root / 'Masks').iterdir()}
    for path in (root / 'Masks').glob('*.png'):
        path.unlink()
    prepare(root, tmp_path / 'two', workers=2)
    assert masks == {path.name: path.read_bytes() for path in (root / 'Masks').iterdir()}
    assert (tmp_path / 'alone/labels.txt').read_bytes() == (tmp_path / 'two/labels.txt').read_bytes()


def test_an_interrupted_call_resumes(root, tmp_path, monkeypatch):
    painted = []

    def stop_after_five(*words):
        if len(painted) == 5:
            raise KeyboardInterrupt
        painted.append(words)
        return paint_mask(*words)

    monkeypatch.setattr(coco.prepare, 'paint_mask', stop_after_five)
    words = ['--data-root', str(root), '--lists', str(tmp_path / 'lists'), '--workers', '0']
    with pytest.raises(KeyboardInterrupt):
        main(words)
    assert not (tmp_path / 'lists/labels.txt').exists()
    assert len(list((root / 'Masks').glob('*.png'))) == 5 and not list((root / 'Masks').glob('.*'))
    painted[:] = [None] * 6
    main(words)
    assert len(painted) == 6 + TRAIN + VAL - 5
    labels = (tmp_path / 'lists/labels.txt').read_text()
    main(words)
    assert len(painted) == 6 + TRAIN + VAL - 5
    assert labels == (tmp_path / 'lists/labels.txt').read_text()


def test_masks_of_another_rule_are_not_mixed_in(root, tmp_path, capsys):
    words = ['--data-root', str(root), '--lists', str(tmp_path), '--workers', '0']
    main(words)
    assert 'train2014: 12 images, NOT the official list' in capsys.readouterr().out
    line = error_lines(main, [*words, '--masks', 'coco'], capsys)[-1]          # below progress bars
    assert "masks by another rule than 'coco'" in line and 'delete the folder' in line
    (root / 'Masks/made_by.json').unlink()
    assert 'masks that were not made by this command' in error_lines(main, words, capsys)[-1]


def test_missing_annotations_are_named(tmp_path, capsys):
    line = error_line(main, ['--data-root', tmp_path, '--lists', tmp_path], capsys)
    assert 'instances_train2014.json does not exist; unpack' in line


@pytest.mark.parametrize('change, message', [
    (lambda text: text[:len(text) // 2], 'is not valid JSON'),
    (lambda text: text.replace('"category_id"', '"category_id', 1), 'is not valid JSON'),
    (lambda text: text.replace('"height": ', '"height": NaN', 1), 'is not valid JSON'),
    (lambda text: text + 'x', 'is not valid JSON'),
    (lambda text: '[' * 100_000, 'nested too deeply'),
    (lambda text: '', 'is not valid JSON'),
    (lambda text: '{"images": [], "annotations": []}', 'it lacks "categories"'),
    (lambda text: text.replace('"height"', '"tall"', 1), 'item 1 of "images" lacks "height"'),
    (lambda text: text.replace('"image_id": ', '"image_id": 9', 1), 'annotates an image that it does not list'),
    (lambda text: text.replace('"segmentation": [[', '"segmentation": [[1e999, 1, ', 1), '.*not finite'),
    (lambda text: text.replace('"segmentation": [[', '"segmentation": [["x", ', 1),
     'image 0.*: annotation .*: polygons must'),
    (lambda text: text.replace('"toothbrush"', '"comb"'), 'does not have the .* categories of COCO'),
])
def test_a_corrupt_instances_file_is_named(source, tmp_path, change, message):
    (tmp_path / 'annotations').mkdir()
    for path in (source[0] / 'annotations').glob('instances*'):
        text = path.read_text()
        (tmp_path / 'annotations' / path.name).write_text(change(text) if '2017' in path.name else text)
    with pytest.raises(ValueError, match=f'instances.*2017.*{message}'):
        prepare(tmp_path, tmp_path / 'lists')


def test_a_mask_of_another_size_is_refused(root, source, tmp_path):
    prepare(root, tmp_path / 'lists')
    name = source[1]['val2014'][0]
    Image.new('L', (3, 3)).save(root / f'Masks/{name}.png')
    with pytest.raises(ValueError, match=f'{name}.png has size .*, its image .*; delete it'):
        prepare(root, tmp_path / 'lists')


@pytest.mark.parametrize('name, masks', [('val2014.txt', 0), ('labels.txt', TRAIN + VAL)])
def test_lists_that_this_command_did_not_write_stay(root, tmp_path, capsys, name, masks):
    words = ['--data-root', str(root), '--lists', str(tmp_path / 'lists'), '--workers', '0']
    (tmp_path / 'lists').mkdir()
    (tmp_path / 'lists' / name).write_text('mine\n')
    line = error_lines(main, words, capsys)[-1]
    assert f'{name} exists and differs from what python -m coco.prepare would write' in line
    assert len(list(root.glob('Masks/*.png'))) == masks         # 0: refused before any is painted
    assert [path.name for path in (tmp_path / 'lists').iterdir()] == [name]
    (tmp_path / 'lists' / name).unlink()
    main(words)
    main(words)


@pytest.mark.parametrize('content', ['', '[1]', '{}', '{"masks": "reference"}'])
def test_a_note_on_masks_of_another_shape_is_named(root, tmp_path, capsys, content):
    (root / 'Masks').mkdir()
    (root / 'Masks/made_by.json').write_text(content)
    (root / 'Masks/a.png').touch()
    words = ['--data-root', root, '--lists', tmp_path / 'lists', '--workers', '0']
    assert str(root / 'Masks') in error_lines(main, words, capsys)[-1]


def test_files_of_other_tools_may_start_with_a_byte_order_mark_and_have_no_objects(source, tmp_path):
    for path in (source[0] / 'annotations').glob('instances*'):
        content = json.loads(path.read_text()) | {'annotations': []}
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        (tmp_path / 'annotations' / path.name).write_bytes(('\ufeff ' + json.dumps(content)).encode())
    prepare(tmp_path, tmp_path / 'lists')
    assert not any(read_mask(path, len(COCO_CLASSES) + 1).any() for path in (tmp_path / 'Masks').glob('*.png'))


def test_an_annotation_without_a_shape_is_named(source, tmp_path):
    path = tmp_path / 'instances.json'
    content = json.loads((source[0] / 'annotations/instances_val2017.json').read_text())
    path.write_text(json.dumps(content | {'annotations': [{'image_id': 1, 'category_id': 1, 'segmentation': None}]}))
    with pytest.raises(ValueError, match='instances.json: "segmentation" of item 1 of "annotations" is None'):
        read_instances(path)
