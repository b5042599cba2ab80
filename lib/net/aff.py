"""AffinityNet: features that are similar for pixels of the same class.

Source: Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision", CVPR 2018.
"""
import torch
from torch import nn
from torch.nn import functional as F

from lib.net.backbone import Backbone, hide_backbone_prefix
from tool.torchutils import full_precision

LOW, MIDDLE, HIGH = 64, 128, 256    # channels of the projected conv4, conv5 and conv6


class AffinityNet(nn.Module):
    """Projections of conv4, conv5 and conv6, mixed by another layer; tool/affutils.py compares the features."""

    new_modules = ('f8_3', 'f8_4', 'f8_5', 'f9')    # not from ImageNet: higher learning rate (--head-lr)

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        taps = backbone.taps
        self.f8_3 = nn.Conv2d(taps['conv4'], LOW, 1, bias=False)
        self.f8_4 = nn.Conv2d(taps['conv5'], MIDDLE, 1, bias=False)
        self.f8_5 = nn.Conv2d(taps['conv6'], HIGH, 1, bias=False)
        self.f9 = nn.Conv2d(LOW + MIDDLE + HIGH, LOW + MIDDLE + HIGH, 1, bias=False)
        for layer in (self.f8_3, self.f8_4, self.f8_5):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)
        hide_backbone_prefix(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [N, 3, H, W] to features [N, 448, h, w], float32 under autocast too."""
        taps = self.backbone(images)
        features = torch.cat([F.elu(self.f8_3(taps['conv4'])),
                              F.elu(self.f8_4(taps['conv5'])),
                              F.elu(self.f8_5(taps['conv6']))], dim=1)
        return F.elu(full_precision(self.f9(features)))
