"""No command overwrites or removes what it did not write, nor an input of its own; a re-run replaces its own output."""
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import voc12.prepare
from benchmarks import compare
from lib.data import toy
from lib.data.registry import read_spec
from lib.files.fileio import refuse_inputs, write_lists
from lib.own import __main__ as own
from lib.process.ending import run_script
from lib.report import __main__ as report
from tests.running import place
from tests.test_voc_prepare import tree  # noqa: F401  (a fixture)

TABLE = [{'image': f'{name}.png', 'labels': [label]} for name, label in zip('abcd', ('kite', 'wren') * 2)]
HAND_WRITTEN = '{"name": "mine", "classes": ["a"], "images": "{}.jpg"}'
PAGE = '<!DOCTYPE html>\n<html><head><title>My page</title></head></html>'


@pytest.fixture
def home(tmp_path):
    """photos/ and masks/ with four images each, and their table in JSON."""
    for number, name in enumerate('abcd'):
        for folder in ('photos', 'masks'):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.full((20, 30), number % 2 + 1, np.uint8)).save(tmp_path / f'{folder}/{name}.png')
    (tmp_path / 'labels.json').write_text(json.dumps(TABLE))
    return tmp_path


@pytest.fixture
def commands(home, run_folder, toy, tree, monkeypatch):  # noqa: F811
    """Every command that writes to a place of the user's choice: name -> function of that place."""
    monkeypatch.setattr(compare, 'run_part', lambda part, device: {
        'values': {}, 'seconds': {}, 'agreement': {}, 'bytes': {}, 'threads': 1, 'torch': 'x', 'gpu': None,
        'processor': 'x'})
    monkeypatch.setattr(compare, 'gather', lambda reports: next(iter(reports.values())))
    monkeypatch.setattr(compare, 'table', lambda result: '')
    run = place(toy, run_folder.parent)
    words = {'lib.own': (own.main, home / 'photos', home / 'labels.json', '--out'),
             'lib.data.toy': (make_toy, '--out'),
             'lib.report': (report.main, *run, '--count', '3', '--out'),
             'voc12.prepare': (voc12.prepare.main, '--data-root', tree, '--lists'),
             'benchmarks/compare.py': (compare.main, '--device', 'cpu', '--parts', 'walk', '--json')}
    return {name: lambda out, main=main, words=words: scripted(main, [*map(str, words), str(out)])
            for name, (main, *words) in words.items()}


def make_toy(words):
    toy.main([*words, '--train', '2', '--val', '1'])


def scripted(main, words):
    """The exit status that a script has in the shell."""
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: main(words))
    return stop.value.code or 0


def contents(folder):
    return {path: os.readlink(path) if path.is_symlink() else path.read_bytes()
            for path in sorted(folder.rglob('*')) if path.is_symlink() or path.is_file()}


@pytest.mark.parametrize('command, out, foreign, content', [
    ('lib.own', 'labels.json', 'labels.json', None),
    ('lib.own', 'photos/../labels.json', 'labels.json', None),
    ('lib.own', 'out/my.json', 'out/my.json', HAND_WRITTEN),
    ('lib.own', 'out/my.json', 'out/my.json', '{"made_by": "lib.data.toy", "prepare": "x"}'),
    ('lib.own', 'out/my.json', 'out/my.json', 'not JSON'),
    ('lib.data.toy', 'out', 'out/dataset.json', HAND_WRITTEN),
    ('lib.data.toy', 'out', 'out/images/train_00001.jpg', 'a photo'),
    ('lib.data.toy', 'out', 'out/masks/val_00000.png', 'a mask'),
    ('lib.data.toy', 'out', 'out/lists/train.txt', 'a\nb\n'),
    ('lib.report', 'index.html', 'index.html', PAGE),
    ('lib.report', 'labels.json', 'labels.json', None),
    ('voc12.prepare', 'out', 'out/train_aug.txt', 'mine\n'),
    ('voc12.prepare', 'out', 'out/labels.txt', 'mine\tcat\n'),
    ('voc12.prepare', 'VOC2012/ImageSets/Segmentation', 'VOC2012/ImageSets/Segmentation/train.txt', None),
    ('benchmarks/compare.py', 'labels.json', 'labels.json', None)])
@pytest.mark.parametrize('linked', [False, True])
def test_a_file_that_the_command_did_not_write_stays_and_is_named(commands, home, capsys, command, out, foreign,
                                                                  content, linked):
    path = home / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_text(content)
    if linked:
        path.rename(home / f'real{path.suffix}')
        path.symlink_to(home / f'real{path.suffix}')
    before = contents(home)
    capsys.readouterr()
    assert commands[command](home / out) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
    assert len(lines) == 1 and path.name in lines[0].replace('real', path.stem), lines
    assert contents(home) == before


@pytest.mark.parametrize('command, out', [
    ('lib.own', 'out/my.json'), ('lib.own', 'photos/my.json'), ('lib.data.toy', 'out'),
    ('lib.report', 'out/page.html'), ('voc12.prepare', 'out'), ('benchmarks/compare.py', 'out.json')])
def test_a_second_call_replaces_its_own_output_and_nothing_else(commands, home, command, out):
    before = contents(home)
    assert commands[command](home / out) == 0
    first = contents(home)
    assert first.items() > before.items()
    assert commands[command](home / out) == 0
    assert contents(home).keys() == first.keys() and contents(home).items() > before.items()


