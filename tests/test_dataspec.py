import json
import shlex

import numpy as np
import pytest
from PIL import Image

from lib.data.registry import get_spec, read_spec
from lib.files.dataspec import DatasetSpec


@pytest.fixture
def spec(tmp_path):
    """Three images, a and 'my photo' with a mask; class names with a space."""
    for folder in ('images', 'masks', 'lists'):
        (tmp_path / folder).mkdir()
    for name in ('a', 'b', 'my photo'):
        Image.new('RGB', (8, 6)).save(tmp_path / f'images/{name}.jpg')
    for name in ('a', 'my photo'):
        Image.new('L', (8, 6)).save(tmp_path / f'masks/{name}.png')
    (tmp_path / 'lists/labels.txt').write_text('a\tred kite\nb\nmy photo\twren\tred kite\n')
    (tmp_path / 'lists/train.txt').write_text('a\nb\nmy photo\n')
    return DatasetSpec(name='birds', classes=('wren', 'red kite', 'owl'), root=tmp_path, lists=tmp_path / 'lists',
                       image_template='images/{}.jpg', mask_templates=('other/{}.png', 'masks/{}.png'),
                       train_split='train', score_split='train', prepare='make lists')


def test_class_counts_follow_from_the_names(spec):
    assert (spec.num_fg, spec.num_classes) == (3, 4)
    assert spec.class_names == ('background', 'wren', 'red kite', 'owl')


def test_bare_names_and_paths_give_the_same_samples(spec):
    bare = spec.samples('train')
    (spec.lists / 'paths.txt').write_text('/images/a.jpg /masks/a.png\r\n\n/images/b.jpg\n'
                                          '/images/my photo.jpg  /masks/my photo.png\n')
    assert spec.samples('paths') == bare
    assert [sample.name for sample in bare] == ['a', 'b', 'my photo']
    assert bare[0].mask == spec.root / 'masks/a.png' and bare[1].mask is None


@pytest.mark.parametrize('content, message', [
    ('', 'train.txt names no image; make it with make lists'),
    ('a\nb\na\n', 'train.txt names a 2 times'),
    ('a\n/images/../../b.jpg\n', 'train.txt:2: .* inside'),
    ('images/a.jpg masks/a.png\n', 'train.txt:1: .* is neither a bare name'),
    ('/a.jpg /b.png /c.png\n', 'train.txt:1: .* must be the path of an image'),
    ('..\n', 'train.txt:1: .* is neither a bare name'),
])
def test_faulty_lists_are_named_with_the_line(spec, content, message):
    (spec.lists / 'train.txt').write_text(content)
    with pytest.raises(ValueError, match=message):
        spec.samples('train')


def test_missing_list_names_the_command_and_the_lists_there(spec):
    with pytest.raises(FileNotFoundError,
                       match='val.txt does not exist; make it with make lists; existing lists: train'):
        spec.samples('val')


def test_image_labels_are_rows_in_the_asked_order(spec):
    labels = spec.image_labels(['my photo', 'b', 'a'])
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize('labels, allow_empty, problem', [
    ('a\twren\towl\nb\twren\nmy photo\twren', False, 'no image of birds train shows red kite: .*.txt, or'),
    ('a\nb\nmy photo', True, 'no image of birds train shows wren, red kite, owl: .* correct labels.txt$'),
    ('a\twren\towl\nb\twren\nmy photo\twren', True, ''),
    ('a\twren\towl\nb\twren\nmy photo\twren\tred kite', False, '')])
def test_classes_that_no_image_or_every_image_shows_are_named(spec, labels, allow_empty, problem):
    (spec.lists / 'labels.txt').write_text(labels)
    if problem:
        with pytest.raises(ValueError, match=problem):
            spec.check_image_labels('train', allow_empty)
    else:
        warning = spec.check_image_labels('train', allow_empty)
        assert warning.startswith('warning: every image of birds train shows wren: ')


def test_labels_that_can_teach_all_classes_need_no_word(spec):
    (spec.lists / 'labels.txt').write_text('a\twren\nb\tred kite\nmy photo\towl')
    assert spec.check_image_labels('train') == ''


def test_faulty_labels_are_named(spec):
    with pytest.raises(ValueError, match=r'labels.txt has no line for c \(and 1 more\); make it with'):
        spec.image_labels(['a', 'c', 'd'])
    (spec.lists / 'labels.txt').write_text('a\tkite\n')
    with pytest.raises(ValueError, match="labels.txt:1: unknown class 'kite'; birds has wren, red kite, owl"):
        spec.image_labels(['a'])


