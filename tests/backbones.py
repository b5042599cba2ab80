"""A backbone that has nothing in common with ResNet-38d but the contract, for tests of the heads."""
import torch
from torch import nn

from tool.imutils import Norm


class PlainBackbone(nn.Module):
    """Three convolutions at stride 4, own normalisation, a parameter of its own, a nested early part."""

    taps = {'conv4': 5, 'conv5': 6, 'conv6': 7}
    stride = 4
    norm = Norm((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    frozen_prefixes = ('stages.0',)
    size_step = None

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.stages = nn.Sequential(nn.Conv2d(3, 5, 3, stride=4, padding=1), nn.Conv2d(5, 6, 1), nn.Conv2d(6, 7, 1))
        self.norm_layer = nn.BatchNorm2d(7)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        low = self.stages[0](images * self.scale)
        middle = self.stages[1](low.relu())
        return {'conv4': low, 'conv5': middle, 'conv6': self.norm_layer(self.stages[2](middle.relu()))}
