"""Loading and saving weights: ImageNet weights for a backbone, and the networks that stages pass on.

Everything is loaded strictly. Files are read with weights_only, which refuses pickled code.
"""
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.files.dataspec import MOST_CLASSES
from lib.files.jsonfile import misfit
from lib.files.torchfile import read_torch, unsound, write_torch

IMAGENET_FILE = 'ilsvrc-cls_rna-a1_cls1000_ep-0001.params'
REMEDY = 'download it again, or finish the stage that trains this network'
CHANNELS = [float]
META = {'network?': str, 'backbone?': str, 'width?': float, 'output_stride?': int, 'classes?': [str],
        'fov_channels?': int, 'dilation?': int, 'dataset?': str, 'preset?': str, 'max_side?': (int, None),
        'norm?': [CHANNELS], 'origin?': {}}         # the meta of save_network; other entries are free
LIMITS = {'width': 4, 'output_stride': 64, 'fov_channels': 8192, 'dilation': 256, 'max_side': 16384}    # all above 0
Tensors = dict[str, torch.Tensor]


def load_imagenet(backbone: nn.Module, source: str | Path) -> None:
    """Load ImageNet weights into a backbone.

    Args:
        backbone: the network to fill.
        source: 'none' leaves it unchanged; a .params file (MXNet, ResNet-38d); a .pth file with the backbone's tensors.
            For a timm backbone see lib/net/timm_weights.py.

    Raises:
        FileNotFoundError: if the file is missing; says where to get it.
        ValueError: if the file is corrupt, or belongs to another network or width.
    """
    path = Path(source)
    if str(source) == 'none':
        return
    if hasattr(backbone, 'timm_name'):      # imported by name: other backbones do without timm
        state = import_module('lib.net.timm_weights').imagenet_tensors(backbone, str(source))
    elif path.suffix not in ('.params', '.pth'):
        raise ValueError(f"{path}: weights are a .params file (MXNet), a .pth file (PyTorch) or 'none'")
    elif not path.exists():
        raise FileNotFoundError(
            f'{path} is missing: the ImageNet weights {IMAGENET_FILE} (by the authors of "Wider or Deeper", '
            'github.com/itijyou/ademxapp) are linked from the README pages of AffinityNet (github.com/jiwoon-ahn/psa) '
            'and SEAM (github.com/YudeWang/SEAM); put the file into pretrained/, or train from scratch: --weights none')
    elif path.suffix == '.pth':
        state = read_network(path)[0]
    else:
        mxnet = import_module('lib.net.mxnet')      # imported by name: hardly any run needs it
        arrays = mxnet.read_mxnet_params(path)
        try:
            state = mxnet.resnet38d_from_mxnet(arrays)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
    _load_strictly(backbone, state, path)


def save_network(path: Path, net: nn.Module, meta: Mapping[str, Any]) -> None:
    """Write a network's tensors and how it was made; an existing file is kept until the new one is complete.

    Args:
        path: the file; its folder is created if needed.
        net: the network, or its DataParallel wrapper.
        meta: how it was made: numbers, strings, lists and dictionaries, as in JSON.
    """
    state = {name: tensor.detach().cpu() for name, tensor in unwrapped(net).state_dict().items()}
    write_torch(Path(path), {'state_dict': state, 'meta': json.loads(json.dumps(dict(meta)))})


