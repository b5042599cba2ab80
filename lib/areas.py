"""Match the areas of a trained segmentation network to those of its pseudo-labels.

A network trained for a few hundred steps predicts the frequent background where it is unsure, and the CRF removes thin
regions, so that classes cover less than in the labels it was trained on. The remedy is a new prior of the classes: a
constant added to each logit, so that every class covers as much of some training images as its labels do.

Source: Saerens et al., "Adjusting the outputs of a classifier to new a priori probabilities", Neural Computation 2002;
here the areas after the CRF take the place of the mean probabilities.
"""
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from lib.data.datasets import TrainSet
from lib.files.imageio import read_mask
from lib.net.deeplab import DeepLab
from lib.net.freeze import eval_mode
from lib.predict import infer_probs
from lib.process import ranks
from lib.process.cli import progress
from lib.run.device import mean_of_all
from tool.crfutils import crf_scores
from tool.densecrf import FINAL_CRF

IMAGES = 64                     # evenly spaced over the training images
ROUNDS = 10, 5                  # without and then with the CRF
STEP, LARGEST = 1.0, 3.0        # of a logit: in a round, and altogether


def areas_of(labels: Iterable[torch.Tensor], num_classes: int, device: torch.device) -> torch.Tensor:
    """Fraction of the labelled pixels of each class [C] in the labels [H, W] of all processes; 0 without any pixels."""
    counts = torch.zeros(num_classes, dtype=torch.float64, device=device)
    for label in labels:
        counts += label.flatten().bincount(minlength=256)[:num_classes]
    counts = mean_of_all(counts)
    return counts / counts.sum().clamp(min=1e-6)


def matching_bias(images: Sequence[np.ndarray], probs: Sequence[np.ndarray], target: torch.Tensor) -> torch.Tensor:
    """What to add to the logits so that the labels after the CRF cover the target areas.

    Args:
        images: uint8 [H, W, 3]; with several processes, this one's part of them.
        probs: class probabilities [C, H, W] of each.
        target: fraction of the pixels of each class, float64 [C], on the device where the CRF is to run.

    Returns:
        float64 [C] in [-3, 3], 0 for background and for classes without pixels in the target.
    """
    bias = torch.zeros_like(target)
    for crf in progress([False] * ROUNDS[0] + [True] * ROUNDS[1], 'areas', 'round'):
        labels = (_label(image, prob, bias, crf) for image, prob in zip(images, probs))
        areas = areas_of(labels, len(target), target.device)
        change = target.clamp(min=1e-6).log() - areas.clamp(min=1e-6).log()
        bias += torch.where(target > 0, (change - change[0]).clamp(-STEP, STEP), 0)
        bias.clamp_(-LARGEST, LARGEST)
    return bias


def match_areas(network: DeepLab, dataset: TrainSet, device: torch.device) -> None:
    """Add matching_bias() of some training images and their label PNGs to the classifier of a network, in place.

    Every process takes its part of the images, and adds the same.
    """
    rank, world, *_ = ranks.place()
    pairs = dataset.labelled()
    pairs = pairs[::-(-len(pairs) // IMAGES)][rank::world]
    classes = dataset.spec.num_classes
    target = areas_of((torch.from_numpy(read_mask(path, classes)).to(device) for _, path in pairs), classes, device)
    images = [dataset.read(sample) for sample, _ in pairs]
    backbone = network.backbone
    with eval_mode(network):
        probs = [infer_probs(image, network, (1,), backbone.norm, backbone.size_step, device) for image in images]
    bias = matching_bias(images, probs, target)
    ranks.print_rank0('areas matched to those of the labels: logits shifted by '
                      f'{bias.min().item():.2f} to {bias.max().item():.2f}')
    with torch.no_grad():
        network.cls_conv.bias += bias


def _label(image: np.ndarray, probs: np.ndarray, bias: torch.Tensor, crf: bool) -> torch.Tensor:
    """Class of each pixel [H, W] once the bias is added to the logits."""
    shifted = torch.from_numpy(probs).to(bias.device) * bias.exp().float()[:, None, None]
    shifted /= shifted.sum(0)
    return (crf_scores(image, shifted, FINAL_CRF) if crf else shifted).argmax(0)
