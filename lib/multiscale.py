"""Outputs of a network at several sizes of an image and their mirrors, brought back to the image's size."""
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from tool.imutils import scaled_size


@torch.inference_mode()
def multi_scale(image: np.ndarray, scales: Sequence[float], make_input: Callable[[np.ndarray, int, int], np.ndarray],
                forward: Callable[[torch.Tensor], torch.Tensor], device: torch.device,
                align_corners: bool) -> Iterator[torch.Tensor]:
    """Yield the network's maps of each scale, as it is and mirrored.

    Args:
        image: uint8 [H, W, 3].
        scales: sizes relative to the image.
        make_input: (image, height, width) -> network input float32 [3, height, width].
        forward: batch [2, 3, h, w] of an input and its mirror -> maps [2, k, any, any].
        device: where the network is.
        align_corners: how the maps are resized to the image (bilinear).

    Yields:
        Per scale float32 [2, k, H, W]: the maps, and the maps of the mirror, un-mirrored.
    """
    height, width = image.shape[:2]
    for scale in scales:
        view = torch.from_numpy(make_input(image, *scaled_size(height, width, scale))).to(device)
        maps = forward(torch.stack([view, view.flip(-1)])).float()
        maps = F.interpolate(maps, (height, width), mode='bilinear', align_corners=align_corners)
        yield torch.stack([maps[0], maps[1].flip(-1)])
