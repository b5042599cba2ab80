"""SEAM: class activation maps, and the same maps refined by the similarity of pixels.

Source: Wang et al., "Self-supervised Equivariant Attention Mechanism", CVPR 2020.
"""
import torch
from torch import nn
from torch.nn import functional as F

from lib.net.backbone import Backbone, hide_backbone_prefix
from lib.net.freeze import BatchDropout2d
from tool.seamutils import SeamOutput, class_seed, pixel_correlation, resize
from tool.torchutils import full_precision

LOW, HIGH = 64, 128             # channels of the projected conv4 and conv5
IMAGE_CHANNELS = 3


class Seam(nn.Module):
    """Classifier on conv6, and pixel correlation on conv4, conv5 and the image.

    Args:
        backbone: see lib/net/backbone.py.
        num_classes: including background.
        dropout: fraction of conv6 channels dropped before the classifier.
    """

    new_modules = ('fc8', 'f8_3', 'f8_4', 'f9')     # not from ImageNet: higher learning rate (--head-lr)
    class_module = 'fc8'

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.5):
        super().__init__()
        self.backbone = backbone
        taps = backbone.taps
        self.dropout = BatchDropout2d(dropout)
        self.fc8 = nn.Conv2d(taps['conv6'], num_classes, 1, bias=False)
        self.f8_3 = nn.Conv2d(taps['conv4'], LOW, 1, bias=False)
        self.f8_4 = nn.Conv2d(taps['conv5'], HIGH, 1, bias=False)
        self.f9 = nn.Conv2d(IMAGE_CHANNELS + LOW + HIGH, LOW + HIGH, 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)
        nn.init.kaiming_normal_(self.f8_3.weight)
        nn.init.kaiming_normal_(self.f8_4.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)
        hide_backbone_prefix(self)

    def forward(self, images: torch.Tensor) -> SeamOutput:
        """Normalised images [N, 3, H, W] to maps, float32 under autocast too."""
        taps = self.backbone(images)
        logits = full_precision(self.fc8(self.dropout(taps['conv6'])))
        refined = pixel_correlation(self.correlation_features(images, taps), class_seed(logits))
        size = images.shape[-2:]
        return SeamOutput(resize(logits, size), resize(refined, size), logits)

    def correlation_features(self, images: torch.Tensor, taps: dict[str, torch.Tensor]) -> torch.Tensor:
        """Features [N, LOW + HIGH, h, w] for comparing pixels; no gradient flows into the backbone."""
        low, high = taps['conv4'].detach(), taps['conv5'].detach()
        small = resize(images, low.shape[-2:])
        return self.f9(torch.cat([small, F.relu(self.f8_3(low)), F.relu(self.f8_4(high))], dim=1))
