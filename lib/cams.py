"""CAMs of one image from a trained CAM network."""
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from lib.multiscale import multi_scale
from tool.crfutils import seed_scores
from tool.imutils import Norm, fitting_size, normalise, resize_bicubic, scaled_size
from tool.seamutils import fuse_scales


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
