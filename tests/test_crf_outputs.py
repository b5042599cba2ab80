"""Outputs beside those of the chain: scores of the CRF seeds, label PNGs of the CAMs, the walk refined by the CRF."""
import numpy as np
import pytest
from PIL import Image

import eval as evaluation
import infer_aff
import infer_cam
from lib.data.labelio import read_maps, read_seeds, write_seeds
from lib.data.registry import get_spec
from lib.files.imageio import write_label_png
from lib.files.origin import read_origin
from lib.run.record import read_scores
from lib.run.table import score_tables
from tests.running import LOADED_HERE, NETWORK, SCALES, error_line, error_lines, place
from tool.affutils import walk_label
from tool.crfutils import CrfSettings, dense_crf


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
    in_report, = score_tables([record])
    assert list(in_report.rows) == ['CAM with CRF, alpha 1', 'CAM with CRF, alpha 5']


def test_missing_or_mixed_seeds_are_one_line(run_folder, toy, tmp_path, capsys):
    words = (*place(toy, tmp_path), *LOADED_HERE, '--what', 'cam-crf')
    assert 'infer_cam.py' in error_line(evaluation.main, words, capsys)
    for sample in get_spec(str(toy)).samples('val'):
        keys, scores = read_seeds(run_folder / f'labels/val/seeds/{sample.name}.npz')
        more = {2.0: scores[5.0]} if sample.name.endswith('3') else {5.0: scores[5.0]}
        write_seeds(tmp_path / f'mixed/{sample.name}.npz', keys, {1.0: scores[1.0], **more})
    *_, line = error_lines(evaluation.main, (*words, '--labels', tmp_path / 'mixed'), capsys)
    assert 'val_00003.npz lacks seeds of strength 5; regenerate all' in line


def test_labels_of_the_cams_are_written_and_scored_as_other_label_pngs(run_folder, toy, tmp_path, capsys):
    common = (*place(toy, tmp_path), *LOADED_HERE)
    infer = (*common, *NETWORK, *SCALES, '--checkpoint', str(run_folder / 'cam/model.pth'), '--split', 'val',
             '--no-crf-seeds', '--out_cam_pred')
    infer_cam.main([*infer, '--background-score', '0.3'])
    labels = tmp_path / 'toy/labels/val'
    assert not (labels / 'seeds').exists()
    for sample in get_spec(str(toy)).samples('val'):
        keys, cam = read_maps(labels / f'cam/{sample.name}.npz')
        padded = np.concatenate([np.full((1, *cam.shape[1:]), 0.3, np.float32), cam])
        path = labels / f'cam_pred/{sample.name}.png'
        assert Image.open(path).mode == 'P'
        np.testing.assert_array_equal(np.array(Image.open(path)), np.array([0, *(keys + 1)])[padded.argmax(0)])
        origins = [read_origin(file) for file in (path, labels / f'cam/{sample.name}.npz')]
        assert [origin['settings'].get('background_score') for origin in origins] == [0.3, None]
        assert origins[0]['inputs'] == origins[1]['inputs']
    for what in ('cam', 'cam-pred'):
        evaluation.main([*common, '--what', what, '--background-score', '0.3'])
    of_cams, of_labels = (record['results'][0] for record in read_scores(tmp_path / 'toy/scores.json'))
    assert of_labels == {key: value for key, value in of_cams.items() if key != 'threshold'}

    # Another score is refused for these files alone; a folder that is named takes them.
    line = error_line(infer_cam.main, infer, capsys)
    assert 'cam_pred were made with other settings (--background-score was 0.3, is 0.25)' in line
    infer_cam.main([*infer, str(tmp_path / 'mine')])
    assert len(list((tmp_path / 'mine').glob('*.png'))) == 6


def test_the_crf_refines_the_scores_of_the_walk_before_the_labels(run_folder, toy, tmp_path, capsys):
    words = (*place(toy, tmp_path), *LOADED_HERE, *NETWORK, '--split', 'val', '--cams',
             str(run_folder / 'labels/val/cam'), '--checkpoint', str(run_folder / 'aff/model.pth'))
    infer_aff.main([*words, '--crf'])
    walk = tmp_path / 'toy/labels/val/walk'
    names = [sample.name for sample in get_spec(str(toy)).samples('val')]
    changed = [(walk / f'{name}.png').read_bytes() != (run_folder / f'labels/val/walk/{name}.png').read_bytes()
               for name in names]
    assert all(changed)                                     # the origin at least
    origins = [read_origin(folder / f'{names[0]}.png') for folder in (walk, run_folder / 'labels/val/walk')]
    assert origins[0]['settings'] == {**origins[1]['settings'], 'crf': True}
    assert '(--crf was True, is None)' in error_line(infer_aff.main, words, capsys)


def test_the_refined_walk_is_the_argmax_of_the_crf_on_the_upsampled_scores():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, 3), np.uint8).repeat(4, 0).repeat(4, 1)[:19, :27]
    walked, keys = rng.random((3, 3, 4)).astype(np.float32), np.array([1, 4])
    # By hand: bilinear upsampling by 8 with half-pixel centres, edges repeated; the crop; the seeds' CRF.
    scores = walked
    for axis, size in ((1, 19), (2, 27)):
        position = ((np.arange(size) + 0.5) / 8 - 0.5).clip(0, walked.shape[axis] - 1)
        low = np.floor(position).astype(int)
        high, part = np.minimum(low + 1, walked.shape[axis] - 1), (position - low).reshape(-1, *(1,) * (2 - axis))
        scores = np.take(scores, low, axis) * (1 - part) + np.take(scores, high, axis) * part
    refined = dense_crf(image, scores.astype(np.float32), CrfSettings(3, 3, 80, 13, 10, 10))
    label = walk_label(walked, keys, (19, 27), crf_image=image)
    assert (label == np.array([0, 2, 5])[refined.argmax(0)]).mean() > 0.99
    assert (label != walk_label(walked, keys, (19, 27))).mean() > 0.01
    assert not walk_label(walked[:1], keys[:0], (19, 27), crf_image=image).any()
