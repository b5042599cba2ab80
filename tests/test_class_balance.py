"""Class weights of the segmentation's loss."""
import numpy as np
import pytest
import torch

import train_seg
from lib.data.datasets import SegTrainSet
from lib.data.registry import get_spec
from lib.files.imageio import write_label_png


@pytest.fixture
def labelled(toy, tmp_path) -> SegTrainSet:
    """The toy set with labels of its own: background, 90 % of the labelled pixels; classes 1 and 2; an ignored row."""
    spec = get_spec(str(toy))
    dataset = SegTrainSet(spec, 'train', labels_dir=tmp_path / 'labels')
    (tmp_path / 'labels').mkdir()
    for sample in dataset.samples:
        mask = np.zeros((11, 100), np.uint8)
        mask[0], mask[1, :80], mask[1, 80:] = 255, 1, 2
        write_label_png(tmp_path / f'labels/{sample.name}.png', mask)
    return dataset


@pytest.mark.parametrize('power', [0.5, 1])
def test_a_weight_is_a_power_of_the_frequency_and_the_mean_over_pixels_is_1(labelled, power):
    weights, frequencies = train_seg.class_weights(labelled, 7, power), torch.tensor([0.9, 0.08, 0.02])
    assert weights[:3] @ frequencies == pytest.approx(1, abs=1e-6)
    assert (weights[1] / weights[0]).item() == pytest.approx((0.9 / 0.08) ** power, rel=1e-5)
    assert (weights[2] / weights[0]).item() == pytest.approx(45 ** power, rel=1e-5)
    assert weights[3:].tolist() == 4 * [weights[2].item()]      # classes without pixels


@pytest.mark.parametrize('power', [None, 0])
def test_without_a_power_the_loss_is_the_plain_mean(labelled, power):
    assert train_seg.class_weights(labelled, 7, power) is None


def test_the_loss_is_the_weighted_sum_over_the_number_of_labelled_pixels():
    logits, mask = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    mask[0, 0] = 255
    weights = torch.tensor([0.5, 2.0, 3.0])
    batch = {'image': logits, 'mask': mask, 'counts': torch.tensor(35.0)}
    by_hand = sum(-weights[mask[n, y, x]] * logits[n, :, y, x].log_softmax(0)[mask[n, y, x]]
                  for n, y, x in np.ndindex(2, 4, 5) if mask[n, y, x] != 255) / 35
    loss = train_seg.make_step(lambda images: images, weights)(batch)['loss']
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
