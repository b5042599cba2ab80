"""What a head may expect of a backbone, and how a network that owns one names its tensors.

A head never asks which backbone it has. It reads these attributes, so another backbone needs no change in a head.
"""
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from tool.imutils import Norm

HIDDEN_PREFIX = 'backbone.'


class Backbone(Protocol):
    """An nn.Module with these attributes."""

    taps: Mapping[str, int]             # channels of each feature map that forward returns
    stride: int                         # pixels of the image per position of conv4, conv5 and conv6, in each direction
    norm: Norm                          # normalisation that the input images must have
    frozen_prefixes: tuple[str, ...]    # submodules that keep their ImageNet weights in the CAM and affinity stages
    size_step: int | None               # images are best given in sizes of a multiple of it plus 1; None: in any size

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images [N, 3, H, W] to feature maps by tap name. Heads need 'conv4', 'conv5', 'conv6', all of size
        ceil(H / stride) x ceil(W / stride), from shallow to deep."""


def hide_backbone_prefix(net: nn.Module) -> None:
    """Make the state dict of `net` name the tensors of net.backbone without 'backbone.', as published files do.

    SEAM and AffinityNet were published as subclasses of their backbone (`conv1a.weight`). Ours own any backbone,
    so the names are translated on the way out and in. This also holds below DataParallel and DistributedDataParallel.
    named_parameters() keeps the prefix; state_dict(keep_vars=True) gives the parameters by their published names.
    """
    net.register_state_dict_post_hook(_remove_prefix)
    net.register_load_state_dict_pre_hook(_add_prefix)


def _remove_prefix(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict) -> None:
    """Rename in place; everything is put back, so that the order stays: backbone first, then the head."""
    long = prefix + HIDDEN_PREFIX
    for name in [name for name in state if name.startswith(prefix)]:
        value = state.pop(name)
        state[prefix + name.removeprefix(long) if name.startswith(long) else name] = value


def _add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict, strict: bool,
                missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str]) -> None:
    """The way back. A name that the backbone lacks stays, so strict loading reports it as it is in the file."""
    for name in module.backbone.state_dict():
        if prefix + name in state:
            state[prefix + HIDDEN_PREFIX + name] = state.pop(prefix + name)
