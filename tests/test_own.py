"""A folder of images and a table as a data set: what is written, and every kind of mistake by its line."""
import json
import runpy
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from lib.data.datasets import CamTrainSet, InferSet
from lib.data.registry import get_spec
from lib.files.imageio import read_image, read_mask, read_size, write_label_png
from lib.own import __main__ as own
from tests.running import error_lines

LABELS = {'a': ['wren'], 'b': ['kite'], 'c': ['wren', 'kite'], 'd': [], 'e': ['wren'], 'f': ['kite']}


@pytest.fixture
def home(tmp_path):
    """A folder with six images in photos/, masks of all but d, and their table."""
    for number, name in enumerate(LABELS):
        (tmp_path / 'photos').mkdir(exist_ok=True)
        Image.new('RGB', (60 + number, 40), (number, 0, 0)).save(tmp_path / f'photos/{name}.jpg')
        mask = np.zeros((40, 60 + number), np.uint8)
        for row, label in enumerate(LABELS[name]):
            mask[row] = ['kite', 'wren'].index(label) + 1
        if name != 'd':
            write_label_png(tmp_path / f'masks/{name}.png', mask)
    write_table(tmp_path, [f'{name}.jpg,{";".join(labels)}' for name, labels in LABELS.items()])
    return tmp_path


def write_table(home, lines, header='image,labels'):
    (home / 'labels.csv').write_text('\n'.join([header, *lines]) + '\n')


def make(home, *words, table='labels.csv'):
    own.main([str(home / 'photos'), str(home / table), '--out', str(home / 'out/my.json'), *map(str, words)])


def problems(home, capsys, *words, **keys):
    """The lines on stderr, without the folder; nothing may be written."""
    capsys.readouterr()
    lines = error_lines(lambda words: make(home, *words, **keys), words, capsys)
    assert not (home / 'out').exists()
    return [line.replace(f'{home}/', '') for line in lines]


def labels_of(spec):
    names = [sample.name for split in ('train', 'val') for sample in spec.samples(split)]
    return {name: [spec.classes[i] for i in np.flatnonzero(row)] for name, row in zip(names, spec.image_labels(names))}


def test_a_table_becomes_a_set_that_every_script_reads(home, capsys):
    make(home)
    spec = get_spec(str(home / 'out/my.json'))
    assert spec.name == 'my' and spec.classes == ('kite', 'wren') and spec.preset == 'own' and spec.upright
    assert labels_of(spec) == {name: sorted(labels) for name, labels in LABELS.items()}
    assert len(spec.samples('val')) == 1 and not any(sample.mask for sample in spec.samples('train'))
    assert InferSet(spec, 'train')[0]['image'].shape == (40, 60, 3)
    assert '6 images (5 train, 1 val), 2 classes\n  kite     3 images\n  wren     3 images\n  no class 1' in \
        capsys.readouterr().out
    assert sorted(path.name for path in home.iterdir()) == ['labels.csv', 'masks', 'out', 'photos']


def test_the_set_can_be_moved_with_its_images(home, tmp_path):
    make(home, '--masks', home / 'masks')
    moved = tmp_path / 'elsewhere'
    moved.mkdir()
    for name in ('photos', 'masks', 'out'):
        shutil.move(home / name, moved / name)
    get_spec(str(moved / 'out/my.json')).check('train')


@pytest.mark.parametrize('text', [
    '\ufeffimage,labels\r\na.jpg,wren;kite\r\nb.jpg,wren;kite\r\n',
    'labels;image\nwren|kite;a.jpg\nwren|kite;b.jpg\n',
    'image\tlabels\na.jpg\t"wren|kite"\n\nb.jpg\twren | kite\n',
    '\ufeffimage;labels\r\na.jpg;"wren;kite"\r\nb.jpg;"wren;kite"\r\n'],
    ids=['BOM', 'semicolons', 'tabs', 'semicolons in both places'])
def test_csv_is_read_as_spreadsheets_write_it(home, text):
    (home / 'labels.csv').write_bytes(text.encode())
    make(home, '--separator', '|' if '|' in text else ';')
    assert labels_of(get_spec(str(home / 'out/my.json'))) == {'a': ['kite', 'wren'], 'b': ['kite', 'wren']}


def test_json_says_the_same_as_csv(home):
    (home / 't.json').write_text(json.dumps([{'image': f'{k}.jpg', 'labels': v} for k, v in LABELS.items()]))
    make(home, table='t.json')
    assert labels_of(get_spec(str(home / 'out/my.json'))) == {name: sorted(labels) for name, labels in LABELS.items()}


