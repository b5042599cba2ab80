"""ResNet-38d, the wide residual network of SEAM, AffinityNet and HFPL, dilated to output stride 8.

Source: network A1 of Wu, Shen, van den Hengel, "Wider or Deeper", 2016; dilations as in SEAM and AffinityNet.
"""
import torch
from torch import nn
from torch.nn import functional as F

from lib.net.freeze import BatchDropout2d
from tool.imutils import IMAGENET_NORM

STEM = 64
# name: input, middle and output channels at width 1; stride; dilation of the first and of the second 3x3 convolution
BASIC_BLOCKS = {
    'b2': (64, 128, 128, 2, 1, 1),
    **{name: (128, 128, 128, 1, 1, 1) for name in ('b2_1', 'b2_2')},
    'b3': (128, 256, 256, 2, 1, 1),
    **{name: (256, 256, 256, 1, 1, 1) for name in ('b3_1', 'b3_2')},
    'b4': (256, 512, 512, 2, 1, 1),
    **{name: (512, 512, 512, 1, 1, 1) for name in ('b4_1', 'b4_2', 'b4_3', 'b4_4', 'b4_5')},
    'b5': (512, 512, 1024, 1, 1, 2),
    **{name: (1024, 512, 1024, 1, 2, 2) for name in ('b5_1', 'b5_2')},
}
# name: input channels, those of the first and of the second middle layer, output channels; dilation of the 3x3 one
BOTTLENECKS = {'b6': (1024, 512, 1024, 2048, 4), 'b7': (2048, 1024, 2048, 4096, 4)}
# block whose activated input is a tap
TAPPED = {'b4': 'conv3', 'b5': 'conv4', 'b6': 'conv5'}


class ResNet38d(nn.Module):
    """Pre-activation residual network; the taps are conv3 at stride 4 and conv4, conv5, conv6 at stride 8.

    Args:
        width: width multiplier; 1 is the published network, 1/8 trains on a CPU.
        dropouts: fraction of channels dropped in b6 and in b7.
        bn_momentum: weight of a new batch in the running statistics.

    State-dict names are those of the published checkpoints. The initial weights are PyTorch's defaults: they keep
    activations bounded even with batch norm frozen at mean 0 and variance 1, as in CAM training from random weights.
    """

    stride = 8
    norm = IMAGENET_NORM
    frozen_prefixes = ('conv1a', 'b2', 'b2_1', 'b2_2')
    size_step = None

    def __init__(self, width: float = 1, dropouts: tuple[float, float] = (0.3, 0.5), bn_momentum: float = 0.1):
        super().__init__()

        def scaled(*channels: int) -> tuple[int, ...]:
            return tuple(max(1, round(count * width)) for count in channels)

        self.conv1a = conv(3, *scaled(STEM), size=3)
        for name, (*channels, stride, first, second) in BASIC_BLOCKS.items():
            self.add_module(name, BasicBlock(*scaled(*channels), stride, (first, second), bn_momentum))
        for (name, (*channels, dilation)), dropout in zip(BOTTLENECKS.items(), dropouts, strict=True):
            self.add_module(name, Bottleneck(*scaled(*channels), dilation, dropout, bn_momentum))
        last = self.b7.conv_branch2b2.out_channels
        self.bn7 = nn.BatchNorm2d(last, momentum=bn_momentum)
        blocks = {tap: self.get_submodule(name) for name, tap in TAPPED.items()}
        self.taps = {tap: block.bn_branch2a.num_features for tap, block in blocks.items()} | {'conv6': last}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised images [N, 3, H, W] to the taps, each [N, channels, h, w]."""
        taps = {}
        x = self.conv1a(images)
        for name in (*BASIC_BLOCKS, *BOTTLENECKS):
            x, activated = self.get_submodule(name)(x)
            if name in TAPPED:
                taps[TAPPED[name]] = activated
        taps['conv6'] = F.relu(self.bn7(x), inplace=True)
        return taps


class BasicBlock(nn.Module):
    """Two 3x3 convolutions. forward() also returns the activated input, which the taps use."""

    def __init__(self, channels: int, middle: int, out: int, stride: int, dilations: tuple[int, int], momentum: float):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels, momentum=momentum)
        self.conv_branch2a = conv(channels, middle, size=3, stride=stride, dilation=dilations[0])
        self.bn_branch2b1 = nn.BatchNorm2d(middle, momentum=momentum)
        self.conv_branch2b1 = conv(middle, out, size=3, dilation=dilations[1])
        self.stride = stride
        self.same_shape = channels == out and stride == 1
        if not self.same_shape:
            self.conv_branch1 = conv(channels, out, size=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        activated = F.relu(self.bn_branch2a(x), inplace=True)
        # The shortcut subsamples before its 1x1 convolution, not in it: with stride 2, few channels and
        # channels_last, that convolution's gradient wrote out of bounds on CPUs (torch 2.14).
        shortcut = x if self.same_shape else self.conv_branch1(activated[..., ::self.stride, ::self.stride])
        y = self.conv_branch2a(activated)
        y = self.conv_branch2b1(F.relu(self.bn_branch2b1(y), inplace=True))
        y += shortcut
        return y, activated


class Bottleneck(nn.Module):
    """1x1, dilated 3x3 and 1x1 convolution, with channel dropout before the latter two."""

    def __init__(self, channels: int, first: int, second: int, out: int, dilation: int, dropout: float,
                 momentum: float):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels, momentum=momentum)
        self.conv_branch2a = conv(channels, first, size=1)
        self.bn_branch2b1 = nn.BatchNorm2d(first, momentum=momentum)
        self.conv_branch2b1 = conv(first, second, size=3, dilation=dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(second, momentum=momentum)
        self.conv_branch2b2 = conv(second, out, size=1)
        self.conv_branch1 = conv(channels, out, size=1)
        self.dropout = BatchDropout2d(dropout)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        activated = F.relu(self.bn_branch2a(x), inplace=True)
        y = self.conv_branch2a(activated)
        y = self.conv_branch2b1(self.dropout(F.relu(self.bn_branch2b1(y), inplace=True)))
        y = self.conv_branch2b2(self.dropout(F.relu(self.bn_branch2b2(y), inplace=True)))
        y += self.conv_branch1(activated)
        return y, activated


def conv(channels: int, out: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Convolution without bias; at stride 1 the size of the map is unchanged."""
    return nn.Conv2d(channels, out, size, stride, padding=dilation * (size // 2), dilation=dilation, bias=False)
