"""Any convolutional network of timm as a backbone: `timm:NAME` at output stride 8 or 16.

timm is an optional requirement (requirements-timm.txt): it is imported when such a backbone is asked for, not before.
"""
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from lib.net.depthwise import with_fast_depthwise
from lib.net.freeze import norm_layers
from tool.imutils import Norm

PREFIX = 'timm:'
TAPS = ('conv4', 'conv5', 'conv6')


class TimmBackbone(nn.Module):
    """A timm network without its classifier. conv6 is its last feature map, conv4 and conv5 the two stages before.

    EfficientNet-like networks end with the 1x1 head convolution, others with the last stage. Networks that timm cannot
    dilate are cut where their own stride reaches `stride`. Networks ported from TensorFlow pad unevenly, which shifts
    the maps of even sizes by up to stride - 1 pixels; here they pad evenly, which is the same at sizes of a multiple of
    the stride plus 1.

    Args:
        name: of the network in timm.
        stride: 8 or 16.
        bn_momentum: weight of a new batch in the running statistics.

    Raises:
        ImportError: if timm is not installed.
        ValueError: if timm has no such network, or the network gives no features at this stride.
    """

    def __init__(self, name: str, stride: int = 8, bn_momentum: float = 0.1):
        super().__init__()
        self.timm_name, self.stride, self.size_step = name, stride, stride
        self.model = with_fast_depthwise(_create(name, stride))
        for layer in norm_layers(self.model):
            layer.momentum = bn_momentum
        config = self.model.pretrained_cfg
        self.norm = Norm(tuple(config['mean']), tuple(config['std']))
        stages = [dict(stage) for stage in self.model.feature_info]
        kept = [index for index, stage in enumerate(stages) if stage['reduction'] <= stride]
        if len(kept) < len(TAPS) or stages[kept[-1]]['reduction'] != stride:
            strides = ', '.join(str(value) for value in sorted({stage['reduction'] for stage in stages}))
            raise ValueError(f'{PREFIX}{name} gives features at strides {strides}, not at {stride}; give '
                             '--output-stride 8 or 16 as it suits, or another --backbone')
        self.indices = kept[-len(TAPS):]
        self.whole = len(kept) == len(stages)
        self.pads = False
        maps = self._try_out()
        self.taps = {tap: values.shape[1] for tap, values in maps.items()}
        _hide_unused(self, maps.values())
        self.frozen_prefixes = tuple(f'model.{part}' for part in _early_modules(self.model, stages))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised images [N, 3, H, W] to the taps, each [N, channels, ceil(H / stride), ceil(W / stride)]."""
        if self.pads:
            height, width = images.shape[-2:]
            images = F.pad(images, (0, -width % self.stride, 0, -height % self.stride))
        maps = self._maps(images)
        size = maps[-1].shape[-2:]
        # At stride 16 the shallower taps are finer.
        return {tap: values if values.shape[-2:] == size else F.adaptive_avg_pool2d(values, size)
                for tap, values in zip(TAPS, maps)}

    def _maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        if not self.whole:
            return self.model.forward_intermediates(images, indices=self.indices, stop_early=True,
                                                    intermediates_only=True)
        last, maps = self.model.forward_intermediates(images, indices=self.indices)
        return [*maps[:-1], last]

    @torch.enable_grad()
    def _try_out(self) -> dict[str, torch.Tensor]:
        """The taps for a small image; finds out whether the network drops what is left over of a size."""
        side, mode = 8 * self.stride + 1, self.model.training
        images = torch.zeros(1, 3, side, side)
        try:
            self.pads = self.eval()._maps(images)[-1].shape[-1] == side // self.stride
            taps = self(images)
            sizes = {tuple(values.shape[-2:]) for values in taps.values()}
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f'{PREFIX}{self.timm_name} cannot be used as a convolutional backbone: it failed on an '
                             f'image of {side}x{side} ({type(error).__name__}); give another --backbone') from error
        if sizes != {(9, 9)}:
            raise ValueError(f'{PREFIX}{self.timm_name} gives maps of {sorted(sizes)} for an image of {side} pixels, '
                             f'expected 9x9 at stride {self.stride}; give another --backbone')
        self.train(mode)
        return taps


def _hide_unused(network: nn.Module, outputs: Iterable[torch.Tensor]) -> None:
    """Turn parameters that no output depends on into buffers of the same names, in place.

    They stay in the state dict, but nothing trains them: DistributedDataParallel waits for every parameter's gradient.
    """
    nodes, seen, used = [values.grad_fn for values in outputs], set(), set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            used.add(getattr(node, 'variable', None))
            nodes += [above for above, _ in node.next_functions]
    for layer in network.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if parameter not in used:
                delattr(layer, name)
                layer.register_buffer(name, parameter.detach())


def import_timm() -> ModuleType:
    """timm, or an ImportError that says how to get it."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f'--backbone {PREFIX}NAME needs timm, which is not installed ({error}); '
                          'pip install -r requirements-timm.txt') from error
    return timm


def _create(name: str, stride: int) -> nn.Module:
    """The network with random weights, dilated to the stride where timm can do it."""
    timm = import_timm()
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        hint = f'did you mean {" or ".join(close)}?' if close else 'timm.list_models() names all'
        raise ValueError(f'timm has no network {name!r}; {hint}')
    error = None
    for options in ({'output_stride': stride, 'pad_type': ''}, {'output_stride': stride}, {'pad_type': ''}, {}):
        try:
            return timm.create_model(name, num_classes=0, **options)
        except (AssertionError, NotImplementedError, TypeError) as caught:
            error = caught
    raise ValueError(f'timm cannot make {name} ({error}); give another --backbone')


def _early_modules(model: nn.Module, stages: Sequence[dict]) -> list[str]:
    """Modules with weights of their own that see the image at stride 2 or finer: what ResNet-38d keeps fixed too."""
    names = [name for name, _ in model.named_modules() if name]
    early = [stage['module'] for stage in stages if stage['reduction'] <= 2]
    last = early[-1] if early else stages[0]['module']
    if last not in names:
        raise ValueError(f'{PREFIX}{model.pretrained_cfg["architecture"]} cannot be used as a convolutional backbone: '
                         f'timm names a module {last!r} that it lacks; give another --backbone')
    before = names[:names.index(last)] + ([last] if early else [])
    outer = [name for name in before if not last.startswith(f'{name}.')]
    return [name for name in outer if not any(name.startswith(f'{other}.') for other in outer)
            and any(True for _ in model.get_submodule(name).parameters())]
