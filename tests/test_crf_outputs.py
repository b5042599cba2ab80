"""Outputs beside those of the chain: scores of the CRF seeds, label PNGs of the CAMs, the walk refined by the CRF."""
import numpy as np
import pytest
from PIL import Image

import eval as evaluation
from lib.data.labelio import read_seeds, write_seeds
from lib.data.registry import get_spec
from lib.files.imageio import write_label_png
from lib.run.record import read_scores
from tests.running import LOADED_HERE, error_line, error_lines, place


def test_the_labels_of_the_seeds_are_scored_for_each_strength(run_folder, toy, tmp_path, capsys):
    spec, common = get_spec(str(toy)), (*place(toy, tmp_path), *LOADED_HERE)
    seeds, expected = run_folder / 'labels/val/seeds', {}
    evaluation.main([*common, '--what', 'cam-crf', '--labels', str(seeds)])
    record, = read_scores(tmp_path / 'toy/scores.json')
    printed = capsys.readouterr().out
    assert 'CAM with CRF, alpha 1  ' in printed and 'CAM with CRF, alpha 5  ' in printed

    # By hand: the class of the largest score, and TP / (T + P - TP) over the pixels that are not void.
    for alpha in (1.0, 5.0):
        counts = np.zeros((3, spec.num_classes))
        for sample in spec.samples('val'):
            keys, scores = read_seeds(seeds / f'{sample.name}.npz')
            truth, pick = np.array(Image.open(sample.mask)), scores[alpha].argmax(0)
            given = np.where(pick == 0, 0, np.append(keys, 0)[pick - 1] + 1).astype(np.uint8)
            write_label_png(tmp_path / f'{alpha}/{sample.name}.png', given)
            for label in range(spec.num_classes):
                true, found = truth == label, (given == label) & (truth != 255)
                counts[:, label] += (true & found).sum(), true.sum(), found.sum()
        expected[alpha] = 100 * (counts[0] / (counts[1] + counts[2] - counts[0] + 1e-10)).mean()
        evaluation.main([*common, '--what', 'seg', '--labels', str(tmp_path / str(alpha))])
    assert [result['alpha'] for result in record['results']] == [1.0, 5.0]
    assert [result['miou'] for result in record['results']] == pytest.approx([expected[1.0], expected[5.0]], abs=1e-6)
    assert expected[1.0] != expected[5.0]
    as_pngs = [other['results'][0] for other in read_scores(tmp_path / 'toy/scores.json')[1:]]
    assert [result['contour_f'] for result in record['results']] == [result['contour_f'] for result in as_pngs]
    evaluation.main([*common, '--table'])
    table = capsys.readouterr().out.splitlines()
    assert sum(line.startswith('CAM with CRF, alpha') for line in table) == 2


def test_missing_or_mixed_seeds_are_one_line(run_folder, toy, tmp_path, capsys):
    words = (*place(toy, tmp_path), *LOADED_HERE, '--what', 'cam-crf')
    assert 'infer_cam.py' in error_line(evaluation.main, words, capsys)
    for sample in get_spec(str(toy)).samples('val'):
        keys, scores = read_seeds(run_folder / f'labels/val/seeds/{sample.name}.npz')
        more = {2.0: scores[5.0]} if sample.name.endswith('3') else {5.0: scores[5.0]}
        write_seeds(tmp_path / f'mixed/{sample.name}.npz', keys, {1.0: scores[1.0], **more})
    *_, line = error_lines(evaluation.main, (*words, '--labels', tmp_path / 'mixed'), capsys)
    assert 'val_00003.npz lacks seeds of strength 5; regenerate all' in line
