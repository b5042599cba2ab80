"""The background score chosen from image-level labels, and the result that is recommended from them."""
import json
import math
import shutil
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import eval as evaluation
import infer_aff
import infer_cam
from lib import choose, evidence, recommend
from lib.data.datasets import InferSet
from lib.data.labelio import read_seeds
from lib.data.registry import get_spec
from lib.evidence import Gain, draw_pairs, judge, measure, summary
from lib.run.chosen import FILE, RECOMMENDED, alpha_of, fill_in
from lib.run.origin import Digests
from tests.running import LOADED_HERE, NETWORK, SCALES, error_line, place
from tool.imutils import Norm

RED, GREY = (250, 0, 0), (100, 100, 100)


class RedNetwork:
    """Stands for Inference: the logit of class 0 is the redness of each 4x4 block, that of class 1 is constant."""

    device = torch.device('cpu')
    network = SimpleNamespace(backbone=SimpleNamespace(norm=Norm((0, 0, 0), (1, 1, 1)), size_step=None))

    def __call__(self, name, compute):
        return compute(self.forward)

    def forward(self, images):
        small = torch.nn.functional.avg_pool2d(images, 4)
        red = small[:, :1] - small[:, 1:2]
        return SimpleNamespace(logits=torch.cat([torch.zeros_like(red), red, torch.ones_like(red)], 1))


def pair_of(red):
    """A class, a grey image with red pixels, and a grey background."""
    return 0, np.where(red[..., None], RED, GREY).astype(np.uint8), np.full((*red.shape, 3), GREY, np.uint8)


@pytest.fixture
def red():
    red = np.zeros((32, 32), bool)
    red[8:16, 8:16] = True
    return red


def test_evidence_is_1_where_all_of_the_object_is_labelled_and_0_where_nothing_is(red):
    whole, half, off = red.copy(), red.copy(), np.roll(red, 16, 0)
    half[:, 10:] = False                      # half of each block of 4x4
    gain = measure(RedNetwork(), 'a', *pair_of(red), np.stack([whole, half, off, np.ones_like(red)]))
    found = summary({0: [gain]})
    assert found.evidence == pytest.approx([1, 0.5, 0, 1], abs=1e-6)
    assert found.area == pytest.approx([1 / 16, 1 / 64, 1 / 16, 1])
    assert found.localisation == pytest.approx([4, 0.5 * 6, 0, 0], abs=1e-5)
    assert found.localisation.argmax() == 0, 'the object and no more'


def test_classes_count_alike_and_unknown_ones_are_left_out():
    seen, unseen = Gain(2.0, np.array([1.0]), np.array([0.25])), Gain(-1.0, np.array([3.0]), np.array([0.5]))
    other = Gain(1.0, np.array([1.0]), np.array([0.5]))
    found = summary({0: [seen] * 5, 1: [other], 2: [unseen]})
    assert found.evidence[0] == pytest.approx((0.5 + 1) / 2) and found.area[0] == pytest.approx(0.375)
    assert summary({2: [unseen]}) is None


def test_each_image_is_labelled_once_and_pasted_into_an_image_of_its_size_without_the_class(monkeypatch):
    class Photos(list):
        labels, names = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]], np.uint8), 'abcd'

    photos = Photos({'image': np.full((8 + 4 * index, 20, 3), index, np.uint8)} for index in range(4))
    labelled, measured = [], []

    def labels_of(index, image):
        labelled.append(index)
        return None if index == 2 else np.stack([image[..., 0] * 0 + 1, image[..., 0] * 0 + 2])

    def noted(_, name, key, image, background, masks):
        index, other = 'abcd'.index(name), background[0, 0, 0]
        assert image.shape == background.shape == (8 + 4 * index, 20, 3) and (image == index).all()
        assert photos.labels[index, key] == 1 and photos.labels[other, key] == 0
        assert masks.all((1, 2)).tolist() == [key == 0, key == 1]
        measured.append(index)
        return Gain(1.0, np.array([1.0, 0.5]), np.array([0.5, 0.5]))

    monkeypatch.setattr(evidence, 'measure', noted)
    assert judge(photos, None, labels_of).evidence.tolist() == [1.0, 0.5]
    assert len(labelled) == len(set(labelled)) and set(measured) == {0, 1} and 2 in labelled


