"""Freezing and batch-norm mode: an explicit choice for each stage."""
import pytest
import torch
from torch import nn

import train_seg
from lib.net.deeplab import DeepLab
from lib.net.freeze import freeze_early, freeze_norm_affine, norm_layers, set_train_mode
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from tests.backbones import PlainBackbone

CLASSES = 4


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def narrow_seam():
    return Seam(ResNet38d(1 / 32), CLASSES)


def frozen(net):
    return {name for name, value in net.named_parameters() if not value.requires_grad}


def norm_parameters(net):
    layers = {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return {f'{name}.{field}' for name in layers for field in ('weight', 'bias')}


def one_step(net):
    """State before and after one step of plain descent with a large rate."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trained = [value for value in net.parameters() if value.requires_grad]
    output = net(torch.randn(2, 3, 32, 32))
    total = sum(part.square().mean() for part in (output if isinstance(output, tuple) else (output,)))
    total.backward()
    torch.optim.SGD(trained, lr=1.0).step()
    after = net.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_freeze_early_fixes_early_layers_and_every_batch_norm():
    net = narrow_seam()
    freeze_early(net)
    early = {f'backbone.{name}' for name, _ in net.backbone.named_parameters()
             if name.split('.')[0] in net.backbone.frozen_prefixes}
    assert frozen(net) == early | norm_parameters(net)
    assert 'backbone.b3.conv_branch2a.weight' not in frozen(net) and 'backbone.conv1a.weight' in frozen(net)


def test_freeze_early_follows_the_backbone():
    net = Seam(PlainBackbone(), CLASSES)
    freeze_early(net)
    assert frozen(net) == {f'backbone.{name}' for name in ('stages.0.weight', 'stages.0.bias', 'norm_layer.weight',
                                                          'norm_layer.bias')}


def test_freeze_norm_affine_fixes_nothing_else():
    net = DeepLab(ResNet38d(1 / 32), CLASSES, fov_channels=8)
    freeze_norm_affine(net)
    assert frozen(net) == norm_parameters(net)
    assert 'bn_fov2.weight' in frozen(net)


def test_a_later_choice_replaces_an_earlier_one():
    net = narrow_seam()
    freeze_early(net)
    freeze_norm_affine(net)
    assert frozen(net) == norm_parameters(net)


def test_train_mode_with_running_statistics_keeps_dropout_on():
    net = narrow_seam().eval()
    set_train_mode(net, 'running')
    assert net.training and net.dropout.training and net.backbone.b7.dropout.training
    assert not any(layer.training for layer in norm_layers(net))


def test_train_mode_with_batch_statistics_sets_everything():
    net = narrow_seam()
    set_train_mode(net, 'running')
    set_train_mode(net, 'batch')
    assert all(module.training for module in net.modules())


def test_train_mode_reaches_through_a_wrapper():
    net = nn.DataParallel(narrow_seam())
    set_train_mode(net, 'running')
    assert net.module.dropout.training and not any(layer.training for layer in norm_layers(net))


def test_cam_step_changes_exactly_what_is_not_frozen():
    net = narrow_seam()
    freeze_early(net)
    set_train_mode(net, 'running')
    trained = {name for name, value in net.state_dict(keep_vars=True).items()
               if isinstance(value, nn.Parameter) and value.requires_grad}
    assert one_step(net) == trained


def test_segmentation_step_changes_convolutions_and_running_statistics():
    net = DeepLab(ResNet38d(1 / 32), CLASSES, fov_channels=8)
    freeze_norm_affine(net)
    set_train_mode(net, 'batch')
    changed = one_step(net)
    assert 'backbone.conv1a.weight' in changed
    assert not changed & norm_parameters(net)
    statistics = {name for name in net.state_dict() if name.endswith(('running_mean', 'running_var'))}
    assert statistics <= changed


def test_subclasses_of_batch_norm_are_found():
    class Activated(nn.BatchNorm2d):
        """As in timm: batch norm with its activation."""

    net = nn.Sequential(Activated(3), nn.SyncBatchNorm(3), nn.GroupNorm(1, 3))
    assert len(list(norm_layers(net))) == 2


@pytest.mark.parametrize('freeze', ['norm', 'backbone'])
def test_the_segmentation_stage_leaves_a_frozen_backbone_as_it_was(freeze):
    args = train_seg.make_parser().parse_args(
        ['--width', '0.03125', '--fov-channels', '8', '--weights', 'none', '--freeze', freeze])
    net = train_seg.make_network(args, CLASSES)
    changed = one_step(net)
    assert {'conv_fov.weight', 'bn_fov.running_mean'} <= changed
    of_backbone = {name for name in changed if name.split('.')[0] not in ('conv_fov', 'conv_fov2', 'bn_fov', 'bn_fov2',
                                                                         'cls_conv')}
    assert bool(of_backbone) == (freeze == 'norm')
