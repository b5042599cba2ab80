"""Images and masks that cannot be decoded: named and refused, or left out by every stage and counted.

The images of the set have equal names in different folders, so all stages have to mirror the folders.
"""
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import eval as evaluation
import infer_aff
import infer_cam
import infer_seg
import train_aff
import train_cam_voc
import train_seg
from lib.data.checks import label_pairs
from lib.data.datasets import CamTrainSet, InferSet
from lib.data.files import FileSet
from lib.data.labelio import read_seeds, write_seeds
from lib.data.registry import read_spec
from lib.files.imageio import Corrupt, corrupt_images
from lib.process.ending import run_script
from lib.report import __main__ as report
from lib.run.options import base_parser
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, error_line, place

SKIP = ('--on-corrupt', 'skip')
DEEP, CUT, MASK = 'train/00004', 'val/00001', 'val/00003'


def spoil_inside(path):
    """Make a JPEG corrupt in a way that only decoding it shows."""
    content = bytearray(path.read_bytes())
    table = content.index(b'\xff\xc4') + 5                  # the lengths of the first Huffman code
    content[table:table + 16] = b'\xff' * 16
    path.write_bytes(content)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.fixture(scope='module')
def spoilt(toy, tmp_path_factory):
    """The toy set in subfolders with a corrupt image in either split, and a corrupt mask. Not to be changed."""
    folder = tmp_path_factory.mktemp('spoilt') / 'data'
    shutil.copytree(toy.parent, folder)
    for path in [*folder.glob('images/*.jpg'), *folder.glob('masks/*.png')]:
        split, name = path.name.split('_')
        (path.parent / split).mkdir(exist_ok=True)
        path.rename(path.parent / split / name)
    for split in ('train', 'val'):
        names = sorted(path.stem for path in (folder / 'images' / split).iterdir())
        (folder / f'lists/{split}.txt').write_text(''.join(f'/images/{split}/{name}.jpg\n' for name in names))
    labels = folder / 'lists/labels.txt'
    labels.write_text(labels.read_text().replace('_', '/'))
    spoil_inside(folder / f'images/{DEEP}.jpg')
    cut_off(folder / f'images/{CUT}.jpg')
    cut_off(folder / f'masks/{MASK}.png')
    return folder / 'dataset.json'


def refusal(script, words, capsys):
    """The error line of a script; there may be a progress bar above."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match='2'):
        run_script(lambda: script.main(list(words)))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('error: ')
    return line


def stages(data, exp):
    """(script, its words) of a whole run."""
    common = (*place(data, exp), *LOADED_HERE)
    training = (*common, '--weights', 'none', '--picture-every', '2', '--batch-size', '3')
    infer = [(split, ('--split', split)) for split in ('val', 'train')]
    return [(train_cam_voc, (*CAM_TRAINING, *training)),
            *((infer_cam, (*common, *NETWORK, *SCALES, *words)) for _, words in infer),
            (train_aff, (*TRAINING, *training)),
            *((infer_aff, (*common, *NETWORK, *words)) for _, words in infer),
            (train_seg, (*TRAINING, *HEAD, *training)),
            *((infer_seg, (*common, *NETWORK, *HEAD, *SCALES, *words)) for _, words in infer),
            *((evaluation, (*common, '--what', what, *words)) for what in ('cam', 'walk', 'seg') for _, words in infer),
            (report, common)]


@pytest.fixture(scope='module')
def finished(spoilt, tmp_path_factory):
    """The experiments' folder of a run of all stages that left out what is corrupt."""
    exp = tmp_path_factory.mktemp('exp')
    for script, words in stages(spoilt, exp):
        script.main([*words, *SKIP])
    return exp


def test_every_stage_leaves_out_the_same_images(finished):
    for split, count, name in (('train', 12, DEEP), ('val', 6, CUT)):
        for folder in (f'labels/{split}/cam', f'labels/{split}/seeds', f'labels/{split}/walk', f'results/{split}'):
            found = {f'{split}/{path.stem}' for path in (finished / 'toy' / folder).glob(f'{split}/[!.]*.*')}
            assert len(found) == count - 1 and name not in found, folder


