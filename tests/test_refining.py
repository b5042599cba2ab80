"""Where infer_cam and infer_seg run the CRF, and by which backend."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import infer_cam
import infer_seg
from lib.data.registry import get_spec
from lib.multiscale import multi_scale
from lib.net.resnet38d import ResNet38d
from lib.net.seam import SeamOutput
from lib.predict import infer_probs, make_views
from tool.crfutils import seed_scores

CPU = torch.device('cpu')
IMAGE = np.random.default_rng(0).integers(0, 256, (21, 30, 3), np.uint8)
CASES = [('cpu', (), False, 'torch'), ('cuda', (), True, None), ('cuda', ('--crf-backend', 'pydensecrf'), False,
         'pydensecrf'), ('cpu', ('--crf-backend', 'pydensecrf'), False, 'pydensecrf')]


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr('tool.crfutils.find_spec', lambda name: name)


@pytest.mark.parametrize('device, words, at_once, later', [*CASES, ('cpu', ('--no-crf',), False, None),
                                                           ('cuda', ('--no-crf',), False, None)])
def test_segmentation_is_refined_on_the_gpu_or_when_it_is_written(device, words, at_once, later, monkeypatch):
    seen = []
    monkeypatch.setattr(infer_seg, 'infer_probs', lambda *_, flip, crf: seen.append(crf))
    trained = SimpleNamespace(device=torch.device(device), meta={})
    task = infer_seg.make_task(infer_seg.make_parser().parse_args(words), get_spec('voc12'), trained, ResNet38d)
    _, _, crf, *_ = task.compute({'image': IMAGE}, None)
    assert seen == [at_once] and crf == later


@pytest.mark.parametrize('device, words, at_once, later', CASES)
def test_seeds_are_refined_on_the_gpu_or_when_they_are_written(device, words, at_once, later):
    task = infer_cam.make_task(infer_cam.make_parser().parse_args(words), torch.device(device), ResNet38d)
    assert task.compute.keywords['alphas'] == ((1.0, 24.0) if at_once else ())
    assert task.write.keywords['alphas'] == (1.0, 24.0)
    assert task.write.keywords['backend'] == (later or 'torch')
    task = infer_cam.make_task(infer_cam.make_parser().parse_args(['--no-crf-seeds', *words]), torch.device(device),
                               ResNet38d)
    assert task.compute.keywords['alphas'] == task.write.keywords['alphas'] == ()


def test_seeds_made_with_the_cams_are_those_made_later():
    maps = torch.rand(1, 4, 21, 30)
    sample = {'image': IMAGE, 'image_labels': np.array([1, 0, 1]), 'views': [np.zeros((3, 21, 30), np.float32)]}

    def network(views):
        return SeamOutput(*2 * [maps.expand(2, -1, -1, -1)], None)

    _, present, cam, _, seeds = infer_cam.infer_cams(sample, network, CPU, alphas=(1.0, 24.0))
    assert present.tolist() == [0, 2] and infer_cam.infer_cams(sample, network, CPU)[4] == {}
    for alpha, scores in seed_scores(IMAGE, cam, (1.0, 24.0)).items():
        np.testing.assert_array_equal(seeds[alpha], scores)
    sample['image_labels'][:] = 0
    *_, cam, _, seeds = infer_cam.infer_cams(sample, network, CPU, alphas=(1.0, 24.0))
    assert cam.shape == (0, 21, 30) and all((scores == np.ones((1, 21, 30))).all() for scores in seeds.values())


def test_the_running_mean_of_the_views_is_their_mean():
    scales, norm = (0.5, 1.0, 1.5), ResNet38d.norm

    def network(views):
        return torch.cat([views, views.square()], dim=1)

    found = infer_probs(IMAGE, network, scales, norm, None, CPU)
    views = make_views(IMAGE, scales, norm, None)
    maps = torch.cat(list(multi_scale(views, IMAGE.shape[:2], network, CPU, align_corners=True)))
    assert len(maps) == 2 * len(scales)
    np.testing.assert_allclose(found, maps.mean(0).softmax(0).numpy(), atol=1e-6)
