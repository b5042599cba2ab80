"""What a run without masks says about its labels."""
import json

import numpy as np
import pytest

import eval as evaluation
from lib.data.labelio import read_image_probs, write_maps
from lib.data.registry import get_spec
from lib.files.imageio import read_mask, write_label_png
from lib.trust import FLOODED, ClassCheck, average_precision, check_classes, f1_score, warnings_of


def plain_average_precision(scores, truth):
    """For each positive: of the images that score as much or more, the fraction that are positive; then the mean."""
    return np.mean([truth[scores >= score].mean() for score in scores[truth]])


@pytest.mark.parametrize('seed', range(10))
def test_average_precision_is_the_textbook_one_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores, truth = rng.integers(0, 5, 30) / 5, rng.random(30) < 0.3
    truth[0] = True
    assert average_precision(scores, truth) == pytest.approx(plain_average_precision(scores, truth))


def test_perfect_and_useless_scores():
    truth = np.array([True, False, True, False])
    assert average_precision(np.array([0.9, 0.1, 0.8, 0.2]), truth) == 1
    assert average_precision(np.zeros(4), truth) == 0.5                 # the frequency
    assert f1_score(truth, truth) == 1 and f1_score(~truth, truth) == f1_score(truth & False, truth) == 0


@pytest.fixture
def folder(toy, tmp_path):
    """CAM files whose probabilities are the labels themselves, but for the first class; walks of the masks."""
    spec = get_spec(str(toy))
    samples = spec.samples('val')
    labels = spec.image_labels([sample.name for sample in samples])
    for sample, row in zip(samples, labels):
        probs = np.where(row, 0.9, 0.1)
        probs[0] = 0.5
        write_maps(tmp_path / f'labels/val/cam/{sample.name}.npz', [], np.zeros((0, 4, 4), np.float32), probs=probs)
        mask = read_mask(sample.mask, spec.num_classes)
        write_label_png(tmp_path / f'labels/val/walk/{sample.name}.png', np.where(row[1], 2, mask))
    return tmp_path


def test_classes_are_checked_from_the_files_of_a_run(folder, toy):
    spec = get_spec(str(toy))
    checks = check_classes(spec, 'val', folder)
    labels = spec.image_labels([sample.name for sample in spec.samples('val')])
    assert [check.name for check in checks] == list(spec.classes)
    for check, column in zip(checks, labels.T):
        assert check.frequency == pytest.approx(column.mean())
    assert checks[0].precision == pytest.approx(checks[0].frequency) and checks[0].f1 == 0
    assert all(check.precision == check.f1 == 1 for check in checks[1:] if check.frequency)
    assert checks[1].covered == 1 and 0 < checks[2].covered < FLOODED
    first, flooded = warnings_of(checks)
    assert first.startswith(f'{spec.classes[0]}: the classifier') and flooded.startswith(f'{spec.classes[1]}: labels')


def test_what_is_not_there_is_not_told(toy, tmp_path):
    spec = get_spec(str(toy))
    assert {check[2:] for check in check_classes(spec, 'val', tmp_path)} == {(None, None, None)}
    write_maps(tmp_path / 'old.npz', [], np.zeros((0, 4, 4), np.float32))
    assert read_image_probs(tmp_path / 'old.npz', 6) is None


def test_a_corrupt_cam_file_is_named(tmp_path):
    path = tmp_path / 'a.npz'
    write_maps(path, [], np.zeros((0, 4, 4), np.float32), probs=np.full(6, 0.5))
    assert read_image_probs(path, 6).tolist() == [0.5] * 6
    with pytest.raises(ValueError, match='a.npz holds probabilities'):
        read_image_probs(path, 7)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match='a.npz is corrupt or not a CAM file'):
        read_image_probs(path, 6)


def test_each_warning_says_what_to_try():
    good, weak = ClassCheck('good', 0.3, 0.9, 0.8, 0.2), ClassCheck('weak', 0.3, 0.31, 0, 0.2)
    everywhere, empty = ClassCheck('all', 1, 1, 1, 0.95), ClassCheck('none', 0.3, 0.9, 0.8, 0.001)
    assert warnings_of([good]) == []
    lines = warnings_of([good, weak, everywhere, empty])
    assert [line.split(':')[0] for line in lines] == ['weak', 'all', 'none']
    assert 'lower --alpha' in lines[1] and 'higher --alpha' in lines[2]


def test_own_data_without_masks_has_a_table(folder, toy, tmp_path, capsys):
    description = json.loads(toy.read_text()) | {'preset': 'own', 'name': 'mine'}
    del description['masks']
    for key in ('root', 'lists'):
        description[key] = str(toy.parent / description.get(key, '.'))
    (tmp_path / 'set.json').write_text(json.dumps(description))
    place = ['--exp', str(folder.parent), '--run', folder.name]
    evaluation.main(['--dataset', str(tmp_path / 'set.json'), *place, '--table'])
    out = capsys.readouterr().out
    assert out.lstrip().startswith('Without masks, on val') and 'average precision' in out and 'warning: ' in out