def load_network(net: nn.Module, path: Path, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Load a network from a file of save_network, or from a published one that holds only the tensors.

    Args:
        net: the network, or its DataParallel wrapper.
        path: the file; its tensor names may begin with 'module.'.
        classes: names in order; those of the file must be the same, if it has any.

    Returns:
        The file's meta; {} for a published file.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file is corrupt, holds pickled objects or NaN, or is for another network or other classes;
            net is then unchanged.
    """
    state, meta = read_network(path)
    if classes is not None and 'classes' in meta:
        _compare_classes(meta['classes'], list(classes), path)
    _load_strictly(unwrapped(net), state, path)
    return meta


def read_meta(path: Path) -> dict[str, Any]:
    """The meta of a file of save_network, checked; {} for a published file. Raises as load_network."""
    return read_network(path, tensors=False)[1]


def read_network(path: Path, tensors: bool = True) -> tuple[Tensors, dict[str, Any]]:
    """Tensors by name, without 'module.', and checked meta, of either form of file; tensors=False is quick for meta.

    Raises FileNotFoundError, ValueError as load_network.
    """
    content, meta = read_torch(path, REMEDY, tensors), {}
    if isinstance(content, dict) and isinstance(content.get('state_dict'), dict):
        content, meta = content['state_dict'], content.get('meta', {})
    if not isinstance(content, dict) or not content or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()):
        raise ValueError(f"{path} holds no tensors by name; expected a state_dict, or {{'state_dict', 'meta'}}")
    if problem := _problem_of_meta(meta):
        raise ValueError(f'{path} has an invalid description of its network ({problem}); {REMEDY}')
    if all(name.startswith('module.') for name in content):
        content = {name.removeprefix('module.'): value for name, value in content.items()}
    return dict(content), meta


def unwrapped(net: nn.Module) -> nn.Module:
    """The network inside its wrappers: DataParallel, DistributedDataParallel, autocast."""
    while isinstance(inner := getattr(net, 'module', None), nn.Module):
        net = inner
    return net


def _compare_classes(theirs: list[str], ours: list[str], path: Path) -> None:
    """Refuse a network that was trained on other classes, or on the same classes in another order."""
    remedy = 'name the file trained on this data set'
    if len(theirs) != len(ours):
        raise ValueError(f'{path} has {len(theirs) + 1} classes, this data set needs {len(ours) + 1} (background '
                         f'included); {remedy}')
    for number, (their, our) in enumerate(zip(theirs, ours), 1):
        if their != our:
            order = ', or list the classes in the order of the file' if sorted(theirs) == sorted(ours) else ''
            raise ValueError(f'{path} was trained on other classes: class {number} is {their!r} there, {our!r} in this '
                             f'data set; {remedy}{order}')


def _problem_of_meta(meta: Any) -> str:
    if problem := misfit(meta, META, 'meta'):
        return problem
    for key, limit in LIMITS.items():
        if meta.get(key) is not None and not 0 < meta[key] <= limit:
            return f'{key} is {meta[key]}, expected above 0 to {limit}'
    classes, norm = meta.get('classes', ['one']), meta.get('norm', [(0, 0, 0), (1, 1, 1)])
    if not 0 < len(classes) <= MOST_CLASSES or len(set(classes)) < len(classes):
        return f'{len(classes)} classes, expected 1 to {MOST_CLASSES}, all different'
    if [len(values) for values in norm] != [3, 3] or min(norm[1]) <= 0:
        return f'norm is {norm}, expected three means and three standard deviations above 0'
    return ''


def _load_strictly(net: nn.Module, state: Tensors, path: Path) -> None:
    """Load tensors, or explain in one line why they do not fit; net is unchanged then."""
    ours = net.state_dict()
    # Counters of batches, unused with a fixed momentum, came with torch 0.4.1: older files lack them.
    missing = [name for name in ours if name not in state and not name.endswith('num_batches_tracked')]
    unexpected = [name for name in state if name not in ours]
    if missing or unexpected:
        parts = [f'{len(names)} tensors {what} (first: {names[0]})'
                 for what, names in (('missing', missing), ('unexpected', unexpected)) if names]
        raise ValueError(f'{path} belongs to a different network than {type(net).__name__}: {", ".join(parts)}; '
                         'name the file of this stage and backbone')
    head = f'{getattr(net, "class_module", None)}.'
    other = [name for name in ours if name in state and state[name].shape != ours[name].shape]
    has, needs = ([len(tensors[name]) for name in other[:1] if tensors[name].dim()] for tensors in (state, ours))
    if has and has != needs and all(name.startswith(head) for name in other):
        raise ValueError(f'{path} has {has[0]} classes, this data set needs {needs[0]} (background included); name '
                         'the file trained on this data set')
    if other:
        shapes = f'{other[0]} is {tuple(state[other[0]].shape)}, here {tuple(ours[other[0]].shape)}'
        raise ValueError(f'{path} has a different width: {len(other)} tensors differ in shape (first: {shapes}); give '
                         'the --width it was made with')
    for name, tensor in state.items():
        if problem := unsound(tensor):
            raise ValueError(f'{path}: tensor {name} {problem}; {REMEDY}')
        if tensor.is_floating_point() != ours[name].is_floating_point():
            raise ValueError(f'{path}: tensor {name} is {tensor.dtype}, expected {ours[name].dtype}; {REMEDY}')
    net.load_state_dict(state)
