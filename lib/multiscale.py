"""Outputs of a network at several sizes of an image and their mirrors, brought back to the image's size."""
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.nn import functional as F


@torch.inference_mode()
def multi_scale(views: Iterable[np.ndarray], size: tuple[int, int], forward: Callable[[torch.Tensor], torch.Tensor],
                device: torch.device, align_corners: bool, flip: bool = True) -> Iterator[torch.Tensor]:
    """Yield the network's maps of each view of an image, as it is and mirrored.

    Args:
        views: the image, or several, at every scale as network input, float32 [..., 3, h, w]; taken as they are needed.
        size: height and width of the image.
        forward: batch [N, 3, h, w] of views and their mirrors -> maps [N, k, any, any].
        device: where the network is.
        align_corners: how the maps are resized to the image (bilinear).
        flip: False leaves the mirror out.

    Yields:
        Per view float32 [2, ..., k, *size]: the maps, and the maps of the mirror, un-mirrored; [1, ...] without flip.
    """
    for view in views:
        view = torch.as_tensor(view).to(device, non_blocking=True)      # the GPU may still be at the view before
        pair = torch.stack([view, view.flip(-1)] if flip else [view])
        maps = forward(pair.flatten(0, -4)).float()
        maps = F.interpolate(maps, size, mode='bilinear', align_corners=align_corners)
        maps = maps.unflatten(0, pair.shape[:-3])
        yield torch.stack([maps[0], maps[1].flip(-1)]) if flip else maps
