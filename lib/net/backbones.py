"""Choice of a backbone by its name, as --backbone gives it and as a trained network's file remembers it."""
from importlib import import_module
from pathlib import Path

from lib.net.backbone import Backbone
from lib.net.resnet38d import ResNet38d
from lib.net.weights import read_meta

RESNET38D, TIMM = 'resnet38d', 'timm:'


def make_backbone(name: str, width: float = 1, stride: int = 8, dropouts: tuple[float, float] = (0.3, 0.5),
                  bn_momentum: float = 0.1) -> Backbone:
    """A backbone with random weights.

    Args:
        name: 'resnet38d' or 'timm:NAME'.
        width: width multiplier of ResNet-38d; a timm network is as wide as its name says.
        stride: pixels of the image per position of the features; ResNet-38d has 8, timm networks 8 or 16.
        dropouts: of ResNet-38d's last two blocks; a timm network has no dropout of its own here.
        bn_momentum: weight of a new batch in the running statistics.

    Raises:
        ImportError: if timm is needed and not installed.
        ValueError: if there is no such backbone, or it has not this stride.
    """
    if name == RESNET38D:
        if stride != ResNet38d.stride:
            raise ValueError(f'--output-stride {stride}: {RESNET38D} has {ResNet38d.stride}; leave the flag out')
        return ResNet38d(width, dropouts, bn_momentum)
    if name.startswith(TIMM):       # imported by name: other backbones do without timm
        timm_backbone = import_module('lib.net.timm_backbone')
        return timm_backbone.TimmBackbone(name.removeprefix(TIMM), stride, bn_momentum)
    raise ValueError(f'--backbone {name} is unknown; use {RESNET38D} or {TIMM}NAME')


def trained_backbone(path: Path, width: float) -> Backbone:
    """The backbone that a trained network's file was made with, to be filled from that file.

    Args:
        path: the file; a published one does not say its backbone: then it is ResNet-38d.
        width: of ResNet-38d, for a file that does not say it.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    meta = read_meta(path)
    try:
        return make_backbone(meta.get('backbone', RESNET38D), meta.get('width', width),
                             meta.get('output_stride', ResNet38d.stride))
    except ValueError as error:
        raise ValueError(f'{path} has an invalid description of its network: {error}') from error


def check_network(path: Path, kind: str, backbone: str | None) -> dict:
    """Make sure that a trained network's file exists, is of this kind and was made with this backbone, if it says so.

    Args:
        path: the file; a published one has no such description.
        kind: seam, aff or deeplab.
        backbone: what --backbone says; None for any.

    Returns:
        The file's description of its network.

    Raises:
        FileNotFoundError, ValueError: if not.
    """
    meta = read_meta(path)
    if meta.get('network', kind) != kind:
        raise ValueError(f'{path} belongs to a different network ({meta["network"]}, expected {kind}); name the file '
                         'of this stage and backbone')
    made_with = meta.get('backbone', RESNET38D)
    if backbone not in (None, made_with):
        raise ValueError(f'{path} was made with --backbone {made_with}, not {backbone}; leave the flag out')
    return meta
