"""A trained network, run on one image after another: in autocast's type, and in float32 where that goes wrong."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.net.depthwise import SplitDepthwise
from lib.run.device import autocast

PLAIN = (nn.Conv2d, SplitDepthwise)     # not their subclasses, which may change the weights at each call


class NotFinite(ValueError):
    """A network gave NaN or infinite values."""


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
        try:
            try:
                return compute(self._with_autocast)
            except NotFinite:
                self.in_float32 = self.in_float32 or ready(self.make(), self.device, None)
                return compute(lambda images: finite(self.in_float32(images)))
        except NotFinite:
            raise ValueError(f'{name}: the outputs of {self.file} are not finite, in float32 either; check the '
                             'image, or train the network again') from None

    def _with_autocast(self, images: torch.Tensor) -> Any:
        with autocast(self.device, self.amp):
            return finite(self.network(images))


def ready(network: nn.Module, device: torch.device, amp: torch.dtype | None) -> nn.Module:
    """The network in eval mode on its device. Autocast would turn the weights into its type at every call: they are
    kept in it. Changed in place; it can neither be trained nor saved from then on."""
    network = network.eval().to(device, memory_format=torch.channels_last)
    for layer in network.modules():
        if amp and type(layer) in PLAIN:
            layer.to(amp)
    return network


def finite(output: Any) -> Any:
    """The output of a network, a tensor or a named tuple of them; raises NotFinite unless all its values are finite."""
    for tensor in (output,) if isinstance(output, torch.Tensor) else output:
        if not tensor.sum().isfinite():         # one pass over the maps; NaN and infinity stay in a sum
            raise NotFinite
    return output
