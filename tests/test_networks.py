"""SEAM, AffinityNet and DeepLab on the published backbone and on a foreign one."""
import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib.net.aff import AffinityNet
from lib.net.deeplab import DeepLab
from lib.net.freeze import norm_layers
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from tests.backbones import PlainBackbone
from tool.seamutils import class_seed, pixel_correlation

CLASSES = 5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def narrow():
    return ResNet38d(1 / 32, dropouts=(0, 0))


def networks(backbone):
    """One of each head, each on a backbone of its own."""
    return [Seam(backbone(), CLASSES, dropout=0), AffinityNet(backbone()),
            DeepLab(backbone(), CLASSES, fov_channels=8, dropout=0)]


def total(output):
    return sum(part.square().mean() for part in (output if isinstance(output, tuple) else (output,)))


@pytest.mark.parametrize('height, width', [(32, 48), (33, 47), (9, 20)])
@pytest.mark.parametrize('backbone', [narrow, PlainBackbone])
def test_outputs_have_the_stated_sizes_on_any_backbone(backbone, height, width):
    seam, aff, deeplab = (net.eval() for net in networks(backbone))
    small = (math.ceil(height / seam.backbone.stride), math.ceil(width / seam.backbone.stride))
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        out = seam(images)
        assert out.cam.shape == out.refined.shape == (2, CLASSES, height, width)
        assert out.logits.shape == (2, CLASSES, *small)
        assert aff(images).shape == (2, 448, *small)
        assert deeplab(images).shape == (2, CLASSES, height, width)


def test_cam_is_the_upsampled_logits_and_refined_the_upsampled_correlation():
    net = Seam(narrow(), CLASSES).eval()
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        out, taps = net(images), net.backbone(images)
        small = F.interpolate(images, out.logits.shape[-2:], mode='bilinear', align_corners=True)
        features = net.f9(torch.cat([small, net.f8_3(taps['conv4']).relu(), net.f8_4(taps['conv5']).relu()], 1))
        refined = pixel_correlation(features, class_seed(out.logits))
    for full, low in ((out.cam, out.logits), (out.refined, refined)):
        torch.testing.assert_close(full, F.interpolate(low, (40, 56), mode='bilinear', align_corners=True))
        torch.testing.assert_close(full[..., [0, 0, -1, -1], [0, -1, 0, -1]], low[..., [0, 0, -1, -1], [0, -1, 0, -1]])


def test_refined_maps_train_the_correlation_layers_only():
    net = Seam(PlainBackbone(), CLASSES)
    net(torch.randn(2, 3, 32, 32)).refined.square().sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in (net.f8_3, net.f8_4, net.f9))
    assert all(parameter.grad is None for parameter in (*net.backbone.parameters(), net.fc8.weight))


def test_class_maps_train_the_classifier_and_the_backbone():
    net = Seam(narrow(), CLASSES)
    net(torch.randn(2, 3, 32, 32)).cam.square().sum().backward()
    assert net.fc8.weight.grad.abs().sum() > 0
    assert net.backbone.conv1a.weight.grad.abs().sum() > 0
    assert net.f9.weight.grad is None


@pytest.mark.parametrize('backbone', [narrow, PlainBackbone])
def test_gradient_reaches_every_parameter(backbone):
    for net in networks(backbone):
        total(net(torch.randn(2, 3, 32, 32))).backward()
        assert [name for name, value in net.named_parameters() if value.grad is None] == []


def test_seam_dropout_acts_before_the_classifier_and_can_be_off():
    images = torch.randn(1, 3, 32, 32)
    for dropout, differs in ((0.5, True), (0, False)):
        net = Seam(narrow(), CLASSES, dropout).eval()
        evaluated = net(images).logits
        net.dropout.train()
        assert torch.equal(evaluated, net(images).logits) != differs


def test_deeplab_options_do_what_they_say():
    net = DeepLab(narrow(), CLASSES, fov_channels=8, dilation=6, dropout=0.2, bn_momentum=0.07)
    assert net.conv_fov.dilation == net.conv_fov.padding == (6, 6)
    assert net.conv_fov.out_channels == net.cls_conv.in_channels == 8
    assert net.dropout.p == 0.2
    assert {layer.momentum for layer in norm_layers(net)} == {0.07}
    assert {layer.momentum for layer in norm_layers(DeepLab(narrow(), CLASSES))} == {3e-4}


