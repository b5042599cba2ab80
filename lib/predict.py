"""A trained segmentation network in Python:

    from PIL import Image
    from lib.predict import Segmenter
    segmenter = Segmenter('exp/my/seg/model.pth')
    result = segmenter('photo.jpg')
    Image.fromarray(result.overlay()).save('overlay.png')
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from lib.files.imageio import read_image, read_size, reduced_size, voc_palette
from lib.inference import Inference
from lib.multiscale import multi_scale
from lib.net.backbone import check_network, trained_backbone
from lib.net.deeplab import DeepLab
from lib.net.weights import load_network
from lib.run import device as devices
from tool import imutils
from tool.crfutils import crf_scores
from tool.densecrf import FINAL_CRF
from tool.drawing import contoured, legend, stacked
from tool.imutils import Norm
from tool.polygons import polygons

LONG_SIDE = 500         # pixels; for images outside any data set, unless the network's file says otherwise
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
Source = str | Path | np.ndarray | Image.Image


class TrainedDeepLab(NamedTuple):
    """A segmentation network with the description in its file."""

    network: DeepLab
    classes: tuple[str, ...]            # of the foreground, in label order
    norm: Norm
    size_step: int | None               # of the backbone, see lib/net/backbone.py
    max_side: int                       # long side in pixels to which images are reduced


def load_deeplab(path: Path) -> TrainedDeepLab:
    """The network in a model.pth of train_seg.py, on the CPU.

    Raises FileNotFoundError if the file is missing, ValueError if it is corrupt, belongs to a different kind of
    network, or does not name its classes.
    """
    meta = check_network(Path(path), 'deeplab', None)
    if 'classes' not in meta:
        raise ValueError(f'{path} does not name its classes; name a file of train_seg.py')
    backbone = trained_backbone(Path(path), 1)
    network = DeepLab(backbone, len(meta['classes']) + 1, meta['fov_channels'], meta['dilation'])
    load_network(network, path)
    norm = Norm(*meta['norm']) if 'norm' in meta else backbone.norm
    return TrainedDeepLab(network.eval(), tuple(meta['classes']), norm, backbone.size_step,
                          meta.get('max_side') or LONG_SIDE)


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of one image.

    Attributes:
        source: the image: a path, or RGB uint8 [H, W, 3].
        labels: uint8 [H, W] at the size of the image, 0 is background.
        probs: float32 [C, h, w] that sum to 1 over the classes, at the size that was segmented.
        classes: names by label, background first.
    """

    source: Path | np.ndarray
    labels: np.ndarray
    probs: np.ndarray
    classes: tuple[str, ...]

    @property
    def image(self) -> np.ndarray:
        """The image at its full size: RGB uint8 [H, W, 3], a photo rotated as its EXIF tag says."""
        return self.source if isinstance(self.source, np.ndarray) else read_image(self.source, upright=True)

    @property
    def found(self) -> dict[str, float]:
        """Fraction of the image that each class covers, for the classes in it without background."""
        values, counts = np.unique(self.labels, return_counts=True)
        return {self.classes[value]: count / self.labels.size
                for value, count in zip(values.tolist(), counts.tolist()) if value}

    def overlay(self) -> np.ndarray:
        """The labels over the image, with contours and a legend below: uint8 [H', W, 3]."""
        return overlay(self.image, self.labels, self.classes)

    def polygons(self, tolerance: float = 0.5) -> dict[str, list[np.ndarray]]:
        """Outlines of the connected regions of each class in the image, see tool/polygons.py."""
        return {name: polygons(self.labels == self.classes.index(name), tolerance) for name in self.found}


