"""Networks of timm as backbones: taps, padding, freezing, and what cannot be one. Skipped where timm is missing."""
import copy

import pytest
import torch
from torch import nn

from lib.net.aff import AffinityNet
from lib.net.backbone import make_backbone
from lib.net.deeplab import DeepLab
from lib.net.depthwise import SplitDepthwise, with_fast_depthwise
from lib.net.freeze import FREEZE, freeze_norm_affine, make_optimizer, norm_layers, set_train_mode
from lib.net.seam import Seam
from lib.net.timm_backbone import TimmBackbone

timm = pytest.importorskip('timm')
SMALL = 'test_efficientnet'     # 0.1 million weights
CLASSES = 4


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def trained_names(net):
    return {name for name, value in net.named_parameters() if value.requires_grad}


@pytest.mark.parametrize('stride', [8, 16])
@pytest.mark.parametrize('name', [SMALL, 'test_resnet', 'test_convnext', 'mobilenetv3_small_050', 'test_vit'])
def test_any_network_gives_three_maps_of_one_size_at_the_stride(name, stride):
    backbone = TimmBackbone(name, stride).eval()
    assert backbone.stride == stride and list(backbone.taps) == ['conv4', 'conv5', 'conv6']
    with torch.no_grad():
        for height, width in ((65, 33), (40, 47), (9, 20)):
            maps = backbone(torch.zeros(1, 3, height, width))
            assert {tap: tuple(values.shape[1:]) for tap, values in maps.items()} == {
                tap: (channels, -(-height // stride), -(-width // stride)) for tap, channels in backbone.taps.items()}


@pytest.mark.parametrize('name, stride, unused', [
    (SMALL, 8, set()), ('test_convnext', 8, {'head'}), ('mobilenetv3_small_050', 8, {'blocks', 'conv_head'}),
    ('vgg11_bn', 16, {'pre_logits'}), ('densenet121', 16, {'features'}), ('test_vit3', 8, {'attn_pool'})])
def test_every_parameter_gets_a_gradient_and_the_state_dict_has_all_tensors(name, stride, unused):
    backbone = TimmBackbone(name, stride)
    theirs = timm.create_model(name, num_classes=0).state_dict()
    assert backbone.state_dict().keys() == {f'model.{key}' for key in theirs}
    DeepLab(backbone, CLASSES, fov_channels=8)(torch.randn(2, 3, 65, 65)).square().mean().backward()
    assert all(value.grad is not None for value in backbone.parameters())
    hidden = {key for key, value in backbone.model.named_buffers() if not key.endswith(
        ('running_mean', 'running_var', 'num_batches_tracked'))}
    assert {key.split('.')[0] for key in hidden} == unused


def test_even_padding_equals_that_of_tensorflow_at_sizes_of_a_multiple_plus_one():
    backbone = TimmBackbone('tf_efficientnet_lite0').eval()
    assert backbone.taps == {'conv4': 40, 'conv5': 112, 'conv6': 1280}      # conv6: after the head convolution
    theirs = timm.create_model('tf_efficientnet_lite0', num_classes=0, output_stride=8).eval()
    theirs.load_state_dict(backbone.model.state_dict())
    assert not [layer for layer in backbone.modules() if 'Same' in type(layer).__name__]
    with torch.no_grad():
        fits, other = torch.randn(1, 3, 65, 41), torch.randn(1, 3, 64, 40)
        torch.testing.assert_close(backbone(fits)['conv6'], theirs.forward_features(fits))
        assert not torch.allclose(backbone(other)['conv6'], theirs.forward_features(other))


def test_normalisation_and_batch_norm_are_those_of_the_pretrained_configuration():
    backbone = TimmBackbone('tf_mobilenetv3_small_075', bn_momentum=0.25)
    assert backbone.norm == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert {(layer.eps, layer.momentum) for layer in norm_layers(backbone)} == {(1e-3, 0.25)}
    assert TimmBackbone('mobilenetv3_small_050').norm.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize('name, frozen', [(SMALL, {'conv_stem', 'blocks.0'}), ('test_resnet', {'conv1'}),
                                          ('test_convnext', {'stem'}), ('test_vit', {'patch_embed'})])
def test_freezing_early_layers_stops_before_stride_four(name, frozen):
    net = Seam(TimmBackbone(name), CLASSES)
    FREEZE['early'](net)
    whole = set(dict(net.named_parameters()))
    norms = {f'{name}.{field}' for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)
             for field in ('weight', 'bias')}
    kept = {name for name in whole if name.startswith(tuple(f'backbone.model.{part}.' for part in frozen))}
    assert kept and trained_names(net) == whole - kept - norms


@pytest.mark.parametrize('make', [lambda backbone: Seam(backbone, CLASSES), AffinityNet])
def test_a_frozen_backbone_leaves_the_head_alone_to_learn(make):
    net = make(TimmBackbone(SMALL))
    FREEZE['backbone'](net)
    set_train_mode(net, batch_norm='running')
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = make_optimizer(net, lr=0.1, momentum=0.9, weight_decay=0, head_lr=3)
    output = net(torch.randn(2, 3, 65, 65))
    sum(part.square().mean() for part in (output if isinstance(output, tuple) else (output,))).backward()
    optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.split('.')[0] in net.new_modules for name in changed)
    assert {group['name']: group['lr'] for group in optimizer.param_groups if group['params']} == {
        'new weights': pytest.approx(0.3)}


def test_segmentation_trains_every_convolution_on_batch_statistics():
    net = DeepLab(TimmBackbone(SMALL), CLASSES, fov_channels=8, bn_momentum=0.2)
    freeze_norm_affine(net)
    set_train_mode(net, batch_norm='batch')
    stored = net.backbone.model.bn1.running_mean.clone()
    assert net(torch.randn(2, 3, 65, 65)).shape == (2, CLASSES, 65, 65)
    assert not torch.equal(net.backbone.model.bn1.running_mean, stored)
    assert 'backbone.model.conv_stem.weight' in trained_names(net)
    assert {layer.momentum for layer in norm_layers(net)} == {0.2}


@pytest.mark.parametrize('name, stride, message', [
    ('test_efficientnett', 8, r"timm has no network 'test_efficientnett'; did you mean test_efficientnet"),
    ('zzzzz', 8, 'timm.list_models'),
    ('test_vit', 5, r'gives features at strides 16, which are not three maps down to 5; leave --output-stride out'),
    ('swin_tiny_patch4_window7_224', 8, r'gives features at strides 4, 8, 16, 32, which are not three maps down to 8'),
    ('coat_lite_tiny', None, r"it fails \(AssertionError: Input height \(288\) doesn't match model \(224\)\.\) on an"),
    ('mobilevitv2_050', 8, r'it gives maps of \[\(10, 10\)\], not 9x9, on an image of 65x65 pixels at stride 8')])
def test_what_cannot_be_a_backbone_is_explained_in_one_line(name, stride, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_backbone(f'timm:{name}', stride=stride)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('height, width', [(21, 21), (5, 13), (8, 3)])
def test_split_depthwise_convolution_equals_the_plain_one_with_its_gradients(height, width):
    plain = nn.Conv2d(6, 6, 5, padding=8, dilation=4, groups=6, dtype=torch.float64)
    model = with_fast_depthwise(nn.Sequential(copy.deepcopy(plain), nn.Conv2d(6, 6, 3, padding=2, dilation=2)))
    split = model[0]
    assert type(split) is SplitDepthwise and type(model[1]) is nn.Conv2d
    results = []
    for layer in (plain, split):
        image = torch.linspace(-1, 1, 2 * 6 * height * width, dtype=torch.float64).sin()
        image = image.view(2, 6, height, width).requires_grad_()
        output = layer(image)
        output.square().sum().backward()
        results.append((output, image.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_mobilenet_at_stride_eight_has_split_convolutions_and_the_same_output():
    backbone = TimmBackbone('mobilenetv2_035').eval()
    theirs = timm.create_model('mobilenetv2_035', num_classes=0, output_stride=8, pad_type='').eval()
    theirs.load_state_dict(backbone.model.state_dict())
    assert [layer for layer in backbone.modules() if isinstance(layer, SplitDepthwise)]
    with torch.no_grad():
        image = torch.randn(2, 3, 43, 65)
        torch.testing.assert_close(backbone(image)['conv6'], theirs.forward_features(image))