def test_new_layers_start_as_published():
    seam, aff, deeplab = Seam(ResNet38d(1 / 8), CLASSES), AffinityNet(ResNet38d(1 / 8)), DeepLab(narrow(), CLASSES)
    for layer, gain in ((seam.fc8, 1), (seam.f9, 4), (aff.f9, 4)):
        bound = gain * math.sqrt(6 / (layer.in_channels + layer.out_channels))
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    for layer in (seam.f8_3, seam.f8_4, aff.f8_3, aff.f8_4, aff.f8_5):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / layer.in_channels), rel=0.1)
    for layer, size in ((deeplab.conv_fov, 9), (deeplab.conv_fov2, 1)):
        expected = math.sqrt(2 / (layer.out_channels * size))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
    bias = DeepLab(narrow(), 4000).cls_conv.bias                # uniform within 1 / sqrt(inputs), as PyTorch starts it
    bound = deeplab.cls_conv.in_channels ** -0.5
    assert 0.99 * bound < bias.abs().max() <= bound and abs(bias.mean()) < 0.05 * bound
    assert bias.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_new_modules_are_all_that_is_not_backbone_or_batch_norm():
    for net in networks(narrow):
        own = {name.split('.')[0] for name, value in net.named_parameters() if value.dim() > 1}
        assert own - {'backbone'} == set(net.new_modules)


@pytest.mark.parametrize('backbone', [narrow, PlainBackbone])
def test_published_names_hide_the_backbone_in_order(backbone):
    for net in networks(backbone)[:2]:
        names = list(net.state_dict())
        plain = list(net.backbone.state_dict())
        assert names[:len(plain)] == plain
        assert {name.split('.')[0] for name in names[len(plain):]} == set(net.new_modules)


@pytest.mark.parametrize('wrap', [lambda net: net, nn.DataParallel, lambda net: nn.Sequential(net)])
@pytest.mark.parametrize('backbone', [narrow, PlainBackbone])
def test_state_dict_survives_a_round_trip_in_any_wrapper(backbone, wrap):
    for net, other in zip(networks(backbone), networks(backbone)):
        state = wrap(net).state_dict()
        assert wrap(other).load_state_dict(state).missing_keys == []
        assert list(wrap(other).state_dict()) == list(state)
        assert all(torch.equal(value, state[name]) for name, value in wrap(other).state_dict().items())


def test_strict_loading_names_what_is_wrong_as_the_file_has_it():
    net = Seam(narrow(), CLASSES)
    state = net.state_dict()
    state['conv1b.weight'] = state.pop('conv1a.weight')
    with pytest.raises(RuntimeError, match='conv1b.weight'):
        net.load_state_dict(state)


def test_loading_leaves_the_given_state_dict_as_it_is():
    net = Seam(narrow(), CLASSES)
    state = net.state_dict()
    names = list(state)
    net.load_state_dict(state)
    assert list(state) == names


def test_copied_network_keeps_the_published_names():
    net = Seam(narrow(), CLASSES)
    copied = copy.deepcopy(net)
    assert list(copied.state_dict()) == list(net.state_dict())
    copied.load_state_dict(net.state_dict())


def test_network_works_under_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        net = Seam(narrow(), CLASSES)
        wrapped = nn.parallel.DistributedDataParallel(net)
        total(wrapped(torch.randn(2, 3, 16, 16))).backward()
        assert list(wrapped.state_dict()) == [f'module.{name}' for name in net.state_dict()]
        wrapped.load_state_dict(wrapped.state_dict())
        assert net.f9.weight.grad is not None
    finally:
        torch.distributed.destroy_process_group()


def test_autocast_gives_float32_outputs_near_the_full_ones():
    images = torch.randn(1, 3, 32, 32)
    for net in networks(narrow):
        net.eval()
        with torch.no_grad():
            full = net(images)
            with torch.autocast('cpu', torch.bfloat16):
                half = net(images)
        pairs = zip(half, full) if isinstance(full, tuple) else [(half, full)]
        for ours, theirs in pairs:
            assert ours.dtype == torch.float32
            assert (ours - theirs).norm() < 0.1 * theirs.norm()