def test_pairs_take_all_classes_in_turn_and_the_background_lacks_the_class(toy):
    labels = InferSet(get_spec(str(toy)), 'train').labels
    pairs = draw_pairs(labels)
    shown = labels.sum(0)
    assert {key for _, key, _ in pairs} == set(np.flatnonzero((shown > 0) & (shown < len(labels))))
    assert all(labels[index, key] == 1 and labels[other, key] == 0 for index, key, other in pairs)
    assert [index for index, *_ in pairs] == sorted(index for index, *_ in pairs)
    assert draw_pairs(np.ones((5, 2))) == [] == draw_pairs(np.zeros((5, 2)))


@pytest.mark.parametrize('score', [0.1, 0.25, 0.5, 0.7])
def test_alpha_and_score_cut_a_cam_at_the_same_value(score):
    assert (1 - score) ** alpha_of(score) == pytest.approx(score, abs=2e-3)


def test_the_best_score_is_the_middle_of_the_range_at_half_of_the_highest_localisation():
    localisation = np.interp(choose.SCORES, [0.1, 0.3, 0.4, 0.6, 0.9], [0, 2, 1.8, 1.2, 0])
    assert choose.best_score(localisation) == pytest.approx((0.2 + 0.65) / 2, abs=0.01)     # 1 at 0.2 and at 0.65
    localisation[-1] = 1.5                          # a second range above half, apart from that of the highest
    localisation[-2] = 0
    assert choose.best_score(localisation) == pytest.approx((0.2 + 0.64) / 2, abs=0.02)
    assert choose.best_score(choose.SCORES) == pytest.approx((0.45 + 0.9) / 2, abs=0.01)    # open above
    assert choose.best_score(choose.SCORES[::-1]) == pytest.approx((0.1 + 0.55) / 2, abs=0.01)
    assert choose.best_score(np.ones(9)) == 0.5


@pytest.mark.parametrize('score', [0.1, 0.25, 0.6, 0.9])
def test_seeds_are_surer_than_the_labels(score):
    low, high = choose.seed_alphas(score)
    assert 0 < low < alpha_of(score) < high and math.isfinite(high)


def test_auto_is_filled_in_from_the_run_and_refused_for_another_network(tmp_path):
    (tmp_path / 'cam').mkdir()
    (tmp_path / 'cam/model.pth').write_bytes(b'network')
    digests = Digests()
    args = Namespace(folder=tmp_path, dataset='my.json', run='my', alpha='auto', seed_alphas='auto', other='auto')
    with pytest.raises(FileNotFoundError, match='--alpha is auto: run python -m lib.choose --dataset my.json'):
        fill_in(args, digests, ['alpha', 'seed_alphas'])
    record = {'origin': {'network': digests(tmp_path / 'cam/model.pth')}, 'background_score': 0.5, 'alpha': 1.0,
              'seed_alphas': [0.6, 4.8]}
    (tmp_path / FILE).write_text(json.dumps(record))
    fill_in(args, digests, ['alpha', 'seed_alphas'])
    assert (args.alpha, args.seed_alphas, args.other) == (1.0, (0.6, 4.8), 'auto')
    (tmp_path / 'cam/model.pth').write_bytes(b'another')
    with pytest.raises(ValueError, match='was chosen for another network'):
        fill_in(Namespace(**vars(args) | {'alpha': 'auto'}), Digests(), ['alpha'])


@pytest.mark.parametrize('main, words, expected', [
    (infer_cam.main, ('--seed-alphas', 'auto', '1'), 'expected two numbers, or auto'),
    (infer_cam.main, ('--seed-alphas', '1'), 'expected two numbers, or auto'),
    (infer_aff.main, ('--alpha', 'automatic'), 'a number above 0 to 1000, or auto'),
    (evaluation.main, ('--background-score', '1.5'), 'a number from 0 to 1, or auto')])
def test_what_is_neither_a_value_nor_auto_is_refused(main, words, expected, toy, tmp_path, capsys):
    assert expected in error_line(main, (*place(toy, tmp_path / 'exp'), *words), capsys)


