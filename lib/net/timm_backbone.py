"""Any network of timm as a backbone: `timm:NAME`, convolutional or a transformer.

timm is an optional requirement (requirements-timm.txt); it is imported only when such a backbone is used.
"""
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from types import ModuleType
from warnings import catch_warnings

import torch
from torch import nn
from torch.nn import functional as F

from lib.net.depthwise import with_fast_depthwise
from lib.net.freeze import norm_layers
from tool.imutils import Norm

PREFIX = 'timm:'
TAPS = ('conv4', 'conv5', 'conv6')
FAILURES = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
            ValueError)       # what timm's networks raise for unsupported inputs


class TimmBackbone(nn.Module):
    """A timm network without its classifier. conv6 is its last feature map, conv4 and conv5 are shallower ones.

    A network with several stages gives the last three; EfficientNet-like ones end with the 1x1 head convolution. A
    plain transformer gives the patches after each third of its blocks, the last ones normalised; its position
    embeddings are interpolated to the image. Shallower maps at a finer stride are average-pooled.

    Args:
        name: of the network in timm.
        stride: output stride, in pixels. Convolutional networks are dilated to it if timm supports that; other
            networks with several stages are cut where their stride reaches it; the patches of a plain transformer
            overlap if their size is a multiple of it. None: 8 by dilation, otherwise the network's own.
        bn_momentum: weight of a new batch in the running statistics.

    Raises:
        ImportError: if timm is not installed.
        ValueError: if timm has no such network, or if it gives no features at this stride or for all image sizes.
    """

    def __init__(self, name: str, stride: int | None = None, bn_momentum: float = 0.1):
        super().__init__()
        self.timm_name = name
        self.model = with_fast_depthwise(_create(name, stride))
        for layer in norm_layers(self.model):
            layer.momentum = bn_momentum
        config = self.model.pretrained_cfg
        self.norm = Norm(tuple(config['mean']), tuple(config['std']))
        if not (stages := [dict(stage) for stage in getattr(self.model, 'feature_info', ())]):
            raise ValueError(f'{PREFIX}{name} gives no feature maps in this version of timm; use the version of '
                             'requirements-timm.txt, or give another --backbone')
        strides = [stage['reduction'] for stage in stages]
        self.stride = self.size_step = stride or strides[-1]
        if plain := len(set(strides)) == 1:
            strides = _overlap_patches(self.model, strides, self.stride)
        kept = [index for index, value in enumerate(strides) if value <= self.stride]
        if len(kept) < len(TAPS) or strides[kept[-1]] != self.stride:
            raise ValueError(f'{PREFIX}{name} gives features at strides {", ".join(map(str, sorted(set(strides))))}, '
                             f'which are not three maps down to {self.stride}; leave --output-stride out, or give '
                             'another one or another --backbone')
        self.indices = [len(kept) * third // 3 - 1 for third in (1, 2, 3)] if plain else kept[-len(TAPS):]
        self.whole = len(kept) == len(stages)
        self.resizes = hasattr(self.model, 'set_input_size') and not getattr(self.model, 'dynamic_img_size', False)
        self.interpolates = self.resizes or isinstance(getattr(self.model, 'pos_embed', None), torch.Tensor)
        maps = self._try_out(max(strides))
        self.taps = {tap: values.shape[1] for tap, values in maps.items()}
        _hide_unused(self, maps.values())
        self.frozen_prefixes = tuple(f'model.{part}' for part in _early_modules(self.model, stages))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised images [N, 3, H, W] to the taps, each [N, channels, ceil(H / stride), ceil(W / stride)]."""
        height, width = images.shape[-2:]
        if self.multiple > 1:
            down, right = -height % self.multiple, -width % self.multiple
            # Patches are padded evenly: in sizes of a multiple of the stride plus 1 their centres are then aligned.
            top, left = (down // 2, right // 2) if self.multiple == self.stride else (0, 0)
            images = F.pad(images, (left, right - left, top, down - top), mode='replicate')
        maps = self._maps(images)
        size = maps[-1].shape[-2:]
        maps = [values if values.shape[-2:] == size else F.adaptive_avg_pool2d(values, size) for values in maps]
        if self.multiple > self.stride:
            maps = [values[..., :-(-height // self.stride), :-(-width // self.stride)] for values in maps]
        return dict(zip(TAPS, maps))

    def _maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The feature maps of the network, the shallowest first."""
        with _resized(self.model, tuple(images.shape[-2:])) if self.resizes else nullcontext():
            if not self.whole:
                return self.model.forward_intermediates(images, indices=self.indices, stop_early=True,
                                                        intermediates_only=True)
            last, maps = self.model.forward_intermediates(images, indices=self.indices)
        if last.dim() == 3:             # tokens, those of class and registers first; some have their norm behind a mean
            rows, columns = maps[-1].shape[-2:]
            last = getattr(self.model, 'fc_norm', nn.Identity())(last[:, last.shape[1] - rows * columns:])
            last = last.transpose(1, 2).unflatten(2, (rows, columns))
        elif getattr(self.model, 'output_fmt', 'NCHW') == 'NHWC':
            last = last.permute(0, 3, 1, 2)
        return [*maps[:-1], last]

    @torch.enable_grad()
    def _try_out(self, deepest: int) -> dict[str, torch.Tensor]:
        """The taps for a small image; finds the multiple to which the network needs image sizes padded."""
        side, mode, found = 8 * self.stride + 1, self.model.training, ''
        self.eval()
        for multiple in (1, self.stride, deepest):
            self.multiple = multiple
            try:
                taps = self(torch.zeros(1, 3, side, side))
                sizes = {tuple(values.shape[-2:]) for values in taps.values()}
                found = f'gives maps of {sorted(sizes)}, not 9x9,'
            except FAILURES as error:
                sizes, found = None, f'fails ({first_line(error)})'
            if sizes == {(9, 9)}:
                self.train(mode)
                return taps
        raise ValueError(f'{PREFIX}{self.timm_name} cannot be used as a backbone: it {found} on an image of '
                         f'{side}x{side} pixels at stride {self.stride}; give another --backbone, or use the timm of '
                         'requirements-timm.txt')


def first_line(error: Exception) -> str:
    """The message of an error in at most 120 characters."""
    return f'{type(error).__name__}: {" ".join(str(error).split())}'[:120]


def _overlap_patches(model: nn.Module, strides: list[int], stride: int) -> list[int]:
    """Let the patches of a plain transformer, embedded by one convolution, overlap to give features at this stride.

    Takes and returns the strides of its blocks, unchanged if that is not possible.
    """
    convolution, patch = getattr(getattr(model, 'patch_embed', None), 'proj', None), strides[0]
    if not isinstance(convolution, nn.Conv2d) or convolution.stride != (patch, patch) or patch % stride:
        return strides
    convolution.stride = model.patch_embed.patch_size = (stride, stride)
    convolution.padding = ((patch - stride + 1) // 2,) * 2
    return [stride] * len(strides)


@contextmanager
def _resized(model: nn.Module, size: tuple[int, int]) -> Iterator[None]:
    """Set the image size of a network with relative position biases, and restore everything at the end.

    timm replaces the biases by resized copies, so they are not trained.
    """
    before = [(layer, {**vars(layer), '_parameters': dict(layer._parameters), '_buffers': dict(layer._buffers)})
              for layer in model.modules()]
    try:
        with catch_warnings(action='ignore'):       # about the memory layout of what timm interpolates
            model.set_input_size(size)
        yield
    finally:
        for layer, attributes in before:
            vars(layer).update(attributes)


def _hide_unused(network: nn.Module, outputs: Iterable[torch.Tensor]) -> None:
    """Turn parameters that do not affect the output into buffers of the same names, in place.

    They stay in the state dict but are not trained: DistributedDataParallel waits for the gradient of every parameter.
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
    """The timm module, or an ImportError that says how to install it."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f'--backbone {PREFIX}NAME needs timm, which is not installed ({error}); '
                          'pip install -r requirements-timm.txt') from error
    return timm


def _create(name: str, stride: int | None) -> nn.Module:
    """The network with random weights, dilated to the stride if timm supports that."""
    timm = import_timm()
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        hint = f'did you mean {" or ".join(close)}?' if close else 'timm.list_models() names all'
        raise ValueError(f'timm has no network {name!r}; {hint}')
    error = None
    dilated = {'output_stride': stride or 8}
    for options in ({**dilated, 'pad_type': ''}, dilated, {'pad_type': ''}, {'dynamic_img_size': True}, {}):
        try:
            return timm.create_model(name, num_classes=0, **options)
        except FAILURES as caught:
            error = caught
    raise ValueError(f'timm cannot make {name} ({first_line(error)}); give another --backbone')


def _early_modules(model: nn.Module, stages: Sequence[dict]) -> list[str]:
    """Modules with weights that run at stride 2 or finer, the part that is frozen in ResNet-38d too."""
    names = [name for name, _ in model.named_modules() if name]
    early = [stage['module'] for stage in stages if stage['reduction'] <= 2]
    last = early[-1] if early else stages[0]['module']
    if last not in names:       # not found under timm's name: the first layer
        return [next(name for name, layer in model.named_modules() if any(True for _ in layer.parameters(False)))]
    before = names[:names.index(last)] + ([last] if early else [])
    outer = [name for name in before if not last.startswith(f'{name}.')]
    return [name for name in outer if not any(name.startswith(f'{other}.') for other in outer)
            and any(True for _ in model.get_submodule(name).parameters())]
