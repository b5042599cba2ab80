"""How much of a class a CAM network sees in the labelled pixels alone: a measure of label quality without masks.

The labelled pixels of an image are pasted into an image without the class. The evidence is the resulting gain of the
strongest class score over all positions, relative to the gain with the whole image: 0 if nothing of the class is
labelled, 1 if everything by which the network recognises it is. Good labels preserve most of the evidence on a small
area.
"""
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch

from lib.data.datasets import InferSet
from lib.inference import Inference
from lib.multiscale import add_views
from lib.process.cli import progress
from tool.imutils import resize_bicubic

PAIRS, PAIRS_PER_CLASS = 40, 4          # minimum number of pairs of an image and a class


def draw_pairs(labels: np.ndarray, seed: int = 0) -> list[tuple[int, int, int]]:
    """Draw pairs with all classes in turn: indices of an image, of a class in it, and of an image without the class.

    Sorted by image. `labels` are [images, K]. Classes that all images show, or none, have no pair.
    """
    rng, labels, pairs = np.random.default_rng(seed), labels > 0, []
    order = [rng.permutation(np.flatnonzero(column)).tolist() for column in labels.T]
    others = [rng.permutation(np.flatnonzero(~column)).tolist() for column in labels.T]
    keys = [key for key in range(labels.shape[1]) if order[key] and others[key]]
    for turn in range(max(map(len, order), default=0)):
        pairs += [(order[key][turn], key, others[key][turn % len(others[key])]) for key in keys
                  if turn < len(order[key])]
    return sorted(pairs[:max(PAIRS, PAIRS_PER_CLASS * len(keys))])


def judge(dataset: InferSet, inference: Inference,
          labels_of: Callable[[int, np.ndarray], np.ndarray | None]) -> 'Measured | None':
    """Measure several label maps of some training images.

    labels_of(index, image) gives those of one image, uint8 [labels, H, W], or None to leave it out. The result is None
    if the network recognises no class.
    """
    gains = defaultdict(list)
    pairs = progress(draw_pairs(dataset.labels), 'pasting', 'pair')
    for index, of_image in groupby(pairs, key=itemgetter(0)):
        image = dataset[index]['image']
        if (labels := labels_of(index, image)) is not None:
            for _, key, other in of_image:
                background = resize_bicubic(dataset[other]['image'], *image.shape[:2])
                gains[key].append(measure(inference, dataset.names[index], key, image, background, labels == key + 1))
    return summary(gains)


class Gain(NamedTuple):
    """Sums over the pairs of a class: of its score in whole images, and in images that show only the labelled pixels.

    Both relative to the score without the class; `kept` and `area` (fraction of the image) are by label map [labels].
    """

    whole: float
    kept: np.ndarray
    area: np.ndarray


def measure(inference: Inference, name: str, key: int, image: np.ndarray, background: np.ndarray,
            masks: np.ndarray) -> Gain:
    """The gain of one image, for several masks bool [labels, H, W] of a class and another image without the class."""
    backbone = inference.network.backbone
    images = [background, image, *np.where(masks[..., None], image, background)]
    views = [add_views({'image': image}, (1,), backbone.norm, backbone.size_step)['views'][0] for image in images]
    batch = torch.from_numpy(np.stack(views))

    def strongest(network: Callable) -> np.ndarray:
        with torch.inference_mode():
            logits = network(batch.to(inference.device, non_blocking=True)).logits
            return logits[:, 1 + key].amax((1, 2)).float().cpu().numpy()

    without, whole, *kept = inference(name, strongest)
    return Gain(whole - without, np.array(kept) - without, masks.mean((1, 2)))


class Measured(NamedTuple):
    """Of label maps [labels]: evidence, area as a fraction of the image, and localisation; means over classes."""

    evidence: np.ndarray
    area: np.ndarray
    localisation: np.ndarray


def summary(gains: Mapping[int, Sequence[Gain]]) -> Measured | None:
    """Summary over the pairs of each class.

    The localisation is evidence * log2(1 / area): how much of a class is labelled, times the information about its
    location. The result is None if no class scores higher in images that show it than in others.
    """
    rows = []
    for of_class in gains.values():
        whole = sum(gain.whole for gain in of_class)
        if whole > 0:
            found = (sum(gain.kept for gain in of_class) / whole).clip(0, 1)
            area = np.mean([gain.area for gain in of_class], 0)
            rows.append((found, area, found * -np.log2(area.clip(1e-6, 1))))
    return Measured(*np.mean(rows, 0)) if rows else None
