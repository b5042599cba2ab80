"""Trained networks run on images: near the plain network, in float32 where autocast fails, or stopped by name."""
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from lib.inference import Inference, fold_batch_norms
from lib.net.deeplab import DeepLab
from lib.net.freeze import norm_layers
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam

CPU, BF16, FILE = torch.device('cpu'), torch.bfloat16, Path('model.pth')
IMAGES = torch.linspace(-2, 2, 2 * 3 * 65 * 97).sin().mul(2).view(2, 3, 65, 97)


def make_seam():
    torch.manual_seed(0)
    return Seam(ResNet38d(1 / 32), 5)


@torch.inference_mode()
def test_maps_under_autocast_stay_near_and_in_float32_are_the_same():
    plain = make_seam().eval()(IMAGES)
    found = Inference(make_seam(), CPU, BF16, FILE)('a', lambda network: network(IMAGES))
    assert (found.logits - plain.logits).abs().max() < 0.05 * plain.logits.abs().max()
    exact = Inference(make_seam(), CPU, None, FILE)('a', lambda network: network(IMAGES))
    torch.testing.assert_close(exact.logits, plain.logits, rtol=1e-4, atol=1e-4)


class Fragile(nn.Module):
    """Fails on narrow images under autocast, and everywhere where the weight is NaN."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        nn.init.constant_(self.conv.weight, weight)

    def forward(self, images):
        maps = self.conv(images)
        return maps / 0 if maps.dtype == BF16 and images.shape[-1] == 1 else maps


@torch.inference_mode()
def test_an_image_that_fails_under_autocast_alone_is_computed_in_float32():
    network = Fragile()
    run = Inference(network, CPU, BF16, FILE)
    wide, narrow = torch.ones(1, 3, 5, 5), torch.ones(1, 3, 5, 1)
    assert run('wide', lambda network: network(wide)).dtype == BF16
    found = run('narrow', lambda network: [network(wide), network(narrow)])
    assert [maps.dtype for maps in found] == [torch.float32] * 2
    torch.testing.assert_close(found[1], network(narrow))
    assert run('wide', lambda network: network(wide)).dtype == BF16


@pytest.mark.parametrize('amp', [None, BF16])
def test_outputs_that_are_not_finite_stop_the_image_by_name(amp):
    run = Inference(Fragile(float('nan')), CPU, amp, FILE)
    with pytest.raises(ValueError, match='^cat_7: the outputs of model.pth are not finite, in float32 either; check'):
        run('cat_7', lambda network: network(torch.ones(1, 3, 5, 5)))


class Same(nn.Module):
    """Its output is its input."""

    def forward(self, output):
        return output


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_one_bad_value_in_any_part_of_any_output_is_found(value):
    good, bad = torch.ones(3), torch.tensor([1, value])
    for outputs, expected in (([], True), ([good, (good, good)], True), ([bad, good], False),
                              ([good, (good, bad)], False), ([(good, bad.to(BF16)), good], False)):
        run = Inference(Same(), CPU, None, FILE)
        with nullcontext() if expected else pytest.raises(ValueError, match='not finite'):
            assert run('a', lambda network, outputs=outputs: [*map(network, outputs)]) == outputs


@pytest.mark.parametrize('make', [lambda: Seam(ResNet38d(1 / 32), 5), lambda: DeepLab(ResNet38d(1 / 32), 5, 8, 2)])
@torch.inference_mode()
def test_batch_norms_that_are_folded_change_no_output(make):
    torch.manual_seed(0)
    network = make().double().eval()
    for norm in norm_layers(network):
        for values in (norm.running_mean, norm.weight, norm.bias):
            values.copy_(torch.randn_like(values))
        norm.running_var.uniform_(0.5, 2)
    plain = network(IMAGES.double())
    count = len(list(norm_layers(network)))
    folded = fold_batch_norms(network)
    assert len(list(norm_layers(folded))) < count
    for one, other in zip(*((maps,) if isinstance(maps, torch.Tensor) else maps
                            for maps in (plain, folded(IMAGES.double())))):
        assert (one - other).abs().max() < 1e-9 * one.abs().max()
