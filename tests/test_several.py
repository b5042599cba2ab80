"""Scores of several runs: groups, pairs, means and deviations, and what differs between the runs."""
import json

import pytest

import eval as evaluation
from lib.files.jsonfile import write_json
from lib.report import __main__ as report
from lib.run.several import compare
from tests.running import error_line, score_record


def write_run(exp, run, best, fixed, contour, truth='t', **settings):
    """A run with CAM scores and the record of its training."""
    results = [{'threshold': at, 'miou': miou, 'contour_f': f, 'iou': [miou] * 3, 'f': [f, f], **more}
               for at, miou, f, more in ((0.25, fixed, contour, {}), (0.4, best, 0.0, {'best': 'curve'}))]
    write_json(exp / run / 'scores.json', [
        score_record(what='cam', protocol='reference', results=results[:1], inputs={'ground_truths': 'old'}),
        score_record(what='cam', protocol='reference', results=results, inputs={'ground_truths': truth})])
    write_json(exp / run / 'cam/env.json', {'settings': settings, 'inputs': {'images': '1', 'seeds': run},
                                            'git': 'abc', 'cpu': 'x'})


def rows(table):
    return {name: list(row.values()) for name, row in table.rows.items()}


@pytest.fixture
def seeds(tmp_path):
    """Plain runs of seeds 1, 2 and 10, others of seeds 2, 10 and 3."""
    for seed, shift in ((1, 0), (2, 2), (10, 4)):
        write_run(tmp_path, f'seam-{seed}', 40 + shift, 30 + shift, 10, seed=seed, isl_weight=0.0)
    for seed, shift in ((2, 3), (10, 5), (3, 9)):
        write_run(tmp_path, f'both-{seed}', 43 + shift, 29.5 + shift, 10 + shift, seed=seed, isl_weight=0.2)
    return tmp_path


def test_a_group_has_means_and_sample_deviations(seeds):
    found = compare(seeds, ['seam-*'])
    assert found.groups == ['A: seam-* (3: seam-1, seam-2, seam-10)']
    table, = found.tables
    assert table.title.startswith('protocol reference (')
    assert rows(table) == {'val mIoU: CAM at 0.25': ['32.00 ± 2.00'], 'val contour F: CAM at 0.25': ['10.00 ± 0.00'],
                           'val mIoU: CAM, best of 0.00 to 0.95': ['42.00 ± 2.00'],
                           'val contour F: CAM, best of 0.00 to 0.95': ['0.00 ± 0.00']}
    assert found.settings == ['What differs between the runs:', '  cam --seed: A 1, 2, 10']


def test_groups_are_compared_seed_by_seed(seeds):
    found = compare(seeds, ['seam-*', 'both-*'])
    assert found.groups[-1] == 'B - A: both-2 - seam-2, both-10 - seam-10'
    cells = rows(found.tables[0])
    assert cells['val mIoU: CAM, best of 0.00 to 0.95'] == ['42.00 ± 2.00', '48.67 ± 3.06',
                                                            '+4.00 ± 0.00 (2 of 2 positive)']
    assert cells['val contour F: CAM at 0.25'][2] == '+4.00 ± 1.41 (2 of 2 positive)'
    assert found.settings == ['What differs between the runs:', '  cam --seed: A 1, 2, 10; B 2, 3, 10',
                              '  cam --isl-weight: A 0.0; B 0.2']


def test_names_are_one_group_and_are_paired_in_order_with_as_many(seeds):
    found = compare(seeds, ['both-3', 'both-2', 'seam-[12]'])
    assert found.groups == ['A: both-3, both-2 (2: both-3, both-2)', 'B: seam-[12] (2: seam-1, seam-2)',
                            'B - A: seam-1 - both-3, seam-2 - both-2']
    assert len(compare(seeds, ['both-3', 'seam-*']).groups) == 2        # one and three: no pairs


def test_one_value_has_no_deviation_and_a_lacking_one_is_said(seeds):
    write_json(seeds / 'seam-2/scores.json', json.loads((seeds / 'seam-2/scores.json').read_text())[:1])
    cells = rows(compare(seeds, ['seam-*', 'both-2']).tables[0])
    assert cells['val mIoU: CAM, best of 0.00 to 0.95'] == ['42.00 ± 2.83 (2 of 3)', '46.00']


def test_runs_scored_on_other_masks_are_told_apart(seeds):
    assert 'masks of val' not in compare(seeds, ['seam-*']).text()
    write_run(seeds, 'seam-4', 1, 1, 1, truth='other', seed=4, isl_weight=0.0)
    assert '  masks of val (digest): A t, other' in compare(seeds, ['seam-*']).settings


def test_the_table_and_the_report_show_the_same(seeds, capsys):
    words = ['--exp', str(seeds), '--run', 'seam-*', 'both-*']
    evaluation.main([*words, '--table'])
    text = capsys.readouterr().out
    report.main(words)
    page = (seeds / 'report.html').read_text()
    for part in ('42.00 ± 2.00', '+4.00 ± 0.00 (2 of 2 positive)', 'B - A: both-2 - seam-2, both-10 - seam-10',
                 'cam --isl-weight: A 0.0; B 0.2', 'val mIoU: CAM at 0.25'):
        assert part in text and part in page, part


def test_wrong_names_are_one_line(seeds, capsys):
    for main in (evaluation.main, report.main):
        words = ('--exp', seeds, '--run', 'seam-*', 'nothing-*', *(('--table',) if main is evaluation.main else ()))
        assert ('--run nothing-*: ' in error_line(main, words, capsys)
                and 'has no run of this name with scores (runs with scores: both-2, both-3, seam-1' in error_line(
                    main, words, capsys))
    assert 'several runs are compared with --table' in error_line(
        evaluation.main, ('--exp', seeds, '--run', 'seam-1', 'seam-2'), capsys)
    assert 'not a plain name' in error_line(evaluation.main, ('--table', '--run', '../*'), capsys)
