"""Weights in and out: ImageNet weights for a backbone, and networks that a stage hands to the next.

Everything is loaded strictly. Files are read with weights_only, which refuses pickled code.
"""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.files.dataspec import MOST_CLASSES
from lib.files.jsonfile import misfit
from lib.files.torchfile import read_torch, unsound, write_torch
from lib.net.mxnet import read_mxnet_params, resnet38d_from_mxnet
from lib.net.timm_backbone import TimmBackbone
from lib.net.timm_weights import FROM_TIMM, backbone_names, from_timm, read_safetensors, weights_path

IMAGENET_FILE = 'ilsvrc-cls_rna-a1_cls1000_ep-0001.params'
REMEDY = 'fetch it again, or finish the stage that trains this network'
CHANNELS = [float]
META = {'network?': str, 'backbone?': str, 'width?': float, 'output_stride?': (8, 16), 'classes?': [str],
        'fov_channels?': int, 'dilation?': int, 'dataset?': str, 'preset?': str, 'max_side?': (int, None),
        'norm?': [CHANNELS], 'origin?': {}}         # what save_network is told; other entries are free
LIMITS = {'width': 4, 'fov_channels': 8192, 'dilation': 256, 'max_side': 16384}     # all are above 0
Tensors = dict[str, torch.Tensor]


def load_imagenet(backbone: nn.Module, source: str | Path) -> None:
    """Start a backbone from ImageNet weights.

    Args:
        backbone: the network to fill.
        source: 'none' leaves it as it is; a .params file (MXNet, ResNet-38d); a .pth file with the backbone's tensors.
            For a timm backbone: 'timm', 'efficientnet-lite0' (its package), or a .pth or .safetensors file of timm.

    Raises:
        FileNotFoundError: if there is no such file; says where it comes from.
        ValueError: if the file is corrupt, or belongs to another network or width.
    """
    if str(source) == 'none':
        return
    if isinstance(backbone, TimmBackbone):
        _load_timm(backbone, str(source))
        return
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f'{path} is missing: the ImageNet weights {IMAGENET_FILE} (by the authors of "Wider or Deeper", '
            'github.com/itijyou/ademxapp) are linked from the README pages of AffinityNet (github.com/jiwoon-ahn/psa) '
            'and SEAM (github.com/YudeWang/SEAM); put the file into pretrained/, or train from scratch: --weights none')
    if path.suffix == '.params':
        arrays = read_mxnet_params(path)
        try:
            state = resnet38d_from_mxnet(arrays)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
    elif path.suffix == '.pth':
        state, _ = _split(read_torch(path, REMEDY), path)
    else:
        raise ValueError(f"{path}: weights are a .params file (MXNet), a .pth file (PyTorch) or 'none'")
    _load_strictly(backbone, state, path)


def _load_timm(backbone: TimmBackbone, source: str) -> None:
    if source == FROM_TIMM:
        _load_strictly(backbone, from_timm(backbone), Path(f'the network {backbone.name} of timm'))
        return
    path = weights_path(backbone, source)
    state = read_safetensors(path) if path.suffix == '.safetensors' else _split(read_torch(path, REMEDY), path)[0]
    _load_strictly(backbone, backbone_names(state, backbone), path)


def save_network(path: Path, net: nn.Module, meta: Mapping[str, Any]) -> None:
    """Write a network's tensors and what was said about them; a former file stays until the new one is whole.

    Args:
        path: the file; its folder is made if need be.
        net: the network, or its DataParallel wrapper.
        meta: how it was made: numbers, texts, lists, dictionaries (what JSON can hold).

    Raises:
        ValueError: if meta holds anything else, which load_network would refuse to read.
    """
    try:
        plain = json.loads(json.dumps(dict(meta)))
    except TypeError as error:
        raise ValueError(f'{path}: meta may hold numbers, texts, lists and dictionaries only: {error}') from error
    state = {name: tensor.detach().cpu() for name, tensor in unwrapped(net).state_dict().items()}
    write_torch(Path(path), {'state_dict': state, 'meta': plain})


