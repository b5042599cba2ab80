"""Every form in which people have labels is read to the same data set."""
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.data.datasets import InferSet
from lib.data.registry import get_spec
from lib.own import __main__ as own
from lib.own.labels import choose_separator, plain
from lib.own.photos import Folder, Log
from tests.running import error_lines

LABELS = {'a': ['wren'], 'b': ['red kite'], 'c': ['red kite', 'wren'], 'd': [], 'e': ['wren'], 'f': ['red kite']}
SPLITS = dict(zip('abcdef', ['train', 'val', 'train', 'train', 'val', 'train']))
NAMES = ['red kite', 'wren']


@pytest.fixture
def home(tmp_path):
    """A folder with six images in photos/."""
    (tmp_path / 'photos').mkdir()
    for number, name in enumerate(LABELS):
        Image.new('RGB', (60 + number, 40), (number, 0, 0)).save(tmp_path / f'photos/{name}.jpg')
    return tmp_path


def make(home, *words, out='my.json'):
    own.main([str(home / 'photos'), *map(str, words), '--out', str(home / out)])
    spec = get_spec(str(home / out))
    for split in ('train', 'val'):
        spec.check(split)
    return spec


def labels_of(spec):
    names = [sample.name for split in ('train', 'val') for sample in spec.samples(split)]
    return {name: [spec.classes[i] for i in np.flatnonzero(row)] for name, row in zip(names, spec.image_labels(names))}


def problems(home, capsys, *words):
    return [line.replace(f'{home}/', '') for line in
            error_lines(own.main, (home / 'photos', *words, '--out', home / 'my.json'), capsys)]


def lines(header, row):
    return '\n'.join([header, *(row(f'{name}.jpg', labels) for name, labels in LABELS.items())]) + '\n'


def one_hot(name, labels):
    return ','.join([name, *(str(int(label in labels)) for label in NAMES)])


def coco(**changes):
    return json.dumps({
        'info': {'description': 'export'}, 'licenses': [],
        'categories': [{'id': 0, 'name': 'birds', 'supercategory': 'none'}, {'id': 1, 'name': 'red kite'},
                       {'id': 7, 'name': 'wren'}],
        'images': [{'id': n, 'file_name': f'{name}.jpg', 'height': 40, 'width': 60 + n} for n, name in
                   enumerate(LABELS)],
        'annotations': [{'id': 10 * n + k, 'image_id': n, 'category_id': [1, 7][NAMES.index(label)],
                         'bbox': [1, 1, 5, 5], 'area': 25, 'iscrowd': 0, 'segmentation': []}
                        for n, labels in enumerate(LABELS.values()) for k, label in enumerate(2 * labels)]} | changes)


def label_studio():
    tasks = []
    for number, (name, labels) in enumerate(LABELS.items()):
        choices = {'from_name': 'tags', 'to_name': 'image', 'type': 'choices', 'value': {'choices': labels}}
        boxes = [{'type': 'rectanglelabels', 'value': {'x': 1, 'y': 1, 'width': 9, 'rectanglelabels': [label]}}
                 for label in labels]
        tasks.append({'id': number, 'data': {'image': f'/data/upload/3/0f1e2d3{number}-{name}.jpg'},
                      'annotations': [{'id': 1, 'was_cancelled': False, 'result': [choices] if number % 2 else boxes}]})
    return json.dumps(tasks)


def cvat():
    images = ''.join(f'<image id="{n}" name="{name}.jpg" width="60" height="40">' + ''.join(
        f'<{"tag" if n % 2 else "box"} label="{label}"></{"tag" if n % 2 else "box"}>' for label in labels)
        + '</image>' for n, (name, labels) in enumerate(LABELS.items()))
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta/>{images}</annotations>'


