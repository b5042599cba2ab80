"""The report of a run: what is on the page, and that the page needs nothing else."""
import json
import re
import shutil

import numpy as np
import pytest

from lib.process.ending import run_script
from lib.report import __main__ as report
from lib.report.__main__ import read_stages, training_seconds
from lib.report.examples import choose, image_iou
from lib.run.chosen import FALLBACK
from tests.running import error_line, place


def written(data, exp, tmp_path, *words):
    out = tmp_path / 'report.html'
    report.main([*place(data, exp), '--out', str(out), *words])
    return out.read_text()


@pytest.fixture
def bare(toy, tmp_path):
    """The toy set without its masks."""
    shutil.copytree(toy.parent, tmp_path / 'bare')
    path = tmp_path / 'bare/dataset.json'
    description = json.loads(path.read_text())
    del description['masks']
    path.write_text(json.dumps(description))
    return path


def test_the_page_holds_scores_curves_images_and_costs(run_folder, toy, tmp_path):
    text = written(toy, run_folder.parent, tmp_path)
    for title in ('Run toy', 'Scores', 'Each class on val', 'CAM: mIoU over the background score', 'CAM training: loss',
                  'affinity training: loss', 'segmentation training: loss', 'best: IoU', 'median: IoU', 'worst: IoU',
                  'Training images, with their seeds', 'Time and disk', 'Commands and settings', 'fov_channels'):
        assert title in text, title
    for title in ('image', 'CAM', 'seeds', 'random walk', 'segmentation', 'ground truth'):
        assert f'<figcaption>{title}</figcaption>' in text, title
    scores = json.loads((run_folder / 'scores.json').read_text())
    assert f'<td>{scores[-1]["results"][0]["miou"]:.1f}</td>' in text


def test_the_page_needs_no_other_file_and_runs_nothing(run_folder, toy, tmp_path):
    text = written(toy, run_folder.parent, tmp_path)
    links = re.findall(r'(?:src|href|action|data)=["\']?([^"\'>]*)', text)
    assert len(links) > 20 and all(link.startswith('data:image/') for link in links)
    assert '<script' not in text and '@import' not in text and 'url(' not in text


def test_without_masks_there_are_images_and_several_thresholds_instead_of_scores(run_folder, bare, tmp_path):
    exp = tmp_path / 'exp'
    shutil.copytree(run_folder, exp / 'toy')
    (exp / 'toy/scores.json').unlink()
    text = written(bare, exp, tmp_path)
    assert '<h2>Scores</h2>' not in text and 'best: IoU' not in text and '<figcaption>ground truth' not in text
    assert 'CAM labels at several background scores' in text
    assert f'<figcaption>CAM at {FALLBACK:.2f}</figcaption>' in text
    assert '<figcaption>CAM at 0.40</figcaption>' in written(bare, exp, tmp_path, '--background-score', '0.4')


def test_the_page_says_whether_labels_look_right_and_how_to_use_the_model(run_folder, toy, tmp_path):
    text = written(toy, run_folder.parent, tmp_path)
    assert 'do the labels look right' in text and '<th>average precision</th>' in text and '<b>Check:</b>' in text
    assert f'infer_seg.py --checkpoint {run_folder}/seg/model.pth' in text


def test_a_run_that_has_only_begun_is_reported(run_folder, toy, tmp_path):
    exp = tmp_path / 'exp'
    shutil.copytree(run_folder / 'cam', exp / 'toy/cam')
    text = written(toy, exp, tmp_path)
    assert 'CAM training: loss' in text and 'random walk' not in text


def test_a_run_that_is_not_there_is_refused(toy, tmp_path, capsys):
    line = error_line(report.main, place(toy, tmp_path, 'none'), capsys)
    assert re.search('none has no outputs of a run on toy; give --run', line)


def test_a_run_on_another_data_set_is_refused_before_anything_is_printed(run_folder, capsys):
    words = ('--exp', run_folder.parent, '--run', 'toy')
    line = error_line(report.main, words, capsys)
    assert 'toy is not a run on voc12: its classes differ; give its --dataset' in line
    with pytest.raises(SystemExit):
        run_script(lambda: report.main([str(word) for word in words]))
    assert capsys.readouterr().out == ''


def test_names_with_html_in_them_are_shown_as_they_are(run_folder, toy, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(toy.parent, data)
    shutil.copytree(run_folder, tmp_path / 'exp/toy')
    for path in (data / 'dataset.json', data / 'lists/labels.txt', tmp_path / 'exp/toy/cam/env.json'):
        path.write_text(path.read_text().replace('star', '<b>star'))
    text = written(data / 'dataset.json', tmp_path / 'exp', tmp_path)
    assert '&lt;b&gt;star' in text and '<b>star' not in text


def test_classes_are_scored_at_the_chosen_score_if_there_is_one_else_at_the_best():
    def titles(*results):
        record = {'what': 'cam', 'split': 'val', 'protocol': 'strict', 'images': 1, 'classes': ['background', 'nut'],
                  'results': [{'miou': 50.0, 'contour_f': 50.0, 'iou': [50.0, 50.0], 'f': [50.0], **result}
                              for result in results]}
        (section,) = report.score_sections([record], 'val')
        return section['classes'][0][1:]
    best = {'threshold': 0.5, 'best': 'curve'}
    assert titles({'threshold': 0.4, 'chosen': True}, best)[0] == 'IoU, CAM at the chosen score'
    assert titles({'threshold': 0.25}, best)[0] == 'IoU, CAM, best of 0.00 to 0.95'
    assert titles({'threshold': 0.25})[0] == 'IoU, CAM at 0.25'
    assert titles() == []


def test_best_median_and_worst_are_those_by_iou(run_folder, toy):
    spec = report.get_spec(str(toy))
    reasons = list(choose(spec, 'val', run_folder, 3).values())
    values = [int(why.rpartition(' ')[2]) for why in reasons]
    assert [why.partition(':')[0] for why in reasons] == ['best', 'median', 'worst']
    assert values == sorted(values, reverse=True)
    ground_truth = np.array([[0, 0, 1, 255]], np.uint8)
    assert image_iou(ground_truth, np.array([[0, 1, 1, 2]], np.uint8), 3) == 50
    assert image_iou(ground_truth, ground_truth, 3) == 100


def test_time_is_without_breaks_and_unknown_before_the_end():
    log = '2026-01-01 10:00:00 started a\n2026-01-01 10:01:00 finished 5 steps\n'
    assert training_seconds(log) == 60
    assert training_seconds(log + '2026-01-01 11:00:00 started a\n') is None
    assert training_seconds(log + '2026-01-01 12:00:00 resumed after step 5: a\n'
                            '2026-01-01 12:00:30 finished 9 steps\n') == 90
    assert training_seconds('') is None


def test_stages_have_time_disk_and_steps(run_folder, toy):
    stages = {stage.title: stage for stage in read_stages(run_folder, report.get_spec(str(toy)))}
    assert stages['CAM training'].metrics[-1]['step'] == 4 and stages['CAM training'].size > 10_000
    assert stages['random walk of val'].seconds is not None and stages['segmentations of train'].environment['args']
