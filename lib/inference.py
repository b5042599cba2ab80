"""A trained network, run on one image after another: in autocast's type, and in float32 where that goes wrong."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.net.depthwise import SplitDepthwise
from lib.run.device import autocast

# Convolutions and the batch norms that read what they wrote and nothing else does, by their names in a block.
FOLDED = {'conv_branch2a': 'bn_branch2b1', 'conv_branch2b1': 'bn_branch2b2', 'conv_fov': 'bn_fov',
          'conv_fov2': 'bn_fov2'}
PLAIN = (nn.Conv2d, SplitDepthwise)     # not their subclasses, which may change the weights at each call


class Inference:
    """Runs a trained network. An image whose outputs are not finite under autocast is computed again in float32.

    Seen: convolutions of stride 2 on maps of width 1 give NaN in bfloat16 on CPUs with AMX (torch 2.14).

    Args:
        make: builds the network and loads its weights; called again for the first image that needs float32.
        device: where it runs.
        amp: autocast type; None for full float32.
        file: of the weights, for messages.
    """

    def __init__(self, make: Callable[[], nn.Module], device: torch.device, amp: torch.dtype | None, file: Path):
        self.make, self.device, self.amp, self.file = make, device, amp, file
        self.network = ready(make(), device, amp)
        self.in_float32 = None if amp else self.network

    def __call__(self, name: str, compute: Callable[[Callable], Any]) -> Any:
        """compute(network) of one image; `network` takes batches of images.

        Raises:
            ValueError: if the outputs are not finite in float32 either; names the image and the file of the network.
        """
        for network in (self._with_autocast, self._with_float32):
            watched = Watched(network)
            result = compute(watched)
            if watched.all_finite():
                return result
        raise ValueError(f'{name}: the outputs of {self.file} are not finite, in float32 either; check the image, or '
                         'train the network again')

    def _with_autocast(self, images: torch.Tensor) -> Any:
        with autocast(self.device, self.amp):
            return self.network(images)

    def _with_float32(self, images: torch.Tensor) -> Any:
        self.in_float32 = self.in_float32 or ready(self.make(), self.device, None)
        return self.in_float32(images)


class Watched:
    """A network that remembers the sum of each of its outputs, in which NaN and infinity stay.

    The sums are on its device. The host reads them once, after the result of the image, for which it waited anyway.
    """

    def __init__(self, network: Callable):
        self.network, self.sums = network, []

    def __call__(self, images: torch.Tensor) -> Any:
        output = self.network(images)
        self.sums += [tensor.sum(dtype=torch.float32)
                      for tensor in ((output,) if isinstance(output, torch.Tensor) else output)]
        return output

    def all_finite(self) -> bool:
        """Whether all values of all outputs were finite."""
        return not self.sums or bool(torch.stack(self.sums).isfinite().all())


def ready(network: nn.Module, device: torch.device, amp: torch.dtype | None) -> nn.Module:
    """The network in eval mode on its device, with less to compute; it can neither be trained nor saved from then on.

    Batch norms are folded into the convolutions before them (ResNet-38d and the head of DeepLab). Autocast would turn
    the weights into its type at every call: they are kept in it.
    """
    network = network.eval().to(device, memory_format=torch.channels_last)
    for block in list(network.modules()):
        for conv, norm in FOLDED.items():
            if isinstance(getattr(block, norm, None), nn.BatchNorm2d) and hasattr(block, conv):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
    for layer in network.modules():
        if amp and type(layer) in PLAIN:
            layer.to(amp)
    return network
