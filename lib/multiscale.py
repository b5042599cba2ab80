"""Multi-scale inference: outputs of a network at several scales of an image and their flips; CAMs of one image."""
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from tool.crfutils import seed_scores
from tool.imutils import Norm, fitting_size, normalise, resize_bicubic, scaled_size
from tool.seamutils import fuse_scales


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


def add_views(sample: dict, scales: Sequence[float], norm: Norm, size_step: int | None) -> dict:
    """A sample with 'views' added: the normalised image at every scale, float32 [3, h, w] each.

    `size_step` is the backbone's, see lib/net/backbone.py.
    """
    image = sample['image']
    sizes = [fitting_size(*scaled_size(*image.shape[:2], scale), size_step) for scale in scales]
    return sample | {'views': [normalise(resize_bicubic(image, *size), norm) for size in sizes]}


def infer_cams(sample: Mapping, network: Callable, device: torch.device,
               alphas: Sequence[float] = ()) -> tuple[np.ndarray | dict[float, np.ndarray], ...]:
    """CAMs of one image, the average of the refined maps of all views; and its seeds for the given alphas.

    Args:
        sample: from add_views(), with the image-level labels.
        network: batch of images -> SeamOutput.
        device: of the network; the CRF of the seeds runs there too.

    Returns:
        The image uint8 [H, W, 3], indices [k] of the foreground classes present, CAMs float32 [k, H, W] in [0, 1], and
        the classifier's probabilities float32 [K], averaged over the views; seeds float32 [1 + k, H, W] by alpha.
    """
    image, present, means = sample['image'], np.flatnonzero(sample['image_labels']), []
    index = torch.from_numpy(present if len(present) else np.zeros(1, int)).to(device, non_blocking=True)

    def forward(views: torch.Tensor) -> torch.Tensor:
        output = network(views)
        means.append(output.cam[:, 1:].mean((2, 3)))
        return output.refined[:, 1:][:, index]

    maps = torch.cat(list(multi_scale(sample['views'], image.shape[:2], forward, device, align_corners=False)))
    cam, probs = fuse_scales(maps)[:len(present)], torch.cat(means).float().sigmoid().mean(0)
    return image, present, cam.cpu().numpy(), probs.cpu().numpy(), seed_scores(image, cam, alphas) if alphas else {}
