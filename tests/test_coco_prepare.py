import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from coco import instances
from coco.dataset import COCO_CLASSES, LIST_SIZES
from coco.instances import index_instances, read_annotations, top_level_items
from coco.prepare import RULES, is_official, main, prepare
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
    assert not spec.image_labels([source[1]['train2014'][2]]).any()         # a picture without any object


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


def test_an_interrupted_call_goes_on_where_it_stopped(root, tmp_path, monkeypatch):
    painted, paint = [], RULES['reference']

    def stop_after_five(*words):
        if len(painted) == 5:
            raise KeyboardInterrupt
        painted.append(words)
        return paint(*words)

    monkeypatch.setitem(RULES, 'reference', stop_after_five)
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
    assert 'holds masks with masks reference, this call asks for coco; delete the folder' in line
    (root / 'Masks/made_by.json').unlink()
    assert 'masks that this command did not make' in error_lines(main, words, capsys)[-1]


def test_missing_annotations_are_named(tmp_path, capsys):
    line = error_line(main, ['--data-root', tmp_path, '--lists', tmp_path], capsys)
    assert 'instances_train2014.json is not there' in line


def test_the_official_list_is_known_by_size_and_checksum():
    assert not is_official('val2014', ['000000000001'] * LIST_SIZES['val2014'])
    assert is_official('train2014', [f'{number:012d}' for number in range(LIST_SIZES['train2014'])])


def test_every_annotation_is_found_where_the_index_says_whatever_the_size_of_a_piece(source, monkeypatch):
    path = source[0] / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    for piece in (7, 1000, 1 << 22):
        monkeypatch.setattr(instances, 'PIECE', piece)
        index = index_instances(path)
        assert index.ids.tolist() == [image['id'] for image in content['images']]
        assert list(index.categories) == CATEGORY_IDS
        for image_id in index.ids.tolist():
            expected = [item for item in content['annotations'] if item['image_id'] == image_id]
            assert read_annotations(path, index.spans_of(image_id)) == expected


def test_arrays_of_anything_are_gone_through_and_other_values_passed(tmp_path):
    text = '{"a": {"b": [1]}, "c": [1, -2.5, "x]", [3, [4]], {"d": "é"}], "e": [], "f": null,\n "g": [12] }'
    (tmp_path / 'a.json').write_text(text, encoding='utf-8')
    found = [(key, json.loads(text.encode()[first:end])) for key, first, end, _ in top_level_items(tmp_path / 'a.json')]
    assert found == [('c', 1), ('c', -2.5), ('c', 'x]'), ('c', [3, [4]]), ('c', {'d': 'é'}), ('g', 12)]


@pytest.mark.parametrize('change, message', [
    (lambda text: text[:len(text) // 2], 'ends early'),
    (lambda text: text.replace('"category_id"', '"category_id', 1), 'is not valid JSON'),
    (lambda text: '[]', "where '{' is expected"),
    (lambda text: '', 'ends early'),
    (lambda text: '{"images": [], "annotations": []}', 'lists 0 images and 0 categories'),
    (lambda text: text.replace('"height"', '"tall"', 1), 'the entry of .images. at byte .*: it lacks "height"'),
    (lambda text: text.replace('"image_id": ', '"image_id": 9', 1), 'annotates image 9.*, which it does not list'),
])
def test_a_damaged_instances_file_is_named(source, tmp_path, change, message):
    text = (source[0] / 'annotations/instances_val2017.json').read_text()
    path = tmp_path / 'instances_val2017.json'
    path.write_text(change(text))
    with pytest.raises(ValueError, match=f'instances_val2017.json .*{message}.*; unpack it again'):
        index_instances(path)


def test_categories_of_another_data_set_are_refused(source, tmp_path):
    (tmp_path / 'annotations').mkdir()
    for path in (source[0] / 'annotations').glob('instances*'):
        (tmp_path / 'annotations' / path.name).write_text(path.read_text().replace('"toothbrush"', '"comb"'))
    with pytest.raises(ValueError, match="has 'comb'; expected the .* classes of COCO"):
        prepare(tmp_path, tmp_path / 'lists')


def test_a_mask_of_another_size_is_refused(root, source, tmp_path):
    prepare(root, tmp_path / 'lists')
    name = source[1]['val2014'][0]
    Image.new('L', (3, 3)).save(root / f'Masks/{name}.png')
    with pytest.raises(ValueError, match=f'{name}.png is .*, its image .*; delete the mask'):
        prepare(root, tmp_path / 'lists')


@pytest.mark.parametrize('name, masks', [('val2014.txt', 0), ('labels.txt', TRAIN + VAL)])
def test_lists_that_this_command_did_not_write_stay(root, tmp_path, capsys, name, masks):
    words = ['--data-root', str(root), '--lists', str(tmp_path / 'lists'), '--workers', '0']
    (tmp_path / 'lists').mkdir()
    (tmp_path / 'lists' / name).write_text('mine\n')
    line = error_lines(main, words, capsys)[-1]
    assert f'{name} exists with another content than python -m coco.prepare would write' in line
    assert len(list(root.glob('Masks/*.png'))) == masks         # 0: refused before any is painted
    assert [path.name for path in (tmp_path / 'lists').iterdir()] == [name]
    (tmp_path / 'lists' / name).unlink()
    main(words)
    main(words)


@pytest.mark.parametrize('content', ['', '[1]', '{}', '{"masks": "reference"}'])
def test_a_note_on_masks_of_another_shape_is_named(root, tmp_path, capsys, content):
    (root / 'Masks').mkdir()
    (root / 'Masks/made_by.json').write_text(content)
    words = ['--data-root', root, '--lists', tmp_path / 'lists', '--workers', '0']
    assert str(root / 'Masks') in error_lines(main, words, capsys)[-1]
