"""Networks made ready for inference: the same maps with fewer layers."""
import pytest
import torch
from torch import nn

from lib.net.aff import AffinityNet
from lib.net.deeplab import DeepLab
from lib.net.fold import fold_norms, for_inference
from lib.net.freeze import norm_layers
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from lib.net.timm_backbone import TimmBackbone

IMAGES = torch.linspace(-2, 2, 2 * 3 * 65 * 97).sin().mul(2).view(2, 3, 65, 97)


def trained(network):
    """The network with batch norms as after training: each channel has its own statistics, scale and shift."""
    with torch.no_grad():
        for layer in norm_layers(network):
            for values, low, high in ((layer.running_mean, -0.2, 0.2), (layer.running_var, 0.5, 2),
                                      (layer.weight, 0.5, 1.5), (layer.bias, -0.2, 0.2)):
                values.uniform_(low, high)
    return network.eval()


@pytest.mark.parametrize(('make', 'left', 'folded'), [(AffinityNet, 17, 20), (lambda net: Seam(net, 5), 17, 20),
                                                      (lambda net: DeepLab(net, 5, 8), 17, 22)])
@torch.no_grad()
def test_folded_network_computes_the_same_with_fewer_batch_norms(make, left, folded):
    torch.manual_seed(0)
    network = trained(make(ResNet38d(1 / 32)))
    taps, output = network.backbone(IMAGES), network(IMAGES)
    assert fold_norms(network) == folded and len(list(norm_layers(network))) == left
    for name, values in network.backbone(IMAGES).items():
        torch.testing.assert_close(values, taps[name], rtol=1e-4, atol=1e-4)
    again = network(IMAGES)
    output, again = (part if isinstance(part, torch.Tensor) else part.logits for part in (output, again))
    torch.testing.assert_close(again, output, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['resnet18', 'tf_efficientnet_lite0', 'densenet121'])
@torch.no_grad()
def test_folded_timm_network_computes_the_same(name):
    pytest.importorskip('timm')
    torch.manual_seed(0)
    network = AffinityNet(TimmBackbone(name)).eval()
    norms, taps = len(list(norm_layers(network))), network.backbone(IMAGES)
    folded = fold_norms(network)
    assert folded > 0 and len(list(norm_layers(network))) == norms - folded
    for tap, values in network.backbone(IMAGES).items():
        torch.testing.assert_close(values, taps[tap], rtol=1e-3, atol=1e-4 * float(taps[tap].abs().max()))


class Shared(nn.Module):
    """A batch norm reads what a convolution wrote, and so does the sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images):
        maps = self.conv(images)
        return maps + self.norm(maps)


def test_a_convolution_that_others_read_too_keeps_its_batch_norm():
    network = trained(Shared())
    before = network(IMAGES)
    assert fold_norms(network) == 0 and isinstance(network.norm, nn.BatchNorm2d)
    assert torch.equal(network(IMAGES), before)


@torch.no_grad()
def test_weights_are_kept_in_the_type_of_autocast_and_maps_stay_near():
    torch.manual_seed(0)
    network = trained(Seam(ResNet38d(1 / 32), 5))
    plain = network(IMAGES).logits
    for_inference(network, torch.bfloat16)
    assert {layer.weight.dtype for layer in network.modules() if isinstance(layer, nn.Conv2d)} == {torch.bfloat16}
    assert {layer.weight.dtype for layer in norm_layers(network)} == {torch.float32}
    with torch.autocast('cpu', torch.bfloat16):
        assert (network(IMAGES).logits - plain).abs().max() < 0.05 * plain.abs().max()
