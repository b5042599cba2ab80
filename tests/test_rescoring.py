"""An evaluation is repeated if and only if what it scores, or how, has changed; what is printed is saved already."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval as evaluation
from lib.files.imageio import write_label_png
from lib.run.record import read_scores
from tests.running import LOADED_HERE, error_line, place


@pytest.fixture
def scored(run_folder, toy, tmp_path):
    """(a finished run with its scores, its data; a function that scores and says whether that was a new score)."""
    shutil.copytree(run_folder, tmp_path / 'toy')
    shutil.copytree(toy.parent, tmp_path / 'data')

    common = (*place(tmp_path / 'data/dataset.json', tmp_path), *LOADED_HERE)

    def is_scored(*words):
        before = read_scores(tmp_path / 'toy/scores.json')
        evaluation.main([str(word) for word in (*common, *words)])
        after = read_scores(tmp_path / 'toy/scores.json')
        assert after[:len(before)] == before
        return len(after) - len(before)

    return tmp_path / 'toy', tmp_path / 'data', is_scored


def replace_mask(path):
    """Put another mask in the place of one, of as many bytes and with the same times."""
    stat, mask = path.stat(), np.array(Image.open(path))
    write_label_png(path, np.where(mask == mask.max(), 0, mask).astype(np.uint8))
    assert path.stat().st_size <= stat.st_size, 'fewer values cannot need more'
    content = path.read_bytes()
    path.write_bytes(content[:-12] + bytes(stat.st_size - len(content)) + content[-12:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize('what', ['cam', 'walk', 'seg'])
def test_the_same_is_not_scored_twice_wherever_it_is(scored, capsys, what):
    folder, _, is_scored = scored
    assert not is_scored('--what', what)
    assert 'scored before, 2' in capsys.readouterr().out
    kind = 'results/val' if what == 'seg' else f'labels/val/{what}'
    shutil.copytree(folder / kind, folder / 'copy')
    assert not is_scored('--what', what, '--labels', folder / 'copy', '--workers', '1')
    assert is_scored('--what', what, '--fresh')


@pytest.mark.parametrize('what', ['cam', 'walk'])
def test_the_strict_means_beside_are_those_of_the_strict_protocol(scored, what):
    folder, _, is_scored = scored
    assert is_scored('--what', what, '--limit', '2')
    assert is_scored('--what', what, '--limit', '2', '--protocol', 'strict')
    reference, strict = read_scores(folder / 'scores.json')[-2:]
    assert reference['absent'] == strict['absent'] != [] and 'strict' not in strict['results'][0]
    assert [result['strict'] for result in reference['results']] == [
        {key: result[key] for key in ('miou', 'contour_f')} for result in strict['results']]


def test_scores_of_earlier_versions_are_made_again(scored):
    folder, _, is_scored = scored
    path = folder / 'scores.json'
    path.write_text(json.dumps([{key: value for key, value in record.items() if key != 'absent'}
                                for record in json.loads(path.read_text())]))
    assert is_scored('--what', 'walk') and not is_scored('--what', 'walk')


def test_scoring_needs_no_torch(run_folder, toy, tmp_path):
    shutil.copytree(run_folder / 'labels/val/cam', tmp_path / 'toy/labels/val/cam')
    code = 'import sys, eval\neval.main(sys.argv[1:])\nsys.exit("torch" in sys.modules)'
    subprocess.run([sys.executable, '-c', code, *place(toy, tmp_path), '--workers', '1'],
                   cwd=Path(__file__).parent.parent, check=True)
    assert read_scores(tmp_path / 'toy/scores.json')


@pytest.mark.parametrize('words', [('--protocol', 'strict'), ('--split', 'train'), ('--background-score', '0.5'),
                                   ('--limit', '3')])
def test_other_settings_are_another_score(scored, words):
    _, _, is_scored = scored
    assert is_scored('--what', 'cam', *words) == (words[0] != '--split')       # both splits were scored
    assert not is_scored('--what', 'cam', *words)


def test_a_replaced_mask_or_prediction_of_equal_size_and_time_is_scored_again(scored):
    folder, data, is_scored = scored
    replace_mask(data / 'masks/val_00001.png')
    assert is_scored('--what', 'seg') and is_scored('--what', 'cam') and not is_scored('--what', 'seg')
    path = folder / 'results/val/val_00002.png'
    write_label_png(path, np.array(Image.open(path)) * 0)
    assert is_scored('--what', 'seg') and not is_scored('--what', 'cam')
    values = [record['results'][0]['miou'] for record in read_scores(folder / 'scores.json')
              if (record['what'], record['split']) == ('seg', 'val')]
    assert len(set(values)) == len(values) == 3


def test_no_score_is_repeated_under_other_class_names(scored, capsys):
    folder, data, is_scored = scored
    settings = json.loads((data / 'dataset.json').read_text())
    settings['classes'][0] = 'nut'
    (data / 'dataset.json').write_text(json.dumps(settings))
    labels = data / 'lists/labels.txt'
    labels.write_text(labels.read_text().replace('bolt', 'nut'))
    words = (*place(data / 'dataset.json', folder.parent), *LOADED_HERE, '--what', 'seg')
    assert 'was made for the classes bolt' in error_line(evaluation.main, words, capsys)
    for path in (folder / 'results/val').glob('*.png'):         # as files of another code, which name no classes
        write_label_png(path, np.array(Image.open(path)))
    assert is_scored('--what', 'seg') and not is_scored('--what', 'seg')
    assert read_scores(folder / 'scores.json')[-1]['classes'][:2] == ['background', 'nut']
    assert 'nut ' in capsys.readouterr().out


def test_a_score_is_saved_before_it_is_printed(scored, monkeypatch, capsys):
    folder, _, is_scored = scored

    def broken(*words, **settings):
        raise BrokenPipeError('no one listens')

    before = len(read_scores(folder / 'scores.json'))
    monkeypatch.setattr(evaluation, 'print', broken, raising=False)
    with pytest.raises(BrokenPipeError):
        is_scored('--what', 'seg', '--protocol', 'strict')
    assert len(read_scores(folder / 'scores.json')) == before + 1
    monkeypatch.undo()
    assert not is_scored('--what', 'seg', '--protocol', 'strict')
    assert 'scored before' in capsys.readouterr().out
