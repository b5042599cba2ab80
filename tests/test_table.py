import re

import pytest

from lib.run.table import aligned, evaluation_text, summary_text

CLASSES = ['background', 'wren', 'red kite']


def result(miou, contour_f, **more):
    return {'miou': miou, 'contour_f': contour_f, 'iou': [90.0, miou, None], 'f': [contour_f, None], **more}


def record(what, split='val', protocol='reference', images=6, **values):
    results = [result(40.0, 30.0, threshold=0.25), result(50.5, 35.25, threshold=0.31, best='curve'),
               result(50.5, 35.25, threshold=0.31, best='published')] if what == 'cam' else [result(60.0, 45.0)]
    return {'what': what, 'dataset': 'birds', 'split': split, 'protocol': protocol, 'images': images,
            'classes': CLASSES, 'results': values.get('results', results), 'absent': values.get('absent', [])}


def row(text, name):
    return re.split(r'\s{2,}', next(line for line in text.splitlines() if line.startswith(name + '  ')))[1:]


def test_one_evaluation_says_what_split_protocol_and_threshold_it_is_of():
    text = evaluation_text(record('cam'))
    assert text.startswith('CAM of birds val, 6 images, protocol reference (void is ignored in IoU')
    assert row(text, 'CAM at 0.25') == ['40.00', '30.00']
    assert row(text, 'CAM at 0.31, best of 0.00 to 0.95') == ['50.50', '35.25']
    assert row(text, 'CAM at 0.31, best of 0.00 to 0.59 (published)') == ['50.50', '35.25']


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
    assert row(text, 'CAM, best of 0.00 to 0.95') == ['50.50', '35.25', '50.50', '35.25']
    assert row(text, 'random walk') == ['60.00', '45.00', '-', '-']
    assert row(text, 'segmentation') == ['-', '-', '60.00', '45.00']
    assert 'Images: 6 (val), 12 (train).' in text
    assert ('Thresholds selected on the ground truth (oracle), best of 0.00 to 0.95: 0.31 (val), 0.31 (train); '
            'best of 0.00 to 0.59 (published): 0.31 (val), 0.31 (train).') in text


def test_the_best_of_earlier_versions_is_that_of_the_published_thresholds():
    old = record('cam', results=[result(40.0, 30.0, threshold=0.25), result(50.5, 35.25, threshold=0.31, best=True)])
    assert row(summary_text([old], 'mine'), 'CAM, best of 0.00 to 0.59 (published)') == ['50.50', '35.25']
    assert 'best of 0.00 to 0.95' not in summary_text([old], 'mine') + evaluation_text(old)


@pytest.mark.parametrize('given, best, said', [((40.0, 0.25), (50.0, 0.95), True), ((60.0, 0.99), (50.0, 0.31), True),
                                               ((40.0, 0.25), (50.0, 0.94), False)])
def test_a_best_that_may_lie_beyond_the_curve_is_marked(given, best, said):
    of_cam = record('cam', results=[result(given[0], 1.0, threshold=given[1]),
                                    result(best[0], 1.0, threshold=best[1], best='curve')])
    for text in (evaluation_text(of_cam), summary_text([of_cam], 'mine')):
        assert ('the best threshold may lie beyond those of the curve, 0.00 to 0.95' in text) == said


def test_what_the_ground_truth_lacks_is_said_and_the_strict_figure_stands_beside():
    strict = result(30.0, 65.0, strict={'miou': 45.0, 'contour_f': 40.0})
    partial = record('walk', results=[strict], absent=['red kite'])
    for text in (evaluation_text(partial), summary_text([partial, record('seg', 'train')], 'mine')):
        assert 'the ground truth lacks 1 of 3 classes: each counts 0 in mIoU, and 100 in contour F unless' in text
        assert row(text, 'random walk')[:4] == ['30.00', '65.00', '45.00', '40.00']
    assert 'lacks 1 of 3 classes: they are left out' in evaluation_text({**partial, 'protocol': 'strict'})


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
