"""The photo set of the ablation, made from a tiny tree like VOC's."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import photo_set
from lib.data.registry import get_spec
from lib.files.imageio import read_image, read_mask, write_label_png

CAT, DOG, PERSON, SOFA = 8, 12, 15, 18
PHOTOS = {'a': [CAT, SOFA], 'b': [PERSON], 'c': [DOG, PERSON], 'd': [CAT], 'e': [SOFA]}      # e: no animal
NAMES = {CAT: 'cat', DOG: 'dog', PERSON: 'person', SOFA: 'sofa'}


@pytest.fixture
def tree(tmp_path):
    """Five photos of 60x40; train is a, train_aug is a, b, c, e (by their masks), val is d."""
    root = tmp_path / 'VOC2012'
    for folder in ('JPEGImages', 'Annotations', 'SegmentationClassAug', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    for number, (name, values) in enumerate(PHOTOS.items()):
        Image.new('RGB', (60, 40), (40 * number, 90, 20)).save(root / f'JPEGImages/{name}.jpg')
        mask = np.zeros((40, 60), np.uint8)
        for part, value in enumerate(values):
            mask[:20, 30 * part:30 * part + 30] = value
        mask[38:] = 255
        write_label_png(root / f'SegmentationClassAug/{name}.png', mask)
        objects = ''.join(f'<object><name>{NAMES[value]}</name></object>' for value in values)
        (root / f'Annotations/{name}.xml').write_text(f'<annotation>{objects}</annotation>')
    for split, names in {'train': 'a', 'val': 'd'}.items():
        (root / f'ImageSets/Segmentation/{split}.txt').write_text(f'{names}\n')
    return root


def make(tree, out, *words):
    photo_set.main(['--voc-root', str(tree), '--out', str(out), '--classes', 'dog', 'cat', 'person',
                    '--showing', 'cat', 'dog', *words])
    return get_spec(str(out / 'dataset.json')), get_spec(str(out / 'chain.json'))


def names_of(spec, split):
    return [sample.name for sample in spec.samples(split)]


def test_the_set_has_the_photos_labels_and_masks_of_its_classes(tree, tmp_path, capsys):
    spec, chain = make(tree, tmp_path / 'animals', '--long-side', '30')
    assert [names_of(spec, split) for split in ('train_aug', 'train', 'val')] == [['a', 'c'], ['a'], ['d']]
    assert (spec.train_split, chain.train_split, spec.classes) == ('train_aug', 'train', ('dog', 'cat', 'person'))
    assert spec.image_labels(['a', 'c', 'd']).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    sample = spec.samples('train_aug')[1]
    mask = read_mask(sample.mask, spec.num_classes)
    assert read_image(sample.image).shape == (20, 30, 3) and mask.shape == (20, 30)
    assert mask[0, 0] == 1 and mask[0, 29] == 3 and mask[15, 0] == 0 and mask[19, 0] == 255
    assert set(np.unique(read_mask(spec.samples('train')[0].mask, 4))) == {0, 2, 255}      # the sofa is background
    spec.check('train_aug', need_masks=True)
    spec.check('val', need_masks=True)
    assert '1 photos in train, 2 photos in train_aug, 1 photos in val' in capsys.readouterr().out


def test_small_photos_are_copied_and_the_training_set_may_be_cut_to_the_official_train(tree, tmp_path):
    spec, _ = make(tree, tmp_path / 'animals', '--num-train', '1')
    assert names_of(spec, 'train_aug') == names_of(spec, 'train') == ['a']
    assert spec.samples('val')[0].image.read_bytes() == (tree / 'JPEGImages/d.jpg').read_bytes()


def test_labels_come_from_given_lists(tree, tmp_path):
    lists = tmp_path / 'lists'
    lists.mkdir()
    for split, names in {'train': 'a', 'train_aug': 'abce', 'val': 'd'}.items():
        (lists / f'{split}.txt').write_text('\n'.join(names))
    (lists / 'labels.txt').write_text('a\tdog\nb\tcat\nc\nd\tdog\ne\n')
    spec, _ = make(tree, tmp_path / 'animals', '--lists', str(lists))
    assert names_of(spec, 'train_aug') == ['a', 'b'] and spec.image_labels(['d']).tolist() == [[1, 0, 0]]
    (lists / 'labels.txt').write_text('a\tsofa\nb\tcat\nc\nd\tdog\ne\n')
    with pytest.raises(ValueError, match='no photo of train shows one of the classes'):
        make(tree, tmp_path / 'other', '--lists', str(lists))
    (lists / 'labels.txt').write_text('a\tcat\n')
    with pytest.raises(ValueError, match='has no line for b'):
        make(tree, tmp_path / 'other', '--lists', str(lists))


@pytest.mark.parametrize('root, out, problem', [('VOC2012', 'VOC2012', 'exists; name a new folder'),
                                                ('none', 'new', 'has no JPEGImages')])
def test_an_existing_folder_and_a_wrong_tree_are_refused_in_one_line(tree, tmp_path, root, out, problem):
    done = subprocess.run([sys.executable, '-m', 'benchmarks.photo_set', '--classes', 'cat', '--voc-root',
                           str(tmp_path / root), '--out', str(tmp_path / out)],
                          capture_output=True, text=True, cwd=Path(photo_set.__file__).parents[1])
    line, = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith('error: ') and problem in line
    assert not (tmp_path / 'new').exists()