def test_scores_say_how_many_were_left_out(finished, spoilt, capsys):
    records = json.loads((finished / 'toy/scores.json').read_text())
    assert {record['split']: (record['images'], record['left_out']) for record in records} == {
        'val': (4, [CUT, MASK]), 'train': (11, [DEEP])}
    assert all(result['images'] == record['images'] for record in records for result in record['results'])
    evaluation.main([*place(spoilt, finished), '--table'])
    lines = [line for line in capsys.readouterr().out.splitlines() if 'skipped' in line and line.startswith('val')]
    assert lines == [f'val: skipped 2 of 6 images as corrupt: {CUT}, {MASK}']


def test_without_the_flag_every_stage_names_the_file_and_the_flag(finished, spoilt, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / 'exp')
    for script, words in stages(spoilt, tmp_path / 'exp'):
        if script is report:
            continue
        line = refusal(script, words, capsys)
        assert 'skip it with --on-corrupt skip' in line, (script, line)
        assert any(f'{name}.' in line for name in (DEEP, CUT, MASK)), (script, line)


@pytest.mark.parametrize('script, words', [
    (evaluation, ('--what', 'seg')),
    (train_seg, (*TRAINING, *HEAD, '--weights', 'none', '--picture-every', '1', '--run', 'other', '--labels'))])
def test_a_corrupt_mask_alone_is_named_before_training_and_in_scoring(run_folder, toy, tmp_path, capsys, script, words):
    shutil.copytree(toy.parent, tmp_path / 'data')
    cut_off(tmp_path / 'data/masks/val_00003.png')
    shutil.copytree(run_folder, tmp_path / 'exp/toy')
    words = [*words, str(run_folder / 'labels/train/walk')] if script is train_seg else words
    where = place(tmp_path / 'data/dataset.json', tmp_path / 'exp')
    if script is evaluation:                                        # the score is kept, but not given out for another
        script.main([*where, *LOADED_HERE, *words, *SKIP])
    line = refusal(script, (*where, *LOADED_HERE, *words), capsys)
    assert 'val_00003.png' in line and 'skip it with --on-corrupt skip' in line
    assert not (tmp_path / 'exp/other/seg/metrics.jsonl').exists()


@pytest.mark.parametrize('folder, script, words', [
    ('labels/train/seeds', train_aff, (*TRAINING, '--weights', 'none')),
    ('labels/train/cam', infer_aff, (*NETWORK, '--split', 'train')),
    ('labels/train/walk', train_seg, (*TRAINING, *HEAD, '--weights', 'none')),
    ('results/train', evaluation, ('--what', 'seg', '--split', 'train'))])
def test_a_missing_file_of_a_sound_image_stays_an_error(finished, spoilt, tmp_path, capsys, folder, script, words):
    shutil.copytree(finished, tmp_path / 'exp')
    missing, = (tmp_path / 'exp/toy' / folder).glob('train/00007.*')
    missing.unlink()
    line = error_line(script.main, (*place(spoilt, tmp_path / 'exp'), *LOADED_HERE, *words, *SKIP), capsys)
    assert 'train/00007.' in line and 'lacks' in line and DEEP not in line


def test_a_missing_image_or_mask_is_not_a_corrupt_one(finished, spoilt, tmp_path, capsys):
    shutil.copytree(spoilt.parent, tmp_path / 'data')
    words = (*place(tmp_path / 'data/dataset.json', finished), *LOADED_HERE, *SKIP)
    (tmp_path / f'data/masks/{MASK}.png').unlink()
    assert f'{MASK}.png' in error_line(evaluation.main, (*words, '--what', 'seg'), capsys)
    (tmp_path / f'data/images/{CUT}.jpg').unlink()
    corrupt_images.cache_clear()            # in a process of its own it is empty
    words = (*words, *NETWORK, '--split', 'val', '--checkpoint', str(finished / 'toy/cam/model.pth'))
    line = error_line(infer_cam.main, (*words, '--exp', str(tmp_path / 'exp')), capsys)
    assert f'{CUT}.jpg' in line and 'not exist' in line


@pytest.mark.parametrize('spoil', [cut_off, spoil_inside])
def test_where_everything_is_corrupt_nothing_goes_on(toy, tmp_path, spoil):
    shutil.copytree(toy.parent, tmp_path / 'data')
    for path in (tmp_path / 'data/images').iterdir():
        spoil(path)
    spec = replace(read_spec(tmp_path / 'data/dataset.json'), on_corrupt='skip')
    files = [*(tmp_path / 'data/images').iterdir()]
    for read in (lambda: InferSet(spec, 'val'), lambda: label_pairs(spec, 'val', tmp_path),
                 lambda: CamTrainSet(spec, 'train'), lambda: FileSet(files, on_corrupt='skip')):
        with pytest.raises(ValueError, match='all .*images.* are corrupt'):
            read()


