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

from lib.data.datasets import TrainSet, read_sample
from lib.files.imageio import read_mask
from lib.net.deeplab import DeepLab
from lib.net.freeze import eval_mode
from lib.predict import finished, infer_probs
from lib.process.cli import progress

IMAGES = 64                     # evenly spaced over the training images
ROUNDS = 10, 5                  # without and then with the CRF
STEP, LARGEST = 1.0, 3.0        # of a logit: in a round, and altogether


def areas_of(labels: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """Fraction of the labelled pixels of each class [C]; 0 everywhere without any."""
    counts = sum(np.bincount(label.ravel(), minlength=256)[:num_classes] for label in labels)
    return counts / max(1, counts.sum())


def matching_bias(images: Sequence[np.ndarray], probs: Sequence[np.ndarray], target: np.ndarray) -> np.ndarray:
    """What to add to the logits so that the labels after the CRF cover the target areas.

    Args:
        images: uint8 [H, W, 3].
        probs: class probabilities [C, H, W] of each.
        target: fraction of the pixels of each class [C].

    Returns:
        float64 [C] in [-3, 3], 0 for background and for classes without pixels in the target.
    """
    bias, wanted = np.zeros(len(target)), target > 0
    rounds = [None] * ROUNDS[0] + ['torch'] * ROUNDS[1]
    for crf in progress(rounds, 'areas', 'round'):
        labels = (finished(image, _shifted(prob, bias), crf)[1] for image, prob in zip(images, probs))
        change = np.log(target.clip(1e-6)) - np.log(areas_of(labels, len(target)).clip(1e-6))
        bias += np.where(wanted, (change - change[0]).clip(-STEP, STEP), 0)
        bias = bias.clip(-LARGEST, LARGEST)
    return bias


def match_areas(network: DeepLab, dataset: TrainSet, device: torch.device) -> np.ndarray:
    """Add matching_bias() of some training images and their label PNGs to the classifier of a network, in place.

    Returns:
        What was added.
    """
    pairs = dataset.labelled()
    pairs = pairs[::-(-len(pairs) // IMAGES)]
    target = areas_of((read_mask(path, dataset.spec.num_classes) for _, path in pairs), dataset.spec.num_classes)
    images = [read_sample(dataset.spec, sample) for sample, _ in pairs]
    backbone = network.backbone
    with eval_mode(network):
        probs = [infer_probs(image, network, (1,), backbone.norm, backbone.size_step, device) for image in images]
    bias = matching_bias(images, probs, target)
    print(f'areas matched to those of the labels: logits shifted by {bias.min():.2f} to {bias.max():.2f}')
    with torch.no_grad():
        network.cls_conv.bias += torch.from_numpy(bias).to(network.cls_conv.bias)
    return bias


def _shifted(probs: np.ndarray, bias: np.ndarray) -> np.ndarray:
    shifted = probs * np.exp(bias, dtype=np.float32)[:, None, None]
    return shifted / shifted.sum(0)
