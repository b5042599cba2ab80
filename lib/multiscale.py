"""Outputs of a network at several sizes of an image and their mirrors, brought back to the image's size."""
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.nn import functional as F


@torch.inference_mode()
def multi_scale(views: Iterable[np.ndarray], size: tuple[int, int], forward: Callable[[torch.Tensor], torch.Tensor],
                device: torch.device, align_corners: bool) -> Iterator[torch.Tensor]:
    """Yield the network's maps of each view of an image, as it is and mirrored.

    Args:
        views: the image at every scale as network input, float32 [3, h, w] each; taken as they are needed.
        size: height and width of the image.
        forward: batch [2, 3, h, w] of a view and its mirror -> maps [2, k, any, any].
        device: where the network is.
        align_corners: how the maps are resized to the image (bilinear).

    Yields:
        Per view float32 [2, k, *size]: the maps, and the maps of the mirror, un-mirrored.
    """
    for view in views:
        view = torch.as_tensor(view).to(device, non_blocking=True)      # the GPU may still be at the view before
        maps = forward(torch.stack([view, view.flip(-1)])).float()
        maps = F.interpolate(maps, size, mode='bilinear', align_corners=align_corners)
        yield torch.stack([maps[0], maps[1].flip(-1)])
