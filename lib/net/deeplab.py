"""DeepLab with one large field of view: the segmentation network trained on the pseudo-labels.

Source: Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets ...", ICLR 2015 (DeepLab-LargeFOV), with
batch norm in the head as in the HFPL release.
"""
import torch
from torch import nn
from torch.nn import functional as F

from lib.net.backbone import Backbone
from lib.net.freeze import BatchDropout, norm_layers
from tool.torchutils import full_precision


class DeepLab(nn.Module):
    """Dilated convolution, 1x1 convolution and classifier on conv6.

    Args:
        backbone: see lib/net/backbone.py.
        num_classes: including background.
        fov_channels: channels of the head.
        dilation: of the head's 3x3 convolution, in positions of conv6.
        dropout: fraction of values dropped before the classifier.
        bn_momentum: weight of a new batch in the running statistics, also set on every batch norm of the backbone.
            The published 3e-4 suits 20,000 steps; a few hundred steps need 0.1.
    """

    new_modules = ('conv_fov', 'conv_fov2', 'cls_conv')     # not from ImageNet: higher learning rate (--head-lr)
    class_module = 'cls_conv'

    def __init__(self, backbone: Backbone, num_classes: int, fov_channels: int = 512, dilation: int = 12,
                 dropout: float = 0.5, bn_momentum: float = 3e-4):
        super().__init__()
        self.backbone = backbone
        self.conv_fov = nn.Conv2d(backbone.taps['conv6'], fov_channels, 3, padding=dilation, dilation=dilation,
                                  bias=False)
        self.bn_fov = nn.BatchNorm2d(fov_channels)
        self.conv_fov2 = nn.Conv2d(fov_channels, fov_channels, 1, bias=False)
        self.bn_fov2 = nn.BatchNorm2d(fov_channels)
        self.dropout = BatchDropout(dropout)
        self.cls_conv = nn.Conv2d(fov_channels, num_classes, 1)
        for layer in (self.conv_fov, self.conv_fov2, self.cls_conv):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out')
        for layer in norm_layers(self):
            layer.momentum = bn_momentum

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [N, 3, H, W] to logits [N, C, H, W], float32 under autocast too."""
        x = self.backbone(images)['conv6']
        x = F.relu(self.bn_fov(self.conv_fov(x)), inplace=True)
        x = F.relu(self.bn_fov2(self.conv_fov2(x)), inplace=True)
        logits = full_precision(self.cls_conv(self.dropout(x)))
        return F.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=True)
