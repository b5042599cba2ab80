"""The comparison with the textbook forms: its forms agree on small inputs, and disagreement is not passed over."""
import json

import numpy as np
import pytest
import torch

from benchmarks import compare, network_parts, parts, textbook_stages
from benchmarks.measure import alternate, peak_memory
from benchmarks.real_looking import photo_like
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from tool.affutils import offsets, random_walk, source_size
from tool.camutils import cam_label
from tool.evalutils import PUBLISHED, Curve, contour_matches

CPU = torch.device('cpu')


def report(part, device):
    return {'values': {f'{part}_speedup': 3.0}, 'seconds': {part: 1.0}, 'agreement': {part: (0.0, 1e-5)},
            'bytes': {part.replace('fsl_memory_', 'fsl '): 50 if part.endswith('textbook') else 5},
            'threads': 1, 'torch': 'x', 'gpu': None, 'processor': 'y'}


def test_json_holds_the_ratios_by_key_and_agreement_is_success(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, 'run_part', report)
    assert compare.main(['--device', 'cpu', '--json', str(tmp_path / 'out.json')]) == 0
    found = json.loads((tmp_path / 'out.json').read_text())
    assert found['fsl_memory_ratio'] == 10 and found['walk_speedup'] == 3 and found['date'] and found['device'] == 'cpu'
    assert '| `walk_speedup` | 3 | 40 (missed) |' in capsys.readouterr().out


@pytest.mark.parametrize('found', [1e-4, float('nan')])
def test_disagreement_is_failure_and_is_named(monkeypatch, capsys, found):
    monkeypatch.setattr(compare, 'run_part', lambda part, device: report(part, device) | {
        'agreement': {'the walk': (found, 1e-5)}})
    assert compare.main(['--device', 'cpu', '--parts', 'walk']) == 1
    assert 'the walk' in capsys.readouterr().err


def test_every_key_wanted_has_a_part():
    keys = ' '.join(path.read_text() for path in (compare.ROOT / 'benchmarks').glob('*parts.py'))
    for key in set(compare.WANTED) - {'fsl_memory_ratio'}:
        assert f"'{key}'" in keys or f"'{key.rpartition('_')[0]}_{{name}}'" in keys
    assert set(compare.PARTS) | {'cam_step_large'} == set(parts.PARTS)


def test_a_part_that_fails_is_an_error(monkeypatch, capsys):
    def fail(part, device):
        raise RuntimeError(f'{part} ended with status 1')
    monkeypatch.setattr(compare, 'run_part', fail)
    assert compare.main(['--device', 'cpu']) == 2 and 'fsl ended' in capsys.readouterr().err


def test_medians_are_of_each_form():
    seconds, results = alternate({'a': lambda: 1, 'b': lambda: torch.ones(2)}, CPU, rounds=3)
    assert set(seconds) == {'a', 'b'} and min(seconds.values()) >= 0 and results['a'] == 1


def test_peak_memory_sees_what_is_freed_at_the_end():
    peak = peak_memory(lambda: np.ones(50_000_000, np.uint8).sum(), CPU)
    assert 45e6 < peak < 70e6


def test_textbook_walk_is_ours():
    size, rng = (14, 19), np.random.default_rng(0)
    rows, columns = source_size(5, size)
    affinity = rng.uniform(0.2, 1, (len(offsets()), rows * columns)).astype(np.float32)
    cam = rng.random((2, *size)).astype(np.float32)
    plain = textbook_stages.random_walk(torch.from_numpy(affinity), offsets(), size, torch.from_numpy(cam))
    np.testing.assert_allclose(plain.numpy(), random_walk(affinity, size, cam), rtol=1e-4)


def test_textbook_scores_are_ours():
    rng = np.random.default_rng(0)
    images = [(rng.choice([0, 1, 3, 255], (40, 50)).astype(np.uint8), [0, 2], rng.random((2, 40, 50), np.float32))
              for _ in range(3)]
    ours = Curve(5)
    for image in images:
        ours.add(*image)
    plain = textbook_stages.curve(images, 5, textbook_stages.label_map)
    np.testing.assert_allclose(plain, ours.iou()[:PUBLISHED], atol=1e-12)
    for truth, keys, cam in images:
        label = cam_label(keys, cam, 0.4)
        assert np.array_equal(textbook_stages.contour_matches(truth, label, 5), contour_matches(truth, label, 5))


def test_textbook_network_is_ours():
    torch.manual_seed(0)
    network, images = Seam(ResNet38d(1 / 32), 5).eval(), torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        for found, expected in zip(textbook_stages.seam_forward(network, images), network(images)):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(network_parts, 'ResNet38d', lambda: ResNet38d(1 / 32))
    monkeypatch.setattr(network_parts, 'photo_like', lambda seed, height, width: photo_like(seed, 64, 80))
    monkeypatch.setattr(network_parts, 'alternate', lambda forms, device, rounds=1: alternate(forms, device, 1))


def test_inference_agrees_with_the_textbook_form(narrow):
    report = network_parts.cam_infer(CPU)
    assert set(report['values']) == {'cam_infer_speedup_bf16', 'cam_infer_speedup_fp32'}
    found, allowed = report['agreement']['CAM, fp32']
    assert found <= allowed == 1e-3


def test_training_step_agrees_with_the_textbook_form(narrow):
    report = network_parts.cam_step(CPU)
    assert 'cam_step_speedup_bf16' in report['values']
    for found, allowed in report['agreement'].values():
        assert found <= allowed