def test_a_column_split_decides_and_a_share_is_always_drawn_alike(home):
    write_table(home, [f'{name}.jpg,{";".join(labels)},{"VAL" if name in "ab" else "train"}'
                       for name, labels in LABELS.items()], 'image,labels,split')
    make(home)
    assert [sample.name for sample in get_spec(str(home / 'out/my.json')).samples('val')] == ['a', 'b']
    drawn = []
    for order in (1, -1):
        write_table(home, [f'{name}.jpg,{";".join(labels)}' for name, labels in LABELS.items()][::order])
        make(home, '--val', '0.5')
        drawn.append({sample.name for sample in get_spec(str(home / 'out/my.json')).samples('val')})
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3


def test_every_problem_is_listed_at_once_in_order_of_its_line(home, capsys):
    (home / 'photos/broken.jpg').write_text('no image')
    Image.new('RGB', (5, 5)).save(home / 'photos/a.png')
    write_table(home, ['a.jpg,wren;kite,train', 'b.jpg,wren,kite,val', 'b.jpg,wren;;kite,train', ',wren,train',
                       'x.jpg,wren,train', 'a.jpg,kite,val', 'broken.jpg,kite,val', '../b.png,kite,train',
                       'c.jpg,wren\a,train', 'a.png,kite,val', 'e.jpg,wren,dev', 'f.jpg,"wren'], 'image,labels,split')
    lines = problems(home, capsys)
    expected = ['3: has 4 fields, the header 3', '5: an empty name is not in photos', '6: x.jpg is not in photos',
                '7: a.jpg is also in labels.csv:2, with a different split', '8: photos/broken.jpg is ',
                '9: ../b.png is not in photos; did you mean b.jpg?', "10: 'wren\\x07' cannot be the name of a class",
                '11: a.png has the same name as a.jpg (labels.csv:2)', "12: has split 'dev'; use train, val, test",
                '13: cannot be read']
    assert len(lines) == len(expected) + 1 and lines[-1].startswith('error: 10 problems in labels.csv')
    for line, words in zip(lines, expected):
        assert line.startswith(f'labels.csv:{words}'), line


@pytest.mark.parametrize('text, problem', [
    ('image,labels\na.jpg,\nb.jpg,\n', 'names no class'),
    ('image;n;labels\na.jpg;wren\n', 'has 2 fields, the header 3; a field with a separator in it'),
    ('image,labels\na.jpg,\nB.jpg,wren\nc.jpg,wren\n', 'B.jpg is not in photos; did you mean b.jpg?'),
    ('image,labels\na.jpg,wren\nb.jpg,wrens\nc.jpg,wren\n', "'wrens' (1 images) and 'wren' (2) look alike"),
    ('image,labels,split\na.jpg,wren,train\nb.jpg,wren,val\ne.jpg,wren,\n', 'has no split, but other images have'),
    ('image,labels,split\na.jpg,wren,test\ne.jpg,wren,val\n', 'leaves no image for train'),
    ('image,labels,split\na.jpg,wren,train\ne.jpg,wren,train\nb.jpg,kite,val\nf.jpg,kite,val\n',
     "no image of the split train shows 'kite'")])
def test_a_table_that_is_no_use_is_one_problem(home, capsys, text, problem):
    (home / 'labels.csv').write_text(text)
    lines = problems(home, capsys)
    assert len(lines) == 2 and problem in lines[0] and lines[1].startswith('error: one problem in labels.csv')


@pytest.mark.parametrize('name, content, problem', [
    ('labels.csv', b'', 'labels.csv is empty'), ('labels.csv', b'image,labels\n', 'names no image; expected a line'),
    ('t.json', b'{', 'is not valid JSON'), ('t.json', b'{}', 'names no image'),
    ('no.csv', None, 'no.csv does not exist'), ('photos', None, 'photos is a folder without XML files')])
def test_a_table_of_another_form_is_refused_in_one_line(home, capsys, name, content, problem):
    if content is not None:
        (home / name).write_bytes(content)
    line, = problems(home, capsys, table=name)
    assert line.startswith('error: ') and name in line and problem in line


def test_a_table_with_too_few_images_says_so(home, capsys):
    write_table(home, ['a.jpg,wren'])
    assert 'leaves no image for val; add images' in problems(home, capsys, '--classes', 'wren')[0]


def test_names_that_look_alike_are_one_in_either_form_of_unicode(home):
    (home / 'photos/a.jpg').rename(home / 'photos/e\u0301.jpg')
    write_table(home, ['\u00e9.jpg,cafe\u0301', 'b.jpg,caf\u00e9', 'c.jpg,caf\u00e9'])
    make(home)
    spec = get_spec(str(home / 'out/my.json'))
    assert spec.classes == ('caf\u00e9',)
    for split in ('train', 'val'):
        spec.check(split)