def test_single_files_that_are_corrupt_are_left_out(finished, spoilt, tmp_path, capsys):
    words = ('--checkpoint', str(finished / 'toy/seg/model.pth'), '--images', str(spoilt.parent / 'images/val/*'),
             '--out', str(tmp_path / 'out'), *LOADED_HERE, *NETWORK, *SCALES)
    assert '00001.jpg is not a readable image' in error_line(infer_seg.main, words, capsys)
    infer_seg.main([*words, *SKIP])
    assert len(list((tmp_path / 'out').glob('0*.png'))) == 5
    assert 'skipped 1 images of --images as corrupt: 00001' in capsys.readouterr().out


@pytest.mark.parametrize('error', [PermissionError(13, 'Permission denied'), OSError(24, 'Too many open files'),
                                   OSError(5, 'Input/output error')])
def test_what_the_system_refuses_is_not_corrupt(spoilt, monkeypatch, error):
    def fails(*_):
        raise error
    monkeypatch.setattr('PIL.Image.open', fails)
    with pytest.raises(OSError, match=f'a.jpg cannot be read .{error.strerror}'):
        corrupt_images((Path('a.jpg'),))


def test_the_former_flag_is_a_hidden_alias(capsys):
    parser = base_parser('A script.')
    assert parser.parse_args([]).on_corrupt == 'error'
    assert [parser.parse_args(['--damaged', word]).on_corrupt for word in ('stop', 'skip')] == ['error', 'skip']
    assert '--damaged' not in parser.format_help() and '--on-corrupt' in parser.format_help()


@pytest.fixture
def seeds(run_folder, tmp_path):
    """Seeds of all images, the corrupt ones too, that do not say what they were made from."""
    for path in (run_folder / 'labels/train/seeds').glob('*.npz'):
        write_seeds(tmp_path / 'seeds' / path.name.replace('_', '/'), *read_seeds(path))
    return tmp_path / 'seeds'


@pytest.mark.parametrize('workers', ['0', '1'])
def test_training_stops_or_goes_on_without_the_image_and_names_it(seeds, spoilt, tmp_path, capsys, workers):
    words = [*place(spoilt, tmp_path), *TRAINING, '--weights', 'none', '--seed-dir',
             str(seeds), '--workers', workers, '--picture-every', '0']
    with pytest.raises(Corrupt, match=r'train/00004\.jpg is not a readable'):
        train_aff.main([*words, '--run', 'stops'])
    train_aff.main([*words, *SKIP])
    assert f'skipped 1 images of train as corrupt: {DEEP}' in capsys.readouterr().out
    assert (tmp_path / 'toy/aff/model.pth').exists()


def test_a_script_that_met_a_corrupt_image_ends(seeds, spoilt, tmp_path):
    words = [*place(spoilt, tmp_path), *TRAINING, '--weights', 'none', '--seed-dir',
             str(seeds), '--workers', '1', '--picture-every', '0']
    done = subprocess.run([sys.executable, 'train_aff.py', *words], capture_output=True, text=True, timeout=120,
                          cwd=Path(__file__).parent.parent)
    assert done.returncode == 2 and 'error: ' in done.stderr and 'train/00004.jpg' in done.stderr


def test_what_was_made_of_an_image_before_it_was_corrupt_does_not_stop_those_who_leave_it_out(
        run_folder, toy, tmp_path, capsys):
    shutil.copytree(run_folder, tmp_path / 'exp/toy')
    shutil.copytree(toy.parent, tmp_path / 'data')
    spoil_inside(tmp_path / 'data/images/train_00004.jpg')
    words = (*place(tmp_path / 'data/dataset.json', tmp_path / 'exp'), *LOADED_HERE)
    training = (*words, *TRAINING, '--weights', 'none', '--run', 'new', '--seed-dir',
                str(tmp_path / 'exp/toy/labels/train/seeds'))
    assert 'train_00004.npz was made from another version of its image' in error_line(
        train_aff.main, training, capsys)
    for script, more in ((infer_cam, (*NETWORK, *SCALES, '--split', 'train')), (train_aff, training)):
        script.main([*words, *more, *SKIP])
        assert not list((tmp_path / 'exp/toy/labels/train').glob('*/train_00004.npz'))
    assert (tmp_path / 'exp/new/aff/model.pth').exists()