FORMS = {
    'the form of the documentation.csv': lines('image,labels', lambda n, ls: f'{n},{";".join(ls)}'),
    'byte-order mark and Windows line ends.csv': '\ufeff' + lines(
        'filename,tags', lambda n, ls: f'{n},{";".join(ls)}').replace('\n', '\r\n'),
    'quoted comma lists.csv': lines('file_name,label', lambda n, ls: f'{n},"{", ".join(ls)}"'),
    'semicolons between fields.csv': lines('img;classes', lambda n, ls: f'{n};{"|".join(ls)}'),
    'tabs.tsv': lines('path\tcategory', lambda n, ls: f'photos/{n}\t{"/".join(ls)}'),
    'names without endings.csv': lines('id,labels', lambda n, ls: f'{n[0]},{";".join(ls)}'),
    'absolute paths of Windows.csv': lines('image_path,labels', lambda n, ls: f'C:\\x\\photos\\{n},{";".join(ls)}'),
    'further columns.csv': lines('image,width,height,labels', lambda n, ls: f'{n},60,40,{";".join(ls)}'),
    'columns of FiftyOne.csv': lines(',filepath,ground_truth.label', lambda n, ls: f'7,/x/photos/{n},"{",".join(ls)}"'),
    'no header, spaces.txt': '\n'.join(' '.join([f'{n}.jpg', *(f'"{label}"' for label in ls)])
                                       for n, ls in LABELS.items()),
    'no header.csv': '\n'.join(f'{n}.jpg,{";".join(ls)}' for n, ls in LABELS.items()),
    'a line per label.csv': lines('image,label', lambda n, ls: '\n'.join(f'{n},{label}' for label in ls or [''])),
    'a line per box.csv': lines('filename,width,height,class,xmin,ymin,xmax,ymax', lambda n, ls: '\n'.join(
        f'{n},60,40,{label},1,1,9,9' for label in [*ls, *ls] or [''])),
    'several columns.csv': lines('image,label1,label2', lambda n, ls: ','.join([n, *ls, '', ''][:3])),
    'commas without quotes.csv': lines('image,labels', lambda n, ls: ','.join([n, *(ls or [''])])),
    'lists of pandas.csv': lines('image,labels', lambda n, ls: f'{n},"{ls}"'),
    'words for no class.csv': lines('image,labels', lambda n, ls: f'{n},{";".join(ls) or "None"}'),
    '_classes.csv': lines('filename, red kite, wren', lambda n, ls: one_hot(n, ls).replace(',', ', ')),
    'one-hot with floats.csv': lines('image,red kite,wren', lambda n, ls: re.sub(r'([01])(?=,|$)', r'\1.0',
                                                                                 one_hot(n, ls))),
    'utf16.csv': lines('image,labels', lambda n, ls: f'{n},{";".join(ls)}').encode('utf-16'),
    'mapping.json': json.dumps({f'{n}.jpg': ls for n, ls in LABELS.items()}),
    'records.json': json.dumps([{'image': f'{n}.jpg', 'labels': ls} for n, ls in LABELS.items()], indent=1),
    'lines.jsonl': '\n'.join(json.dumps({'file_name': f'{n}.jpg', 'labels': ls}) for n, ls in LABELS.items()),
    'lines.json': '\n'.join(json.dumps({'file_name': f'{n}.jpg', 'label': '; '.join(ls)}) for n, ls in LABELS.items()),
    'coco.json': coco(), 'label_studio.json': label_studio(), 'cvat.xml': cvat(),
    'label_studio_min.json': json.dumps([{'image': f'/data/local-files/?d=photos/{n}.jpg', 'id': i, 'annotator': 1,
                                          'choice': ls[0] if len(ls) == 1 else {'choices': ls}}
                                         for i, (n, ls) in enumerate(LABELS.items())])}


