import pytest
from PIL import Image

from lib.data.registry import get_spec
from lib.files.dataspec import list_sha256
from tests.running import error_line
from voc12.prepare import classes_of, main, prepare

# Entities that expand to gigabytes.
BOMB = ''.join(f'<!ENTITY {name} "{f"&{part};" * 10 if part else "x" * 100}">'
               for name, part in zip('abcdefghi', ['', *'abcdefgh']))


@pytest.fixture
def tree(tmp_path):
    """Five images: a, b official train; c SBD only; d, e val. Only a, c, d have a mask in SegmentationClassAug."""
    root = tmp_path / 'VOC2012'
    for folder in ('JPEGImages', 'Annotations', 'SegmentationClass', 'SegmentationClassAug', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    objects = {'a': ['dog', 'person', 'dog'], 'b': ['tvmonitor'], 'c': ['cat'], 'd': [], 'e': ['aeroplane']}
    for name, names in objects.items():
        Image.new('RGB', (8, 6)).save(root / f'JPEGImages/{name}.jpg')
        body = ''.join(f'<object><name>{word}</name><difficult>1</difficult><part><name>head</name></part></object>'
                       for word in names)
        (root / f'Annotations/{name}.xml').write_text(f'<annotation>{body}</annotation>')
    for folder, names in (('SegmentationClass', 'abde'), ('SegmentationClassAug', 'acd')):
        for name in names:
            Image.new('P', (8, 6)).save(root / folder / f'{name}.png')
    (root / 'ImageSets/Segmentation/train.txt').write_text('a\nb\n')
    (root / 'ImageSets/Segmentation/val.txt').write_text('d\ne\n')
    return root


def test_lists_and_labels_follow_from_the_tree(tree, tmp_path):
    lists = tmp_path / 'lists'
    splits = prepare(tree, lists)
    assert splits == {'train': ['a', 'b'], 'val': ['d', 'e'], 'train_aug': ['a', 'c']}
    assert (lists / 'train.txt').read_text().splitlines() == ['/JPEGImages/a.jpg /SegmentationClassAug/a.png',
                                                              '/JPEGImages/b.jpg /SegmentationClass/b.png']
    spec = get_spec('voc12', tree, lists)
    for split, names in splits.items():
        assert [sample.name for sample in spec.samples(split)] == names
        spec.check(split, need_masks=True)
    present = [[spec.classes[i] for i in row.nonzero()[0]] for row in spec.image_labels(list('abcde'))]
    assert present == [['dog', 'person'], ['tvmonitor'], ['cat'], [], ['aeroplane']]


def test_without_sbd_masks_the_list_of_names_is_taken(tree, tmp_path):
    for path in (tree / 'SegmentationClassAug').iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match='trainaug.txt is missing'):
        prepare(tree, tmp_path / 'lists')
    (tree / 'ImageSets/Segmentation/train_aug.txt').write_text('/JPEGImages/c.jpg /SegmentationClassAug/c.png\na\n')
    assert prepare(tree, tmp_path / 'lists')['train_aug'] == ['c', 'a']


def test_test_list_needs_neither_masks_nor_annotations(tree, tmp_path):
    Image.new('RGB', (8, 6)).save(tree / 'JPEGImages/t.jpg')
    (tree / 'ImageSets/Segmentation/test.txt').write_text('t\n')
    prepare(tree, tmp_path)
    assert (tmp_path / 'test.txt').read_text() == '/JPEGImages/t.jpg\n'
    assert get_spec('voc12', tree, tmp_path).samples('test')[0].mask is None


def test_checksum_is_of_names_one_a_line():
    assert list_sha256(['a', 'b']) == '911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2'


def test_command_says_that_a_part_is_no_official_list(tree, tmp_path, capsys):
    main(['--data-root', str(tree), '--lists', str(tmp_path)])
    assert 'train_aug: 2 images, NOT the official list' in capsys.readouterr().out
    assert 'has no JPEGImages' in error_line(main, ['--voc12-root', tmp_path, '--lists', tmp_path], capsys)


@pytest.mark.parametrize('content, message', [
    ('<annotation><object><name>unicorn</name></object></annotation>', "names the class 'unicorn'"),
    ('<annotation>', 'is not valid XML'),
    ('', 'is not valid XML'),
    ('<annotation>\0</annotation>', 'is not valid XML'),
    ('<?xml version="1.0" encoding="x"?><annotation/>', 'is not valid XML'),
    (f'<!DOCTYPE a [{BOMB}]><annotation><object><name>&i;</name></object></annotation>', 'is not valid XML'),
    ('<annotation><object/></annotation>', "names the class ''"),
])
def test_faulty_annotations_are_named(tmp_path, content, message):
    (tmp_path / 'a.xml').write_text(content)
    with pytest.raises(ValueError, match=f'a.xml {message}'):
        classes_of(tmp_path / 'a.xml')


def test_missing_annotation_is_named(tree, tmp_path):
    (tree / 'Annotations/c.xml').unlink()
    with pytest.raises(FileNotFoundError, match='c.xml is missing'):
        prepare(tree, tmp_path)


def test_annotations_with_a_namespace_and_lists_with_a_byte_order_mark_are_read(tree, tmp_path):
    for path in (tree / 'Annotations').glob('*.xml'):
        path.write_text(path.read_text().replace('<annotation>', '<annotation xmlns="http://example.org/voc">'))
    for path in (tree / 'ImageSets/Segmentation').glob('*.txt'):
        path.write_text('\ufeff' + path.read_text())
    assert prepare(tree, tmp_path / 'lists')['train'] == ['a', 'b']
    assert classes_of(tree / 'Annotations/a.xml') == ['dog', 'person']
    (tree / 'Annotations/a.xml').write_text('<html/>')
    with pytest.raises(ValueError, match='a.xml is not a VOC annotation'):
        classes_of(tree / 'Annotations/a.xml')