@pytest.mark.parametrize('classes, problem', [(('wren', 'kite', 'wren'), "--classes: 'wren' must not be listed"),
                                              (('background', 'wren', 'kite'), "'background' must not be listed")])
def test_classes_that_cannot_be_leave_nothing_behind(home, capsys, classes, problem):
    assert problem in problems(home, capsys, '--classes', *classes)[0]


def test_classes_given_are_all_there_are(home, capsys):
    lines = problems(home, capsys, '--classes', 'wren', 'kit')
    assert lines[0] == "labels.csv: no image shows 'kit' of --classes"
    assert lines[1] == "labels.csv:3: unknown class 'kite'; --classes names wren, kit; did you mean 'kit'?"
    make(home, '--classes', 'wren', 'kite')
    assert get_spec(str(home / 'out/my.json')).classes == ('wren', 'kite')


def test_masks_are_checked_and_some_may_be_absent(home, capsys):
    make(home, '--masks', home / 'masks')
    assert '5 of 6 images have a mask' in capsys.readouterr().out
    spec = get_spec(str(home / 'out/my.json'))
    assert {s.name: s.mask is None for split in ('train', 'val') for s in spec.samples(split)}['d']
    assert any(sample.mask for sample in spec.samples('train'))
    assert not any(sample.mask for sample in spec.samples('val'))       # d is all of it
    make(home, '--masks', home / 'masks', '--classes', 'wren', 'kite')
    assert '4 masks show other classes than the labels (a.png shows kite, labelled wren): is the order of the ' \
        'classes right? It is wren, kite; --classes sets it' in capsys.readouterr().out
    shutil.rmtree(home / 'out')
    write_label_png(home / 'masks/a.png', np.full((40, 60), 3, np.uint8))
    write_label_png(home / 'masks/b.png', np.zeros((40, 40), np.uint8))
    lines = problems(home, capsys, '--masks', home / 'masks')
    assert 'labels.csv:2: masks/a.png holds the value 3; expected 0 to 2 or 255' in lines[0]
    assert 'labels.csv:3: masks/b.png is 40x40 pixels, its image 61x40' in lines[1]


def test_endings_in_capitals_are_endings(home):
    (home / 'photos/a.jpg').rename(home / 'photos/a.JPG')
    (home / 'masks/a.png').rename(home / 'masks/a.PNG')
    (home / 'labels.csv').write_text((home / 'labels.csv').read_text().replace('a.jpg', 'a.JPG'))
    make(home, '--masks', home / 'masks')
    spec = get_spec(str(home / 'out/my.json'))
    sample, = (sample for split in ('train', 'val') for sample in spec.samples(split) if sample.name == 'a')
    assert sample.image.is_file() and read_mask(sample.mask, 3).shape == read_size(sample.image)


def test_large_and_turned_images_are_read_upright_and_reduced(tmp_path):
    path, plain = tmp_path / 'a.jpg', np.zeros((300, 400, 3), np.uint8)
    plain[:, :200] = 255
    exif = Image.Exif()
    exif[0x0112] = 6                            # to be turned by a quarter to the right
    Image.fromarray(plain).save(path, exif=exif)
    image = read_image(path, upright=True, max_side=100)
    assert image.shape == (100, 75, 3) and read_size(path, True, 100) == (100, 75)
    assert image[:45].min() > 240 and image[55:].max() < 15
    assert read_image(path).shape == (300, 400, 3) and read_size(path) == (300, 400)
    write_label_png(tmp_path / 'a.png', np.full((400, 300), 2, np.uint8))
    assert read_mask(tmp_path / 'a.png', 3, 100).shape == (100, 75)


def test_training_reads_images_as_the_set_says(home):
    make(home, '--max-side', '32')
    spec = get_spec(str(home / 'out/my.json'))
    assert InferSet(spec, 'train')[0]['image'].shape[:2] == (21, 32) and spec.scaled(448) == 32
    assert CamTrainSet(spec, 'train', crop=32, long_side=(32, 40))[0, 0]['image'].shape == (3, 32, 32)


def test_the_former_name_of_the_command_works_and_its_sets_are_replaced(home, monkeypatch):
    monkeypatch.setattr('sys.argv', ['own', str(home / 'photos'), str(home / 'labels.csv'), '--out',
                                     str(home / 'out/my.json')])
    monkeypatch.delitem(sys.modules, 'lib.own.__main__')
    with pytest.raises(SystemExit) as end:
        runpy.run_module('lib.data.own', run_name='__main__')
    assert not end.value.code
    path = home / 'out/my.json'
    path.write_text(path.read_text().replace('"made_by": "lib.own"', '"made_by": "lib.data.own"'))
    make(home)
    assert '"made_by": "lib.own"' in path.read_text()
