"""The interface of a backbone, the names of its tensors, and the creation of one by its name.

A head never asks which backbone it has; it reads these attributes. So a new backbone needs no change in a head.
"""
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from lib.net.resnet38d import ResNet38d
from lib.net.weights import read_meta
from tool.imutils import Norm

HIDDEN_PREFIX = 'backbone.'


class Backbone(Protocol):
    """An nn.Module with these attributes."""

    taps: Mapping[str, int]             # number of channels of each feature map that forward returns
    stride: int                         # pixels of the image per position of conv4, conv5 and conv6, in each direction
    norm: Norm                          # normalisation that the input images must have
    frozen_prefixes: tuple[str, ...]    # submodules that keep their ImageNet weights in the CAM and affinity stages
    size_step: int | None               # image sizes should be a multiple of it plus 1; None: any size

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images [N, 3, H, W] to feature maps by tap name. Heads need 'conv4', 'conv5', 'conv6', all of size
        ceil(H / stride) x ceil(W / stride), from shallow to deep."""


def hide_backbone_prefix(net: nn.Module) -> None:
    """Make the state dict of `net` name the tensors of net.backbone without 'backbone.', as in published files.

    SEAM and AffinityNet were published as subclasses of their backbone (`conv1a.weight`). Here a network contains its
    backbone, so names are translated on saving and loading, also inside DataParallel and DistributedDataParallel.
    named_parameters() keeps the prefix; state_dict(keep_vars=True) gives the parameters by their published names.
    """
    net.register_state_dict_post_hook(_remove_prefix)
    net.register_load_state_dict_pre_hook(_add_prefix)


def _remove_prefix(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict) -> None:
    """Rename in place; all entries are re-inserted, to keep the order: backbone first, then the head."""
    long = prefix + HIDDEN_PREFIX
    for name in [name for name in state if name.startswith(prefix)]:
        value = state.pop(name)
        state[prefix + name.removeprefix(long) if name.startswith(long) else name] = value


def _add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict, strict: bool,
                missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str]) -> None:
    """The inverse. A name that the backbone lacks is kept, so strict loading reports it as it is in the file."""
    for name in module.backbone.state_dict():
        if prefix + name in state:
            state[prefix + HIDDEN_PREFIX + name] = state.pop(prefix + name)


RESNET38D, TIMM = 'resnet38d', 'timm:'


def make_backbone(name: str, width: float = 1, stride: int | None = None, dropouts: tuple[float, float] = (0.3, 0.5),
                  bn_momentum: float = 0.1) -> Backbone:
    """A backbone with random weights.

    Args:
        name: 'resnet38d' or 'timm:NAME'.
        width: width multiplier of ResNet-38d; a timm network has a fixed width.
        stride: output stride, in pixels; None: the network's own.
        dropouts: of ResNet-38d's last two blocks; a timm network is used without dropout.
        bn_momentum: weight of a new batch in the running statistics.

    Raises:
        ImportError: if timm is needed but not installed.
        ValueError: if the backbone is unknown or lacks this stride.
    """
    if name == RESNET38D:
        if stride not in (None, ResNet38d.stride):
            raise ValueError(f'--output-stride {stride}: {RESNET38D} has {ResNet38d.stride}; leave the flag out')
        return ResNet38d(width, dropouts, bn_momentum)
    if name.startswith(TIMM):       # imported by name: other backbones do not need timm
        timm_backbone = import_module('lib.net.timm_backbone')
        return timm_backbone.TimmBackbone(name.removeprefix(TIMM), stride, bn_momentum)
    raise ValueError(f'--backbone {name} is unknown; use {RESNET38D} or {TIMM}NAME')


def trained_backbone(path: Path, width: float) -> Backbone:
    """The backbone of a trained network's file, with random weights, to be loaded from that file.

    A published file does not name its backbone, which is ResNet-38d then, nor its width. Raises FileNotFoundError if
    the file is missing, ValueError if its description is invalid.
    """
    meta = read_meta(path)
    try:
        return make_backbone(meta.get('backbone', RESNET38D), meta.get('width', width),
                             meta.get('output_stride', ResNet38d.stride))
    except ValueError as error:
        raise ValueError(f'{path} has an invalid description of its network: {error}') from error


def check_network(path: Path, kind: str, backbone: str | None) -> dict:
    """The description in a trained network's file, which must be of this kind and backbone; {} for a published file.

    Args:
        kind: seam, aff or deeplab.
        backbone: what --backbone says; None for any.

    Raises:
        FileNotFoundError, ValueError: if the file is missing, or belongs to a different network.
    """
    meta = read_meta(path)
    if meta.get('network', kind) != kind:
        raise ValueError(f'{path} belongs to a different network ({meta["network"]}, expected {kind}); name the file '
                         'of this stage and backbone')
    made_with = meta.get('backbone', RESNET38D)
    if backbone not in (None, made_with):
        raise ValueError(f'{path} was made with --backbone {made_with}, not {backbone}; leave the flag out')
    return meta
