import re

import pytest

from lib.run.table import aligned, evaluation_text, summary_text

CLASSES = ['background', 'wren', 'red kite']


def result(miou, contour_f, **more):
    return {'miou': miou, 'contour_f': contour_f, 'iou': [90.0, miou, None], 'f': [contour_f, None], **more}


def record(what, split='val', protocol='reference', images=6, **values):
    results = [result(40.0, 30.0, threshold=0.25), result(50.5, 35.25, threshold=0.31, best=True)] \
        if what == 'cam' else [result(60.0, 45.0)]
    return {'what': what, 'dataset': 'birds', 'split': split, 'protocol': protocol, 'images': images,
            'classes': CLASSES, 'results': values.get('results', results)}


def row(text, name):
    return re.split(r'\s{2,}', next(line for line in text.splitlines() if line.startswith(name + '  ')))[1:]


def test_one_evaluation_says_what_split_protocol_and_threshold_it_is_of():
    text = evaluation_text(record('cam'))
    assert text.startswith('CAM of birds val, 6 images, protocol reference (void left out of IoU')
    assert row(text, 'CAM at 0.25') == ['40.00', '30.00']
    assert row(text, 'CAM at 0.31, the best of 60 thresholds') == ['50.50', '35.25']


def test_classes_have_a_line_each_and_what_is_undefined_a_dash():
    text = evaluation_text(record('walk'))
    assert row(text, 'class') == ['IoU', 'F']
    assert [row(text, name) for name in CLASSES] == [['90.00', '-'], ['60.00', '45.00'], ['-', '-']]
    both = evaluation_text(record('cam'))
    assert row(both, 'class') == ['IoU at 0.25', 'F at 0.25', 'IoU at 0.31', 'F at 0.31']
    assert row(both, 'wren') == ['40.00', '30.00', '50.50', '35.25']


def test_summary_has_a_line_a_stage_and_a_pair_of_columns_a_split():
    records = [record('cam'), record('cam', 'train', images=12), record('walk'), record('seg', 'train', images=12)]
    text = summary_text(records, 'mine')
    assert text.startswith('Run mine, protocol reference (')
    assert row(text, 'percent') == ['val mIoU', 'val contour F', 'train mIoU', 'train contour F']
    assert row(text, 'CAM at 0.25') == ['40.00', '30.00', '40.00', '30.00']
    assert row(text, 'CAM at best threshold') == ['50.50', '35.25', '50.50', '35.25']
    assert row(text, 'random walk') == ['60.00', '45.00', '-', '-']
    assert row(text, 'segmentation') == ['-', '-', '60.00', '45.00']
    assert ('Images: 6 (val), 12 (train). Best thresholds, selected on the ground truth (oracle): 0.31 (val), '
            '0.31 (train).') in text


def test_the_newest_score_of_a_kind_counts():
    text = summary_text([record('walk'), record('walk', results=[result(70.0, 50.0)])], 'mine')
    assert row(text, 'random walk') == ['70.00', '50.00']


def test_protocols_are_never_mixed():
    text = summary_text([record('walk'), record('walk', protocol='strict', results=[result(70.0, 50.0)])], 'mine')
    reference, strict = text.split('Run mine, protocol strict')
    assert row(reference, 'random walk') == ['60.00', '45.00'] and row(strict, 'random walk') == ['70.00', '50.00']


def test_scores_over_different_numbers_of_images_are_told_apart():
    text = summary_text([record('cam', images=6), record('walk', images=2)], 'mine')
    assert 'Images: 2 or 6 (val).' in text


def test_a_run_without_scores_says_how_to_make_them():
    with pytest.raises(ValueError, match='run mine has no scores yet; make some with eval.py'):
        summary_text([], 'mine')


def test_columns_are_aligned_whatever_their_cells():
    lines = aligned([['name', 'a', 'long title'], ['a long name', '1.00', '2'], ['b', '-', '3.50']])
    assert lines == ['name            a  long title', '-' * 29,
                     'a long name  1.00           2', 'b               -        3.50']
