"""Disk that a run needs, against what the smallest run left."""
import dataclasses
import json

import pytest

from lib import disk
from lib.data.registry import get_spec


def sizes(folder, pattern):
    return sum(path.stat().st_size for path in folder.glob(pattern))


def test_networks_are_counted_to_a_few_kilobytes_a_tensor(toy, run_folder):
    rows = {row[:2]: row[2] for row in disk.estimate(get_spec(str(toy)), width=1 / 32, fov_channels=16)}
    for stage in ('cam', 'aff', 'seg'):
        for name in ('model.pth', 'last.pth'):
            found = (run_folder / stage / name).stat().st_size
            assert 0 < found - rows[f'train_{stage}', name] < 0.15e6, (stage, name)


def test_label_files_are_estimated_within_a_factor_of_two(toy, run_folder):
    rows = {row[1]: row[2] for row in disk.estimate(get_spec(str(toy)), 1 / 32, 16)}
    for what, pattern in (('CAMs of val', 'labels/val/cam/*.npz'), ('CAMs of train', 'labels/train/cam/*.npz'),
                          ('seeds of train', 'labels/train/seeds/*.npz'), ('labels of val', 'labels/val/walk/*.png'),
                          ('results of val', 'results/val/*.png')):
        found = sizes(run_folder, pattern)
        assert rows[what] / 2 < found < rows[what] * 2, what


def test_the_report_lists_the_stages_asked_for_and_their_sum(toy, capsys):
    disk.main(['--dataset', str(toy), '--stages', 'train_cam,infer_aff,table'])
    text = capsys.readouterr().out
    assert 'train_cam' in text and 'infer_aff' in text and 'train_seg' not in text
    assert text.splitlines()[-1].split()[:2] == ['in', 'all']


def test_images_shown_by_more_classes_need_more_disk(toy):
    count, pixels, shown = disk.split_size(get_spec(str(toy)), 'train')
    assert count == 12 and pixels < shown < 3 * pixels


def test_pictures_that_are_read_smaller_need_less(toy):
    spec = get_spec(str(toy))
    assert disk.split_size(dataclasses.replace(spec, max_side=32), 'train')[1] < disk.split_size(spec, 'train')[1] / 4


@pytest.mark.parametrize('preset', ['voc12', 'coco', 'toy', 'own'])
def test_every_preset_has_an_estimate(toy, tmp_path, capsys, preset):
    described = json.loads(toy.read_text()) | {'root': str(toy.parent), 'preset': preset}
    (tmp_path / 'dataset.json').write_text(json.dumps(described))
    disk.main(['--dataset', str(tmp_path / 'dataset.json'), '--lists', str(get_spec(str(toy)).lists)])
    assert 'train_seg  model.pth' in capsys.readouterr().out


def test_a_missing_image_is_named(toy, tmp_path):
    spec = get_spec(str(toy), tmp_path)
    with pytest.raises(FileNotFoundError, match='is missing'):
        disk.split_size(spec, 'train')
