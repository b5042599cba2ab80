"""Image-level labels that are likely wrong or missing."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib import suspects
from lib.data.registry import get_spec
from lib.net.resnet38d import ResNet38d
from lib.net.weights import save_network
from lib.report import __main__ as report
from lib.report.suspects import FILE, MISSING, WRONG, read_suspects, suspect_images
from tests.running import LOADED_HERE, NETWORK, error_line, place
from tool.labelerrors import DECAY, label_errors, logistic_regression, out_of_fold_probs

RNG = np.random.default_rng
COLOURS = {'red': (200, 40, 40), 'green': (40, 200, 40), 'blue': (40, 40, 200)}
KNOWN = {'backbone': 'resnet38d', 'width': 0.03125}


def separable(images=300, classes=3, size=8):
    """Features in which each class has a direction of its own, and labels."""
    labels = (RNG(0).random((images, classes)) < 0.4).astype(np.uint8)
    features = labels @ RNG(1).normal(size=(classes, size)) * 3 + RNG(2).normal(size=(images, size)) / 2
    return features.astype(np.float32), labels


def test_planted_errors_come_first():
    features, labels = separable()
    planted = [(3, 0), (10, 1), (20, 2), (41, 0), (60, 1)]
    for entry in planted:
        labels[entry] ^= 1
    found = label_errors(out_of_fold_probs(features, labels), labels, np.ones(3, bool))
    assert {tuple(entry) for entry in found.tolist()} == set(planted)
    kept = label_errors(out_of_fold_probs(features, labels), labels, np.array([True, False, True]))
    assert {tuple(entry) for entry in kept.tolist()} == {(r, c) for r, c in found.tolist() if c != 1}


def test_the_labels_of_an_image_do_not_change_its_own_probabilities():
    features, labels = separable()
    before = out_of_fold_probs(features, labels, 3)
    fold = RNG(0).permutation(len(labels)) % 3
    labels[fold == 1] = 1 - labels[fold == 1]
    after = out_of_fold_probs(features, labels, 3)
    assert np.array_equal(before[fold == 1], after[fold == 1])
    assert (before[fold != 1] != after[fold != 1]).all()


def test_each_class_is_fitted_to_its_minimum_whatever_the_others_are():
    features, labels = separable()
    inputs, targets = torch.from_numpy(features).double(), torch.from_numpy(labels).double()
    inputs = inputs / 8 ** 0.5
    weight, bias = logistic_regression(inputs, targets)
    error = (inputs @ weight + bias).sigmoid() - targets
    assert torch.allclose(inputs.T @ error / len(inputs) + DECAY * weight, torch.zeros_like(weight), atol=2e-3)
    assert torch.allclose(error.mean(0), torch.zeros(3, dtype=torch.float64), atol=2e-3)


def test_classes_that_the_features_cannot_tell_are_not_judged(capsys):
    features, labels = separable()
    labels[:, 1] = RNG(3).random(len(labels)) < 0.3         # has nothing to do with the features
    labels[3, 0] ^= 1
    named = dict(zip(map(str, range(len(labels))), features))
    found = suspects.find_suspects(named, labels, ('a', 'b', 'c'), 5)
    assert [one[:3] for one in found] == [('3', 'a', int(labels[3, 0]))]
    assert capsys.readouterr().out == 'not judged, as the features hardly predict which images show it: b\n'


def test_thresholds_are_near_the_means_of_the_other_label():
    labels = np.array([[1], [1], [1], [0], [0], [0]])
    probs = np.array([[0.9], [0.79], [0.38], [0.04], [0.35], [0.68]])       # means 0.69 and 0.357, a tenth is 0.033
    every, none = np.ones(1, bool), np.zeros(1, bool)
    assert label_errors(probs, labels, every).tolist() == [[5, 0], [2, 0]]
    assert label_errors(probs / 2, labels, every).tolist() == [[2, 0]]          # 0.34 is below 0.5
    assert label_errors(probs + [[0], [0], [0.03], [0], [0], [0]], labels, every).tolist() == [[5, 0]]
    assert label_errors(probs, labels * 0 + 1, none).tolist() == []


@pytest.fixture
def colours(tmp_path):
    """dataset.json of 36 plain images in subfolders: twelve red, green and black ones; two labels wrong, one missing.
    """
    lines, wrong = [], {'x/red-1': 'green', 'x/none-2': 'red', 'x/green-3': ''}
    for name, colour in {**COLOURS, 'none': (40, 40, 40)}.items():
        for number in range(12 if name != 'blue' else 2):
            image = f'x/{name}-{number}'
            path = tmp_path / f'photos/{image}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = RNG(len(lines)).normal(scale=0 if image in wrong else 12, size=(40, 48, 3))
            Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(path)
            lines.append((image, wrong.get(image, name.replace('none', ''))))
    (tmp_path / 'lists').mkdir()
    for split in ('train', 'val'):
        (tmp_path / f'lists/{split}.txt').write_text(''.join(f'/photos/{image}.png\n' for image, _ in lines))
    (tmp_path / 'lists/labels.txt').write_text(''.join(f'{image}\t{word}'.strip() + '\n' for image, word in lines))
    (tmp_path / 'dataset.json').write_text(json.dumps(
        {'name': 'colours', 'classes': [*COLOURS], 'images': 'photos/{}.png', 'preset': 'own'}))
    return tmp_path / 'dataset.json'


@pytest.fixture
def words(colours, tmp_path):
    """Flags of a run that has the settings of its CAM training, and weights."""
    torch.manual_seed(0)
    save_network(tmp_path / 'weights.pth', ResNet38d(KNOWN['width']), {})
    (tmp_path / 'exp/my/cam').mkdir(parents=True)
    settings = {**KNOWN, 'weights': str(tmp_path / 'weights.pth')}
    (tmp_path / 'exp/my/cam/args.json').write_text(json.dumps(settings))
    return (*place(colours, tmp_path / 'exp', 'my'), '--device', 'cpu', '--amp', 'none', *LOADED_HERE)


def entries(tmp_path):
    return {one[:3]: one for one in read_suspects(tmp_path / 'exp/my' / FILE)}


def test_wrong_and_missing_labels_of_images_are_listed(words, tmp_path, capsys):
    suspects.main(list(words))
    found = entries(tmp_path)
    planted = {('x/red-1', 'green', 1), ('x/red-1', 'red', 0), ('x/none-2', 'red', 1), ('x/green-3', 'green', 0)}
    assert len(planted & set(found)) >= 3 and len(found) <= 8, found
    assert all(one.verdict == (WRONG if one.given else MISSING) and 0 <= one.score <= 1 for one in found.values())
    out = capsys.readouterr().out
    assert 'not judged, as fewer than 5 images (--folds) show the class, or lack it: blue' in out
    assert f'{sum(one.given for one in found.values())} labels are {WRONG}, ' in out and 'x/none-2: red' in out
    before = (tmp_path / 'exp/my' / FILE).read_bytes()
    suspects.main([*words, '--workers', '1'])
    assert (tmp_path / 'exp/my' / FILE).read_bytes() == before


def test_corrupt_images_are_left_out(words, tmp_path, capsys):
    path = tmp_path / 'photos/x/none-2.png'
    path.write_bytes(path.read_bytes()[:60])
    assert 'none-2.png is not a readable image' in error_line(suspects.main, words, capsys)
    suspects.main([*words, '--on-corrupt', 'skip'])
    assert 'skipped 1 images of train as corrupt: x/none-2' in capsys.readouterr().out
    found = entries(tmp_path)
    assert ('x/green-3', 'green', 0) in found and 'x/none-2' not in {image for image, *_ in found}


def test_without_a_run_backbone_and_weights_are_named(words, colours, tmp_path, capsys):
    other = (*place(colours, tmp_path / 'exp', 'new'), *NETWORK, *LOADED_HERE)
    line = error_line(suspects.main, other, capsys)
    assert 'new/cam/args.json does not exist; train the CAM network first, or give --imagenet' in line
    given = (*other, '--imagenet', 'resnet38d')
    suspects.main([*given, 'none'])
    assert 'random features (--weights none) carry no information' in capsys.readouterr().out
    suspects.main([*given, str(tmp_path / 'weights.pth'), '--dry-run'])
    assert not (tmp_path / 'exp/new').exists()
    suspects.main([*given, str(tmp_path / 'weights.pth')])
    suspects.main(list(words))
    assert (tmp_path / 'exp/new' / FILE).read_bytes() == (tmp_path / 'exp/my' / FILE).read_bytes()


def test_too_few_images_and_a_file_of_the_user_are_one_line(words, tmp_path, capsys):
    suspects.main([*words, '--folds', '40'])
    printed = capsys.readouterr().out
    assert 'not judged, as fewer than 40 images (--folds) show the class' in printed
    assert '0 labels are likely wrong' in printed
    path = tmp_path / 'exp/my' / FILE
    path.write_text('image,class,given,score,verdict,seen\na,b,1,0.5,likely wrong,yes\n')
    assert f'{FILE} was not written by python -m lib.suspects' in error_line(suspects.main, words, capsys)
    assert 'seen' in path.read_text()


def test_the_report_shows_the_first_entries_without_those_corrected_since(words, colours, tmp_path):
    suspects.main(list(words))
    spec, path = get_spec(str(colours)), tmp_path / 'exp/my' / FILE
    shown = suspect_images(spec, path)
    assert any(f'red {WRONG} (' in one['caption'] and 'x/none-2' in one['caption'] for one in shown)
    assert all(one['image'].startswith('data:image/jpeg') for one in shown)
    (tmp_path / 'exp/my/cam/env.json').write_text('{}')
    report.main([*place(colours, tmp_path / 'exp', 'my'), '--count', '1'])
    page = (tmp_path / 'exp/my/report.html').read_text()
    assert 'Are the labels right?' in page and page.count('<figcaption>red likely wrong (') >= 1
    labels = tmp_path / 'lists/labels.txt'
    labels.write_text(labels.read_text().replace('x/none-2\tred', 'x/none-2'))
    assert len(suspect_images(spec, path)) == len(shown) - 1
    assert suspect_images(spec, tmp_path / 'none.csv') == []