class Segmenter:
    """Segments images with a trained network; needs only its model.pth.

    Args:
        model: model.pth of train_seg.py.
        device: auto, cpu, cuda or cuda:N.
        scales: test-time scales; (1,) is several times faster and a little less accurate.
        flip: add the horizontal flip at each scale.
        crf: refine with the dense CRF.
        max_side: larger images are segmented at this long side in pixels; the default is that of the training set,
            or 500.
        amp: auto, none, bf16 or fp16.

    Raises:
        FileNotFoundError, ValueError: as load_deeplab, or for a device or dtype that is not available.
    """

    def __init__(self, model: str | Path, *, device: str = 'auto', scales: Sequence[float] = SCALES, flip: bool = True,
                 crf: bool = True, max_side: int | None = None, amp: str = 'auto'):
        trained = load_deeplab(Path(model))
        self.classes = ('background', *trained.classes)
        self.norm, self.size_step = trained.norm, trained.size_step
        self.scales, self.flip, self.crf, self.max_side = tuple(scales), flip, crf, max_side or trained.max_side
        self.device = devices.pick_device(device)
        self.inference = Inference(trained.network, self.device, devices.pick_amp(amp, self.device), Path(model))

    def __call__(self, image: Source) -> Segmentation:
        """Segment a file, a PIL image or an RGB array uint8 [H, W, 3]; an error names the file that cannot be read."""
        result, = self.batches([image])
        return result

    def batches(self, images: Sequence[Source], batch_size: int = 8) -> Iterator[Segmentation]:
        """Yield the result of each image in order. Consecutive images of the same size share a batch."""
        for _, group in groupby(map(self._read, images), lambda read: read[1].shape):
            group = list(group)
            for first in range(0, len(group), batch_size):
                batch = group[first:first + batch_size]
                yield from self._segment(batch)

    def _segment(self, batch: list[tuple[Path | np.ndarray, np.ndarray]]) -> Iterator[Segmentation]:
        sources, images = zip(*batch)
        stack = np.stack(images)
        name = ', '.join(str(source) if isinstance(source, Path) else 'an array' for source in sources)
        all_probs = self.inference(name, lambda network: infer_probs(
            stack, network, self.scales, self.norm, self.size_step, self.device, self.flip))
        for source, image, probs in zip(sources, images, all_probs):
            size = source.shape[:2] if isinstance(source, np.ndarray) else read_size(source, upright=True)
            probs, labels = finished(image, probs, 'torch' if self.crf else None, size)
            yield Segmentation(source, labels, probs, self.classes)

    def _read(self, image: Source) -> tuple[Path | np.ndarray, np.ndarray]:
        """The image as given, and as it is segmented."""
        if isinstance(image, str | Path):
            return Path(image), read_image(Path(image), True, self.max_side)
        image = np.asarray(image.convert('RGB') if isinstance(image, Image.Image) else image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'expected RGB uint8 [H, W, 3], found {image.dtype} {list(image.shape)}')
        return image, imutils.resize_bicubic(image, *reduced_size(image.shape[:2], self.max_side))


def make_views(images: np.ndarray, scales: Sequence[float], norm: Norm, size_step: int | None) -> Iterator[np.ndarray]:
    """Yield images [..., H, W, 3], normalised, at every scale: float32 [..., 3, h, w]. size_step: of the backbone."""
    (height, width), many = images.shape[-3:-1], images.reshape(-1, *images.shape[-3:])
    normalised = [imutils.normalise(image, norm).transpose(1, 2, 0) for image in many]
    for scale in scales:
        factors = scale, scale
        if size_step:
            fitting = imutils.fitting_size(*imutils.scaled_size(height, width, scale), size_step)
            factors = fitting[0] / height, fitting[1] / width
        views = np.stack([imutils.rescale(image, factors).transpose(2, 0, 1) for image in normalised])
        yield views.reshape(*images.shape[:-3], *views.shape[1:])


@torch.inference_mode()
def infer_probs(images: np.ndarray, network: Callable, scales: Sequence[float], norm: Norm, size_step: int | None,
                device: torch.device, flip: bool = True, crf: bool = False) -> np.ndarray:
    """Class probabilities float32 [..., C, H, W] of images [..., H, W, 3]: the mean of the logits at all scales.

    With `crf` those of a single image are refined, on the device.
    """
    views, total, count = make_views(images, scales, norm, size_step), 0, 0
    for maps in multi_scale(views, images.shape[-3:-1], network, device, align_corners=True, flip=flip):
        total, count = total + maps.sum(0), count + len(maps)
    probs = (total / count).softmax(-3)
    return (crf_scores(images, probs, FINAL_CRF) if crf else probs).cpu().numpy()


def finished(image: np.ndarray, probs: np.ndarray, crf: str | None,
             size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [C, H, W] of an image [H, W, 3], refined by a CRF backend if one is given, and labels at `size`."""
    probs = crf_scores(image, probs, FINAL_CRF, crf).numpy() if crf else probs
    return probs, imutils.enlarged_label(probs, *(size or image.shape[:2]))


def overlay(image: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Labels over an image [H, W, 3], resized to it, with contours, and a legend of the classes in it below."""
    labels = imutils.resize_nearest(labels, *image.shape[:2])
    colours = {classes[value]: voc_palette()[value] for value in np.unique(labels).tolist() if value}
    return stacked([contoured(image, labels, voc_palette()), legend(colours, image.shape[1])])
