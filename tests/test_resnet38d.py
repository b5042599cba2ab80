"""ResNet-38d: names, shapes, width, dropout."""
import pytest
import torch

from lib.net.resnet38d import ResNet38d
from tool.imutils import IMAGENET_NORM

NARROW = 1 / 32


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def taps_of(height, width, **options):
    with torch.no_grad():
        return ResNet38d(NARROW, **options).eval()(torch.randn(1, 3, height, width))


def test_published_width_has_the_published_channels():
    with torch.device('meta'):
        net = ResNet38d()
    assert net.taps == {'conv3': 256, 'conv4': 512, 'conv5': 1024, 'conv6': 4096}
    assert net.stride == 8 and net.norm == IMAGENET_NORM
    convolutions = [tensor for name, tensor in net.state_dict().items() if 'conv' in name]
    assert len(convolutions) == 43


@pytest.mark.parametrize('width', [1 / 32, 0.1, 0.137])
def test_any_width_scales_every_layer_but_the_image(width):
    with torch.device('meta'):
        full, net = ResNet38d().state_dict(), ResNet38d(width).state_dict()
    assert list(full) == list(net)
    for name, tensor in full.items():
        expected = [round(size * width) if size > 3 else size for size in tensor.shape]
        assert list(net[name].shape) == expected, name


def test_taps_have_the_stated_channels_and_stride():
    net = ResNet38d(0.1).eval()
    with torch.no_grad():
        taps = net(torch.randn(2, 3, 64, 80))
    assert set(taps) == set(net.taps)
    for name, channels in net.taps.items():
        assert taps[name].shape == ((2, channels, 16, 20) if name == 'conv3' else (2, channels, 8, 10))


@pytest.mark.parametrize('height, width', [(1, 1), (8, 8), (33, 47), (41, 9)])
def test_map_size_is_image_size_over_stride_rounded_up(height, width):
    taps = taps_of(height, width)
    for name in ('conv4', 'conv5', 'conv6'):
        assert taps[name].shape[-2:] == (-(-height // 8), -(-width // 8))


def test_taps_are_activated():
    assert all(values.min() >= 0 and values.max() > 0 for values in taps_of(32, 32).values())


def test_batch_equals_one_by_one():
    net = ResNet38d(NARROW).eval()
    images = torch.randn(3, 3, 24, 40)
    with torch.no_grad():
        together, alone = net(images)['conv6'], [net(image[None])['conv6'] for image in images]
    torch.testing.assert_close(together, torch.cat(alone))


def test_forward_leaves_the_images_untouched():
    images = torch.randn(1, 3, 16, 16)
    before = images.clone()
    ResNet38d(NARROW)(images)
    assert torch.equal(images, before)


def test_dropout_acts_in_training_only_and_can_be_off():
    images = torch.randn(1, 3, 16, 16)
    for dropouts, differs in (((0.3, 0.5), True), ((0, 0), False)):
        net = ResNet38d(NARROW, dropouts=dropouts).eval()
        evaluated = net(images)['conv6']
        assert torch.equal(evaluated, net(images)['conv6'])
        for block in (net.b6, net.b7):
            block.dropout.train()
        assert torch.equal(evaluated, net(images)['conv6']) != differs


def test_dropout_shares_go_to_b6_and_b7():
    net = ResNet38d(NARROW, dropouts=(0.1, 0.2))
    assert (net.b6.dropout.p, net.b7.dropout.p) == (0.1, 0.2)


def test_batch_norm_momentum_reaches_every_layer():
    net = ResNet38d(NARROW, bn_momentum=0.02)
    assert {layer.momentum for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)} == {0.02}


def test_fresh_network_keeps_activations_in_bounds_without_batch_statistics():
    size = taps_of(64, 64)['conv6'].square().mean().sqrt()
    assert 1e-3 < size < 10
