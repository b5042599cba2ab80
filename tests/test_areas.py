"""The areas of the segmentation, matched to those of its labels."""
import numpy as np
import pytest
import torch

import train_seg
from lib.areas import areas_of, match_areas, matching_bias
from lib.data.datasets import SegTrainSet
from lib.data.registry import get_spec
from lib.files.imageio import write_label_png
from lib.net.deeplab import DeepLab
from lib.net.resnet38d import ResNet38d
from tests.running import HEAD, LOADED_HERE, TRAINING, place

CPU = torch.device('cpu')


def test_areas_are_fractions_of_the_labelled_pixels():
    labels = [torch.tensor([[0, 0, 1, 255]]), torch.tensor([[2, 0, 0, 0]])]
    assert areas_of(labels, 4, CPU).tolist() == pytest.approx([5 / 7, 1 / 7, 1 / 7, 0])
    assert areas_of([torch.tensor([[255]])], 2, CPU).tolist() == [0, 0]


def test_a_network_that_predicts_too_much_background_covers_the_target_afterwards():
    rng = np.random.default_rng(0)
    height, truth = 32, []
    images, probs = [], []
    for _ in range(4):
        label = np.zeros((height, height), int)
        label[:, :8], label[:, 24:] = 1, 2              # a quarter each
        truth.append(torch.from_numpy(label))
        images.append(np.array([[90] * 3, [200, 60, 60], [60, 60, 200]], np.uint8)[label])
        logits = np.eye(3)[label].transpose(2, 0, 1) + 0.3 * rng.normal(size=(3, height, height))
        logits[0] += 1.2                                # shrinks both classes
        probs.append(torch.tensor(logits).softmax(0).float().numpy())
    target = areas_of(truth, 3, CPU)
    before = areas_of([torch.from_numpy(prob).argmax(0) for prob in probs], 3, CPU)
    assert before[1] < 0.15 and before[2] < 0.15
    bias = matching_bias(images, probs, target)
    shifted = [(torch.from_numpy(prob) * bias.exp()[:, None, None]).argmax(0) for prob in probs]
    assert bias[0] == 0 and areas_of(shifted, 3, CPU).tolist() == pytest.approx(target.tolist(), abs=0.02)


def test_a_class_without_labels_is_not_shifted_and_no_class_beyond_the_largest():
    probs = np.full((3, 8, 8), 1e-4, np.float32)
    probs[0] = 1
    bias = matching_bias([np.zeros((8, 8, 3), np.uint8)], [probs / probs.sum(0)],
                         torch.tensor([0.5, 0.5, 0], dtype=torch.float64))
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
    match_areas(network, dataset, CPU)
    changed = network.state_dict()
    bias = changed.pop('cls_conv.bias') - former['cls_conv.bias']
    assert network.training and bias[1] != 0 and not bias[[0, *range(2, 7)]].any()
    for name, value in changed.items():
        torch.testing.assert_close(value, former[name])


def test_a_training_stopped_before_its_network_was_written_shifts_the_logits_once(run_folder, toy, tmp_path, capsys):
    words = [*place(toy, tmp_path), *LOADED_HERE, *TRAINING, *HEAD, '--weights', 'none', '--picture-every', '0',
             '--labels', str(run_folder / 'labels/train/walk')]
    written, lines = [], []
    for _ in range(2):
        train_seg.main(words)
        lines += [line for line in capsys.readouterr().out.splitlines() if line.startswith('areas matched')]
        written.append((tmp_path / 'toy/seg/model.pth').read_bytes())
        (tmp_path / 'toy/seg/model.pth').unlink()
    assert written[0] == written[1] and len(lines) == 2