def load_network(net: nn.Module, path: Path, expect: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fill a network from a file of save_network, or from a published one that holds just the tensors.

    Args:
        net: the network, or its DataParallel wrapper.
        path: the file; its tensor names may begin with 'module.'.
        expect: entries that the file's meta must have if it has them at all, as {'classes': spec.classes}: the same
            names in the same order.

    Returns:
        The file's meta; {} for a published file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is corrupt, holds pickled objects or NaN, or fits another network or other classes;
            net is then unchanged.
    """
    path = Path(path)
    state, meta = _split(read_torch(path, REMEDY), path)
    for key, wanted in (expect or {}).items():
        if key == 'classes':
            _compare_classes(meta.get(key), wanted, path)
        elif key in meta and meta[key] != wanted:
            raise ValueError(f'{path} was made with {key} {meta[key]!r}, this run has {wanted!r}; name another file '
                             f'or set {key} to {meta[key]!r}')
    _load_strictly(unwrapped(net), state, path)
    return meta


def read_meta(path: Path) -> dict[str, Any]:
    """What save_network was told about a file, of the right types and in range; {} for a published one.

    Raises:
        FileNotFoundError, ValueError: as load_network.
    """
    return _split(read_torch(path, REMEDY, tensors=False), path)[1]


def unwrapped(net: nn.Module) -> nn.Module:
    """The network inside its wrappers: DataParallel, DistributedDataParallel, autocast."""
    while isinstance(inner := getattr(net, 'module', None), nn.Module):
        net = inner
    return net


def _compare_classes(found: Sequence[str] | None, wanted: Sequence[str], path: Path) -> None:
    """Refuse a network that was trained on other classes, or on the same ones in another order."""
    if found is None or list(found) == list(wanted):
        return
    remedy = 'name the file trained on this data set'
    if len(found) != len(wanted):
        raise ValueError(f'{path} has {len(found) + 1} classes, this data set needs {len(wanted) + 1} (background '
                         f'included); {remedy}')
    number, theirs, ours = next((i, a, b) for i, (a, b) in enumerate(zip(found, wanted), 1) if a != b)
    raise ValueError(f'{path} was trained on other classes: class {number} is {theirs!r} there, {ours!r} in this data '
                     f'set; {remedy}' + (', or list the classes in the order of the file'
                                         if sorted(found) == sorted(wanted) else ''))


def _split(content: Any, path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors by name, without 'module.', and checked meta, of either form of file."""
    meta = {}
    if isinstance(content, dict) and isinstance(content.get('state_dict'), dict):
        content, meta = content['state_dict'], content.get('meta', {})
    if not isinstance(content, dict) or not content or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()):
        raise ValueError(f"{path} holds no tensors by name; expected a state_dict, or {{'state_dict', 'meta'}}")
    if problem := _problem_of_meta(meta):
        raise ValueError(f'{path} says of itself what cannot be ({problem}); {REMEDY}')
    if all(name.startswith('module.') for name in content):
        content = {name.removeprefix('module.'): value for name, value in content.items()}
    return dict(content), meta


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
    """Load tensors, or explain in one line why they do not fit; then net is unchanged."""
    wanted = net.state_dict()
    # Counters of batches, unused with a fixed momentum, came with torch 0.4.1: older files lack them.
    missing = [name for name in wanted if name not in state and not name.endswith('num_batches_tracked')]
    unexpected = [name for name in state if name not in wanted]
    if missing or unexpected:
        parts = [f'{len(names)} tensors {what} (first: {names[0]})'
                 for what, names in (('missing', missing), ('unexpected', unexpected)) if names]
        raise ValueError(f'{path} belongs to a different network than {type(net).__name__}: {", ".join(parts)}; '
                         'name the file of this stage and backbone')
    other = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    class_module = getattr(net, 'class_module', None)
    by_class = [name for name in other if class_module and name.startswith(f'{class_module}.')]
    if other and other == by_class:
        has, needs = (tensors[other[0]].shape[0] for tensors in (state, wanted))
        if has != needs:
            raise ValueError(f'{path} has {has} classes, this data set needs {needs} (background included); '
                             'name the file trained on this data set')
    if other:
        name = next((name for name in other if name not in by_class), other[0])
        raise ValueError(f'{path} is of another width: {len(other)} tensors differ in shape (first: {name} is '
                         f'{tuple(state[name].shape)}, here {tuple(wanted[name].shape)}); '
                         'give the --width it was made with')
    for name, tensor in state.items():
        if problem := unsound(tensor):
            raise ValueError(f'{path}: tensor {name} {problem}; {REMEDY}')
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise ValueError(f'{path}: tensor {name} is of {tensor.dtype}, expected {wanted[name].dtype}; {REMEDY}')
    net.load_state_dict(state)
