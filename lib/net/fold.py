"""A trained network made ready for inference: less to compute, the same maps.

A batch norm with fixed statistics multiplies and shifts each channel, and so may the convolution before it. Where
autocast would turn the weights into its type at every call, they are kept in it.
"""
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.net.depthwise import SplitDepthwise

PLAIN = (nn.Conv2d, SplitDepthwise)     # not their subclasses, which may change the weights at each call
PROBE_SIDE = 129                        # pixels
TOLERANCE = 1e-3


def for_inference(network: nn.Module, amp: torch.dtype | None = None) -> nn.Module:
    """The network in eval mode with folded batch norms, channels_last, weights in autocast's type; changed in place.

    Its state dict has other tensors from then on: it can neither be trained nor saved.

    Args:
        network: with trained weights, on its device.
        amp: type of the autocast in which it will run; None for full float32.
    """
    fold_norms(network.eval())
    network.to(memory_format=torch.channels_last)
    for layer in network.modules():
        if amp and type(layer) in PLAIN:
            layer.to(amp)
    return network


@torch.no_grad()
def fold_norms(network: nn.Module) -> int:
    """Fold each batch norm that reads what a convolution wrote into that convolution, in place.

    The network is tried out before and after. Should its outputs differ, because something else reads what the
    convolution wrote, it stays as it was.

    Args:
        network: in eval mode, float32; takes images [1, 3, H, W].

    Returns:
        How many batch norms were folded.
    """
    device = next(network.parameters()).device
    probe = torch.linspace(-2, 2, 3 * PROBE_SIDE ** 2, device=device).view(1, 3, PROBE_SIDE, PROBE_SIDE)
    before, pairs = _try_out(network, probe)
    modules = dict(network.named_modules())
    for conv, norm in pairs:
        network.set_submodule(conv, fuse_conv_bn_eval(modules[conv], modules[norm]))
        # timm has batch norms that contain dropout and the activation.
        rest = [part for part in (getattr(modules[norm], name, None) for name in ('drop', 'act')) if part]
        network.set_submodule(norm, nn.Sequential(*rest))
    after, _ = _try_out(network, probe)
    if all((one - other).abs().max() <= TOLERANCE * one.abs().max() for one, other in zip(before, after)):
        return len(pairs)
    for name in sum(pairs, ()):
        network.set_submodule(name, modules[name])
    return 0


def _try_out(network: nn.Module, probe: torch.Tensor) -> tuple[Sequence[torch.Tensor], list[tuple[str, str]]]:
    """Outputs for a probe, and names (convolution, batch norm) wherever the one hands its output to the other."""
    written, pairs, hooks = {}, [], []

    def note_output(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        written[id(output)] = layer, output, output._version        # kept, so that no other tensor gets its id

    def note_pair(layer: nn.Module, inputs: tuple) -> None:
        source, tensor, version = written.get(id(inputs[0]), (None, None, None))
        if source and tensor._version == version:                   # nothing was added to it in place
            pairs.append((names[source], names[layer]))

    names = {layer: name for name, layer in network.named_modules()}
    for layer in names:
        if type(layer) in PLAIN:
            hooks.append(layer.register_forward_hook(note_output))
        elif isinstance(layer, nn.BatchNorm2d):
            hooks.append(layer.register_forward_pre_hook(note_pair))
    try:
        output = network(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return (output,) if isinstance(output, torch.Tensor) else tuple(output), pairs