def test_an_empty_file_is_nobodys(commands, home):
    (home / 'page.html').touch()            # as mktemp leaves it
    assert commands['lib.report'](home / 'page.html') == 0 and (home / 'page.html').stat().st_size


@pytest.mark.parametrize('spelling', ['a.png', 'sub/../a.png', 'link.png', 'linked/a.png', 'folder'])
def test_an_output_that_is_an_input_is_refused_in_any_spelling(tmp_path, spelling):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'a.png').write_text('a photo')
    (tmp_path / 'link.png').symlink_to('a.png')
    (tmp_path / 'linked').symlink_to(tmp_path)
    (tmp_path / 'folder').symlink_to(tmp_path / 'sub')
    with pytest.raises(ValueError, match='is an input of this command'):
        refuse_inputs([tmp_path / 'new.png', tmp_path / spelling], [tmp_path / 'a.png', tmp_path / 'sub'])
    others = [tmp_path / name for name in ('new.png', 'b.png', 'sub/a.png')]
    refuse_inputs(others, [tmp_path / 'a.png', tmp_path / 'sub'])


def test_lists_of_the_same_content_stay_and_others_are_refused_before_any_is_written(tmp_path):
    write_lists(tmp_path, {'a.txt': 'x\n'}, 'voc12.prepare')
    time = (tmp_path / 'a.txt').stat().st_mtime_ns
    write_lists(tmp_path, {'a.txt': 'x\n', 'b.txt': 'y\n'}, 'voc12.prepare')
    assert (tmp_path / 'a.txt').stat().st_mtime_ns == time
    with pytest.raises(ValueError, match='b.txt exists and differs from .*; delete it, or choose another --lists'):
        write_lists(tmp_path, {'c.txt': '', 'b.txt': 'z\n'}, 'voc12.prepare')
    assert contents(tmp_path) == {tmp_path / 'a.txt': b'x\n', tmp_path / 'b.txt': b'y\n'}


def test_a_link_to_a_set_stays_a_link(commands, home):
    commands['lib.own'](home / 'my.json')
    (home / 'sub').mkdir()
    (home / 'sub/link.json').symlink_to(home / 'my.json')
    assert commands['lib.own'](home / 'sub/link.json') == 0
    assert (home / 'sub/link.json').is_symlink() and not (home / 'sub/link_lists').exists()
    read_spec(home / 'my.json').check('train')


def state(path):
    """All that a set says: classes, and names and labels by split."""
    spec = read_spec(path)
    splits = {split: [sample.name for sample in spec.samples(split)] for split in ('train', 'val')}
    return spec.classes, splits, {split: spec.image_labels(names).tolist() for split, names in splits.items()}


def test_a_set_broken_off_anywhere_is_old_or_incomplete_and_finished_by_the_same_call(commands, home, monkeypatch):
    make, path, replace = commands['lib.own'], home / 'my.json', os.replace
    make(path)
    old, new_table = state(path), [{'image': row['image'], 'labels': ['owl']} for row in TABLE]
    (home / 'labels.json').write_text(json.dumps(new_table))
    left = [0]

    def breaks_off(*words):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(*words)

    monkeypatch.setattr(os, 'replace', breaks_off)
    for number in range(9):
        left[0] = number
        if make(path) == 0:
            break
        try:
            assert state(path) == old
        except (FileNotFoundError, ValueError) as error:        # a list is missing, or names a class that is new
            assert 'my_lists' in str(error)
    assert number >= 4 and state(path)[0] == ('owl',)
    assert {file.name for file in (home / 'my_lists').iterdir()} == {'train.txt', 'val.txt', 'labels.txt'}


def test_lists_that_were_edited_are_neither_overwritten_nor_removed(commands, home, capsys):
    make, path = commands['lib.own'], home / 'my.json'
    make(path)
    edited = read_spec(path).lists / 'train.txt'
    edited.write_text('/photos/a.png\n')
    assert make(path) == 2 and 'train.txt was edited' in capsys.readouterr().err
    assert edited.read_text() == '/photos/a.png\n' and path.exists()


def test_a_toy_set_broken_off_anywhere_is_finished_alike(home, monkeypatch):
    out, replace = home / 'toy', os.replace
    make_toy(['--out', str(home / 'whole')])
    left = [0]

    def breaks_off(*words):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(*words)

    monkeypatch.setattr(os, 'replace', breaks_off)
    for number in range(20):
        left[0] = number
        shutil.rmtree(out, ignore_errors=True)
        try:
            make_toy(['--out', str(out)])
            break
        except KeyboardInterrupt:
            assert not (out / 'lists/val.txt').exists()
            left[0] = 100
            make_toy(['--out', str(out)])
        names = {path.relative_to(out) for path in contents(out)} - {(out / 'dataset.json').relative_to(out)}
        assert all((out / name).read_bytes() == (home / 'whole' / name).read_bytes() for name in names)
        assert len(names) == 3 * 2 + 3
    assert number >= 9


def test_fresh_leaves_the_users_files_among_the_toy_images(home):
    make_toy(['--out', str(home / 'toy')])
    for name in ('images/mine.jpg', 'masks/mine.png', 'lists/mine.txt', 'images/train_00005.jpg'):
        (home / 'toy' / name).write_text('mine')
    toy.main(['--out', str(home / 'toy'), '--train', '1', '--val', '1', '--fresh'])
    assert all((home / 'toy' / name).read_text() == 'mine' for name in (
        'images/mine.jpg', 'masks/mine.png', 'lists/mine.txt', 'images/train_00005.jpg'))
    assert not (home / 'toy/images/train_00001.jpg').exists()
