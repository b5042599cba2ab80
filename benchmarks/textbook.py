"""Plain textbook forms of the paper's losses: short, obviously right, slow. Kept for tests and for comparison."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5


def isl_loss(logits: Tensor, image_labels: Tensor, num_samples: int = 10,
             generator: torch.Generator | None = None) -> Tensor:
    """Importance-sampling loss of foreground logits [N,K,h,w], one map after the other; scalar."""
    losses = []
    for maps, labels in zip(logits, image_labels):
        for scores, label in zip(maps.flatten(1), labels):
            drawn = torch.multinomial(torch.sigmoid(scores) + EPS, num_samples, replacement=True, generator=generator)
            losses.append(F.binary_cross_entropy_with_logits(scores[drawn], label.expand(num_samples)))
    return torch.stack(losses).mean()


def fsl_loss(cam: Tensor, images: Tensor, mu: float = 2.5, sigma: float | None = 5.0) -> Tensor:
    """Feature-similarity loss of maps [N,C,h,w] and images [N,3,h,w] in [0, 1] by matrices of all pairs; scalar."""
    count, _, height, width = cam.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    places = torch.stack([y, x], dim=-1).view(-1, 2).to(cam)
    if sigma is None:
        near = torch.tensor(1 / (height * width)).to(cam)
    else:
        near = torch.exp(-torch.cdist(places, places) ** 2 / (2 * sigma ** 2)) / (2 * math.pi * sigma ** 2)
    colours = images.flatten(2).transpose(1, 2)
    delta = (torch.cdist(colours, colours, p=1) / 3).clamp(0, 1)
    similar = torch.tanh(mu + torch.log((delta + EPS) / (1 - delta + EPS)))
    values = cam.flatten(2).transpose(1, 2)
    apart = torch.cdist(values, values) ** 2
    return -(near * similar * apart / 2).sum() / (count * height * width)