@pytest.mark.parametrize('name', FORMS)
def test_a_list_of_this_form_becomes_the_same_set(home, capsys, name):
    content = FORMS[name]
    (home / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    spec = make(home, home / name)
    assert spec.classes == tuple(NAMES) and labels_of(spec) == LABELS
    printed = capsys.readouterr().out
    assert '  red kite 3 images\n  wren     3 images\n  no class 1 images' in printed


def test_excel_is_read_as_csv(home):
    openpyxl = pytest.importorskip('openpyxl')
    book = openpyxl.Workbook()
    for row in lines('image,labels', lambda n, ls: f'{n},{";".join(ls)}').splitlines():
        book.active.append([cell or None for cell in row.split(',')])
    book.save(home / 'labels.xlsx')
    assert labels_of(make(home, home / 'labels.xlsx')) == LABELS


def test_without_openpyxl_excel_is_one_line(home, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openpyxl', None)
    (home / 'labels.xlsx').write_bytes(b'PK')
    line, = problems(home, capsys, home / 'labels.xlsx')
    assert 'labels.xlsx needs openpyxl (pip install -r requirements-own.txt); or save it as "CSV UTF-8"' in line


@pytest.mark.parametrize('namespace', ['', ' xmlns="http://example.org/voc"'])
def test_a_folder_of_voc_xml_is_read_with_and_without_a_namespace(home, namespace):
    (home / 'xml').mkdir()
    for name, labels in LABELS.items():
        objects = ''.join(f'<object><name>{label}</name><bndbox><xmin>1</xmin></bndbox></object>' for label in labels)
        (home / f'xml/{name}.xml').write_text(
            f'<annotation{namespace}><folder>old</folder><filename>{name}.jpg</filename>{objects}</annotation>')
    assert labels_of(make(home, home / 'xml')) == LABELS


@pytest.mark.parametrize('above', ['', 'birds/', 'split'])
def test_a_folder_per_class_may_be_nested_and_one_may_mean_no_class(home, capsys, above):
    counts = {'wren': 3, 'red kite': 3, 'Normal': 2}
    for label, count in counts.items():
        for number in range(count):
            parent = ('train/', 'valid/')[number % 2] if above == 'split' else above
            path = home / f'photos/{parent}{label}/{"deep/" * (number > 1)}{number}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            (home / 'photos/a.jpg').copy(path) if hasattr(path, 'copy') else path.write_bytes(
                (home / 'photos/a.jpg').read_bytes())
    spec = make(home)
    printed = capsys.readouterr().out
    found = labels_of(spec)
    assert spec.classes == ('red kite', 'wren') and len(found) == 8
    assert all(labels == [label for label in NAMES if f'/{label}/' in f'/{name}/'] for name, labels in found.items())
    assert 'these mean no class: Normal' in printed
    assert '6 images that the list lacks: a.jpg, b.jpg, c.jpg (and 3 more)' in printed
    if above == 'split':
        assert all(sample.name.startswith('valid/') for sample in spec.samples('val'))


def test_lists_of_roboflow_give_splits_by_their_folders(home, capsys):
    for name, labels in LABELS.items():
        folder = home / 'photos' / {'train': 'train', 'val': 'valid'}[SPLITS[name]]
        folder.mkdir(exist_ok=True)
        (home / f'photos/{name}.jpg').rename(folder / f'{name}.jpg')
        if not (folder / '_classes.csv').exists():
            (folder / '_classes.csv').write_text('filename, red kite, wren\n')
        with open(folder / '_classes.csv', 'a') as file:
            file.write(one_hot(f'{name}.jpg', labels) + '\n')
    spec = make(home, home / 'photos/train/_classes.csv', home / 'photos/valid/_classes.csv')
    assert labels_of(spec) == {f'{"valid" if SPLITS[n] == "val" else "train"}/{n}': ls for n, ls in LABELS.items()}
    assert [sample.name for sample in spec.samples('val')] == ['valid/b', 'valid/e']


@pytest.mark.parametrize('column, words', [('split', {'train': 'train', 'val': 'valid'}), ('set', {'train': 'Training',
                                           'val': 'validation'}), ('subset', {'train': 'TRAIN', 'val': 'val'})])
def test_a_column_of_splits_is_known_by_many_names(home, column, words):
    (home / 'l.csv').write_text(lines(f'image,labels,{column}', lambda n, ls: f'{n},{";".join(ls)},'
                                      f'{words[SPLITS[n[0]]]}'))
    spec = make(home, home / 'l.csv')
    assert [sample.name for sample in spec.samples('val')] == [name for name in LABELS if SPLITS[name] == 'val']


def test_val_is_held_out_where_only_train_and_test_are_named(home):
    (home / 'l.csv').write_text(lines('image,labels,split', lambda n, ls: f'{n},{";".join(ls)},'
                                      f'{"test" if n[0] in "ae" else "train"}'))
    spec = make(home, home / 'l.csv')
    assert {sample.name for sample in spec.samples('test')} == {'a', 'e'} and len(spec.samples('val')) == 1


@pytest.mark.parametrize('cells, separator', [
    (['cat;dog', 'dog'], ';'), (['cat;dog'], ';'), (['cat, dog', 'dog'], ','), (['cat|dog', 'cat|dog'], '|'),
    (['cat dog', 'dog', 'cat'], ' '), (['cat / dog', 'dog', 'cat'], '/'), (['red kite', 'wren', 'red kite'], 'none'),
    (['red kite; wren', 'red kite'], ';'), (['hot dog', 'cat', 'wren'], 'none'), (['n/a', 'cat', 'dog'], 'none'),
    (['salt & pepper', 'sugar'], 'none'), (["['red kite', 'wren']", "['wren']"], ',')])
def test_the_separator_is_the_one_that_makes_the_fewest_labels(cells, separator):
    log = Log()
    assert choose_separator(cells, Path('t.csv'), log) == separator and not log.problems
    assert len(log.notes) == (separator != 'none')


@pytest.mark.parametrize('cells, words', [
    (['cat dog', 'cat wren', 'dog wren'], "is 'cat dog' one label or several? --separator none or --separator ' '"),
    (['wren, kite', 'wren, kite'], "is 'wren, kite' one label or several?"),
    (['cat;dog', 'dog|wren', 'cat'], "labels are separated by ';', but 'dog|wren' holds another separator")])
def test_a_doubtful_separator_is_a_question(cells, words):
    log = Log()
    choose_separator(cells, Path('t.csv'), log)
    assert len(log.problems) == 1 and log.problems[0][1].startswith(words)


@pytest.mark.parametrize('first, second, alike', [
    ('Cat', 'cat', True), ('red_kite', 'Red kite', True), ('dogs', 'dog', True), ('boxes', 'box', True),
    ('berries', 'berry', True), ('type a', 'type b', False), ('class 1', 'class 10', False), ('dog', 'cow', False)])
def test_labels_that_look_alike(first, second, alike):
    assert (plain(first) == plain(second)) == alike


def test_labels_that_look_alike_are_a_question_until_the_user_answers(home, capsys):
    text = 'image,labels\na.jpg,dog\nb.jpg,dogs\nc.jpg,Cat\nd.jpg,cat;dog\ne.jpg,cat\nf.jpg,normal\n'
    (home / 'l.csv').write_text(text)
    found = problems(home, capsys, home / 'l.csv')
    assert sorted(line.partition(': ')[2] for line in found[:2]) == [
        '\'Cat\' (1 images) and \'cat\' (2) look alike: --merge "Cat=cat" if they are one class, '
        '--keep-labels if they are not',
        '\'dogs\' (1 images) and \'dog\' (2) look alike: --merge "dogs=dog" if they are one class, '
        '--keep-labels if they are not']
    assert len(found) == 3 and not (home / 'my.json').exists()
    spec = make(home, home / 'l.csv', '--merge', 'dogs=dog', 'Cat=cat', 'normal=none')
    assert spec.classes == ('cat', 'dog') and labels_of(spec)['f'] == []
    assert len(make(home, home / 'l.csv', '--keep-labels', '--val', '0.01').classes) == 5
    assert "--merge: 'bird' is not a label" in problems_of_merge(home, capsys)


def problems_of_merge(home, capsys):
    return error_lines(own.main, (home / 'photos', home / 'l.csv', '--out', home / 'new.json', '--merge', 'bird=cat'),
                       capsys)[0]


def test_words_that_mean_no_class_are_none_and_counted(home, capsys):
    (home / 'l.csv').write_text('image,labels\na.jpg,wren\nb.jpg,none\nc.jpg,N/A\nd.jpg,-\ne.jpg,nothing\nf.jpg,wren\n')
    spec = make(home, home / 'l.csv')
    assert spec.classes == ('wren',) and sum(map(len, labels_of(spec).values())) == 2
    assert 'no class: none (1 images), N/A (1 images), - (1 images), nothing (1 images)' in capsys.readouterr().out


def test_warnings_say_which_classes_cannot_be_learned(home, capsys):
    rows = [f'{name}.jpg,bird{";wren;nest" * (name in "abc")}\n' for name in LABELS]
    (home / 'l.csv').write_text('image,labels\n' + ''.join(rows))
    make(home, home / 'l.csv')
    printed = capsys.readouterr().out
    assert 'warning: every image shows bird: labels alone cannot tell where it is' in printed
    assert 'warning: nest, wren always occur in the same images, so they cannot be told apart' in printed
    assert 'warning: nest, wren: fewer than 5 images each' in printed


@pytest.mark.parametrize('name, content, problem', [
    ('l.csv', 'x,y\n1,2\n', 'has no column of images: its header is x, y'), ('l.csv', '', 'is empty'),
    ('l.csv', 'image,a,b\na.jpg,5,7\n', 'has no column of labels among image, a, b'),
    ('l.csv', 'image,wren,wren\na.jpg,1,1\n', "two columns 'wren'"), ('l.csv', 'image\na.jpg\n', 'no column of labels'),
    ('l.json', '{', 'is not valid JSON'),
    ('l.json', '{"samples": [{"filepath": "a.jpg"}]}', 'expected a table'), ('l.json', '[1, 2]', 'expected a table'),
    ('l.json', '[{"image": "a.jpg"}]', 'has no column of labels'),
    ('l.xml', '<annotations/>', 'has no <image> element'), ('l.xml', '<annotations', 'is not valid XML'),
    ('l.yaml', 'names: [wren]', 'is not a list of labels in a supported format'),
    ('l.json', coco(categories=[{'id': 1}]), 'lacks "name"'), ('none.csv', None, 'does not exist'),
    ('l.csv', b'\xff\xfeno text\x00', 'names no image')])
def test_a_list_of_another_form_is_one_line(home, capsys, name, content, problem):
    if content is not None:
        (home / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    line, = problems(home, capsys, home / name)
    assert line.startswith('error: ') and name in line and problem in line


def test_a_class_that_is_unknown_in_an_image_is_a_problem_not_a_column_left_out(home, capsys):
    (home / 'l.csv').write_text('image,wren,kite\na.jpg,1,0\nb.jpg,-1,1\n')
    assert "l.csv: column 'wren' holds -1, expected 0 or 1" in problems(home, capsys, home / 'l.csv')[0]


def test_annotations_of_images_that_are_not_listed_are_named(home, capsys):
    (home / 'l.json').write_text(coco(annotations=[{'id': 7, 'image_id': 99, 'category_id': 1}]))
    assert problems(home, capsys, home / 'l.json')[0] == \
        'l.json: annotation 7: names an image or a category that is not listed'


def test_tasks_without_annotations_are_left_out_and_counted(home, capsys):
    tasks = json.loads(label_studio())
    tasks[3]['annotations'] = []
    (home / 'l.json').write_text(json.dumps(tasks))
    assert labels_of(make(home, home / 'l.json')) == {name: ls for name, ls in LABELS.items() if name != 'd'}
    assert '1 images without a label yet: d.jpg' in capsys.readouterr().out
    tasks[0]['annotations'].append({'result': []})
    (home / 'l.json').write_text(json.dumps(tasks))
    assert 'task 0: has annotations that differ; keep one' in problems(home, capsys, home / 'l.json')[0]


def test_the_encoding_of_windows_is_read_and_named(home, capsys):
    (home / 'l.csv').write_bytes(lines('image,labels', lambda n, ls: f'{n},zaunkönig').encode('cp1252'))
    assert make(home, home / 'l.csv').classes == ('zaunkönig',)
    assert 'is not UTF-8 (byte ' in (text := capsys.readouterr().out) and 'read as Windows-1252' in text


def test_equal_names_in_different_folders_are_different_images(home):
    for name in 'xy':
        (home / f'photos/{name}').mkdir()
        Image.new('RGB', (40, 40)).save(home / f'photos/{name}/a.png')
    (home / 'l.csv').write_text('image,labels\nx/a.png,wren\ny/a.png,kite\na.jpg,wren\nb.jpg,kite\n')
    spec = make(home, home / 'l.csv')
    assert labels_of(spec) == {'x/a': ['wren'], 'y/a': ['kite'], 'a': ['wren'], 'b': ['kite']}
    assert InferSet(spec, 'train')[0]['image'].shape[2] == 3


def test_a_name_is_found_by_any_path_that_ends_alike_but_never_guessed(home):
    for path in ('x/one.jpg', 'y/one.jpg', 'x/two.jpg'):
        (home / 'photos' / path).parent.mkdir(exist_ok=True)
        (home / 'photos' / path).touch()
    photos = Folder(home / 'photos')
    assert photos.find('/data/old/x/one.jpg') == photos.find('x/one') == ['x/one.jpg'] == photos.find('./x/one.jpg')
    assert photos.find('one.jpg') == ['x/one.jpg', 'y/one.jpg'] and photos.find('two.jpg') == ['x/two.jpg']
    assert photos.find('z/two.jpg') == [] == photos.find('a.png')


@pytest.mark.parametrize('count', [20_000])
def test_many_wrong_names_and_labels_take_linear_time(home, count, capsys):
    text = 'image,labels\n' + ''.join(f'{n}.jpg,label{n % 200}\n' for n in range(count))
    (home / 'l.csv').write_text(text)
    found = problems(home, capsys, home / 'l.csv')
    assert len(found) == 102 and '... and 19900 more' in found and 'error: 20000 problems' in found[-1]