def test_check_names_the_first_missing_file_and_counts(spec):
    spec.check('train')
    with pytest.raises(FileNotFoundError, match='without a mask: .*b.png; '):
        spec.check('train', need_masks=True)
    (spec.lists / 'train.txt').write_text('a\nx\ny\n')
    with pytest.raises(FileNotFoundError, match=r'do not exist: .*x.jpg \(and 1 more\); check --data-root'):
        spec.check('train')


def test_labels_of_the_scored_images_lie_with_the_training_split():
    spec = get_spec('voc12')
    assert [spec.label_split(split) for split in ('train', 'train_aug', 'val')] == ['train_aug', 'train_aug', 'val']


def test_registry_knows_its_names_and_refuses_others(tmp_path):
    assert get_spec('voc12', root=tmp_path).root == tmp_path
    assert get_spec('coco', lists=tmp_path).lists == tmp_path
    assert get_spec('coco').num_fg == len(set(get_spec('coco').classes))
    with pytest.raises(ValueError, match='--dataset voc13 is unknown; use voc12, coco, toy or'):
        get_spec('voc13')
    with pytest.raises(FileNotFoundError, match='dataset.json does not exist; .* python -m lib.data.toy'):
        get_spec('toy', root=tmp_path)


def test_folder_file_describes_a_set(tmp_path):
    path = tmp_path / 'dataset.json'
    path.write_text(json.dumps({'name': 'birds', 'classes': ['wren', 'red kite'], 'images': 'photos/{}.jpg'}))
    spec = get_spec(str(path))
    assert (spec.name, spec.root, spec.lists) == ('birds', tmp_path, tmp_path / 'lists')
    assert (spec.train_split, spec.score_split, spec.mask_templates, spec.flag) == ('train', 'train', (), str(path))
    assert get_spec(str(tmp_path)).classes == ('wren', 'red kite')


@pytest.mark.parametrize('change, message', [
    ({'classes': None}, '"classes" is None, expected list'),
    ({'classes': []}, 'at least one class'),
    ({'classes': ['a', 'a']}, 'is listed twice'),
    ({'classes': ['background', 'a']}, 'leave "background" out'),
    ({'classes': ['a\tb']}, 'cannot be printed'),
    ({'classes': [f'c{number}' for number in range(255)]}, 'has 255 classes; at most 254'),
    ({'classes': ['a\0b']}, 'cannot be printed'),
    ({'lists': 'a\0b'}, 'cannot be printed'),
    ({'max_side': 0}, '"max_side" is 0, expected 1 to 16384'),
    ({'max_side': 10 ** 30}, 'expected 1 to 16384'),
    ({'images': 'photos'}, "'photos' must be a path with one {}"),
    ({'masks': [1]}, 'item 1 of "masks" is 1, expected str'),
    ({'name': '../x'}, '"name" must be a plain name'),
    ({'colour': 1}, 'unknown entry \'colour\'; known ones: name, '),
])
def test_faulty_folder_files_are_explained(tmp_path, change, message):
    path = tmp_path / 'dataset.json'
    path.write_text(json.dumps({'name': 'x', 'classes': ['a'], 'images': '{}.jpg'} | change))
    with pytest.raises(ValueError, match=message):
        read_spec(path)


def test_folder_file_that_is_absent_or_no_json_is_explained(tmp_path):
    path = tmp_path / 'dataset.json'
    with pytest.raises(FileNotFoundError, match='dataset.json does not exist'):
        read_spec(path)
    path.write_text('{')
    with pytest.raises(ValueError, match='is not valid JSON'):
        read_spec(path)
    path.write_text('{"name": "x"}')
    with pytest.raises(ValueError, match='it lacks "classes"; python -m lib.own makes one'):
        read_spec(path)


@pytest.mark.parametrize('name', ['voc12', 'coco'])
def test_a_command_named_as_the_remedy_can_be_pasted(name, tmp_path):
    root, lists = tmp_path / "it's here", tmp_path / 'my lists'
    with pytest.raises(FileNotFoundError) as error:
        get_spec(name, root, lists).samples('val')
    command = str(error.value).split('make it with ')[1].split('; existing lists')[0]
    assert shlex.split(command)[3:] == ['--data-root', str(root), '--lists', str(lists)]
