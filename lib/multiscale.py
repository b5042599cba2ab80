"""Multi-scale inference: outputs of a network at several scales of an image and their flips, resized to the image."""
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.nn import functional as F


@torch.inference_mode()
def multi_scale(views: Iterable[np.ndarray], size: tuple[int, int], forward: Callable[[torch.Tensor], torch.Tensor],
                device: torch.device, align_corners: bool, flip: bool = True) -> Iterator[torch.Tensor]:
    """Yield the network's maps for each view of an image and for its horizontal flip.

    Args:
        views: the image, or several, at every scale as network input, float32 [..., 3, h, w]; read as needed.
        size: height and width of the image.
        forward: batch [N, 3, h, w] of views and their flips -> maps [N, k, any, any].
        device: where the network is.
        align_corners: how the maps are resized to the image (bilinear).
        flip: whether to add the horizontal flip.

    Yields:
        Per view float32 [2, ..., k, *size]: its maps, and those of its flip, flipped back; [1, ...] without flip.
    """
    for view in views:
        view = torch.as_tensor(view).to(device, non_blocking=True)      # the GPU may still read the last view
        pair = torch.stack([view, view.flip(-1)] if flip else [view])
        maps = forward(pair.flatten(0, -4)).float()
        maps = F.interpolate(maps, size, mode='bilinear', align_corners=align_corners)
        maps = maps.unflatten(0, pair.shape[:-3])
        yield torch.stack([maps[0], maps[1].flip(-1)]) if flip else maps
