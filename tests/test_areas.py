"""The areas of the segmentation, matched to those of its labels."""
import numpy as np
import pytest
import torch

from lib.areas import areas_of, match_areas, matching_bias
from lib.data.datasets import SegTrainSet
from lib.data.registry import get_spec
from lib.files.imageio import write_label_png
from lib.net.deeplab import DeepLab
from lib.net.resnet38d import ResNet38d


def test_areas_are_fractions_of_the_labelled_pixels():
    labels = [np.array([[0, 0, 1, 255]]), np.array([[2, 0, 0, 0]])]
    assert areas_of(labels, 4) == pytest.approx([5 / 7, 1 / 7, 1 / 7, 0])
    assert areas_of([np.array([[255]])], 2).tolist() == [0, 0]


def test_a_network_that_predicts_too_much_background_covers_the_target_afterwards():
    rng = np.random.default_rng(0)
    height, truth = 32, []
    images, probs = [], []
    for _ in range(4):
        label = np.zeros((height, height), int)
        label[:, :8], label[:, 24:] = 1, 2              # a quarter each
        truth.append(label)
        images.append(np.array([[90] * 3, [200, 60, 60], [60, 60, 200]], np.uint8)[label])
        logits = np.eye(3)[label].transpose(2, 0, 1) + 0.3 * rng.normal(size=(3, height, height))
        logits[0] += 1.2                                # shrinks both classes
        probs.append(torch.tensor(logits).softmax(0).float().numpy())
    target = areas_of(truth, 3)
    before = areas_of([prob.argmax(0) for prob in probs], 3)
    assert before[1] < 0.15 and before[2] < 0.15
    bias = matching_bias(images, probs, target)
    shifted = [(prob * np.exp(bias)[:, None, None]).argmax(0) for prob in probs]
    assert bias[0] == 0 and areas_of(shifted, 3) == pytest.approx(target, abs=0.02)


def test_a_class_without_labels_is_not_shifted_and_no_class_beyond_the_largest():
    probs = np.full((3, 8, 8), 1e-4, np.float32)
    probs[0] = 1
    bias = matching_bias([np.zeros((8, 8, 3), np.uint8)], [probs / probs.sum(0)], np.array([0.5, 0.5, 0]))
    assert bias.tolist() == [0, 3, 0]


def test_the_classifier_of_the_network_changes_and_nothing_else(toy, tmp_path):
    spec = get_spec(str(toy))
    dataset = SegTrainSet(spec, 'train', labels_dir=tmp_path)
    for sample in dataset.samples:
        mask = np.zeros((11, 100), np.uint8)
        mask[:, :40] = 1
        write_label_png(tmp_path / f'{sample.name}.png', mask)
    torch.manual_seed(0)
    network = DeepLab(ResNet38d(0.125), 7, 8).train()
    former = {name: value.clone() for name, value in network.state_dict().items()}
    bias = match_areas(network, dataset, torch.device('cpu'))
    assert network.training and bias[1] != 0 and not bias[2:].any()
    for name, value in network.state_dict().items():
        change = torch.tensor(bias).float() if name == 'cls_conv.bias' else 0
        torch.testing.assert_close(value, former[name] + change)