def test_a_run_chooses_once_and_recommends(toy, run_folder, tmp_path, capsys):
    exp = tmp_path / 'exp'
    shutil.copytree(run_folder, exp / 'toy')
    common = (*place(toy, exp), *LOADED_HERE, *NETWORK)
    line = error_line(infer_aff.main, (*common, '--alpha', 'auto'), capsys)
    assert '--alpha is auto: run python -m lib.choose' in line
    choose.main([*common, *SCALES])
    record = json.loads((exp / 'toy' / FILE).read_text())
    assert 0.1 <= record['background_score'] <= 0.9 and record['alpha'] == alpha_of(record['background_score'])
    capsys.readouterr()
    choose.main([*common, *SCALES])
    assert 'exists for this network' in capsys.readouterr().out
    choose.main([*common, '--scales', '1'])
    assert 'exists for this network' not in capsys.readouterr().out, 'other CAMs'
    choose.main([*common, *SCALES])
    capsys.readouterr()

    # The stages take the values, and their files carry them.
    infer_aff.main([*common, '--alpha', 'auto', '--fresh', '--split', 'val'])
    made_by = json.loads((exp / 'toy/labels/val/walk/made_by.json').read_text())
    assert made_by['settings']['alpha'] == record['alpha']
    infer_cam.main([*common, *SCALES, '--seed-alphas', 'auto', '--split', 'val', '--fresh'])
    _, seeds = read_seeds(next((exp / 'toy/labels/val/seeds').glob('*.npz')))
    assert tuple(seeds) == tuple(record['seed_alphas'])

    # The recommendation is in the table.
    recommend.main(common)
    chosen = json.loads((exp / 'toy' / RECOMMENDED).read_text())
    assert chosen['recommended'] in chosen['stages'] and list(chosen['stages'])[:2] == ['cam', 'walk']
    capsys.readouterr()
    evaluation.main([*place(toy, exp), '--table'])
    assert 'Recommended: ' in capsys.readouterr().out
    recommend.main(common)
    assert 'measured before' in capsys.readouterr().out
    files = json.loads((exp / 'toy' / RECOMMENDED).read_text())['files']
    walks = [exp / 'toy' / name for name in files if 'walk' in name]
    walks[0].write_bytes(walks[0].read_bytes() + b'changed')
    evaluation.main([*place(toy, exp), '--table'])
    assert 'Recommended: ' not in capsys.readouterr().out, 'labels have changed'


@pytest.mark.parametrize('walk, seg, expected', [(2.4, 2.3, 'seg'), (2.9, 1.0, 'walk'), (1.0, 1.5, 'cam'),
                                                 (1.0, 2.3, 'seg'), (0.0, 0.0, 'cam')])
def test_the_last_stage_that_is_not_clearly_worse_is_recommended(walk, seg, expected):
    assert recommend.recommended({'cam': 2.5, 'walk': walk, 'seg': seg}) == expected


def test_labels_that_flood_an_image_or_lose_the_object_localise_worse(red):
    good = np.roll(red, 1, 1) | red
    flooded = np.ones_like(red)
    flooded[-8:] = False
    part = red.copy()
    part[9:] = False
    found = summary({0: [measure(RedNetwork(), 'a', *pair_of(red), np.stack([good, flooded, part]))]})
    stages = dict(zip(('cam', 'walk', 'seg'), found.localisation))
    assert recommend.recommended(stages) == 'cam'


def test_labels_that_show_nothing_at_any_score_choose_none(toy, run_folder, tmp_path, capsys, monkeypatch):
    shutil.copytree(run_folder, tmp_path / 'toy')
    monkeypatch.setattr(choose, 'judge', lambda *_: evidence.Measured(*np.zeros((3, len(choose.SCORES)))))
    choose.main([*place(toy, tmp_path), *LOADED_HERE, *NETWORK, *SCALES])
    assert 'warning: no score can be chosen' in capsys.readouterr().out
    assert json.loads((tmp_path / 'toy' / FILE).read_text())['background_score'] == choose.FALLBACK


def test_a_set_whose_images_all_show_the_class_goes_on_with_a_warning(toy, run_folder, tmp_path, capsys):
    exp, lists = tmp_path / 'exp', tmp_path / 'lists'
    shutil.copytree(run_folder, exp / 'toy')
    shutil.copytree(toy.parent / 'lists', lists)
    spec = get_spec(str(toy))
    names = [sample.name for split in ('train', 'val') for sample in spec.samples(split)]
    (lists / 'labels.txt').write_text(''.join('\t'.join([name, *spec.classes]) + '\n' for name in names))
    common = (*place(toy, exp), *LOADED_HERE, *NETWORK, '--lists', str(lists))
    choose.main([*common, *SCALES])
    assert 'warning: no score can be chosen' in capsys.readouterr().out
    assert json.loads((exp / 'toy' / FILE).read_text())['background_score'] == choose.FALLBACK
    recommend.main(common)
    assert 'nothing can be recommended' in capsys.readouterr().out and not (exp / 'toy' / RECOMMENDED).exists()
