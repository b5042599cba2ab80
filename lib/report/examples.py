"""Images of a run for its report: which ones, and what each stage made of them."""
import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lib.data.corrupt import keep_readable, read_truth
from lib.data.labelio import read_maps
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import read_mask, voc_palette
from lib.panel import draw_row, read_outputs, spread
from tool.camutils import cam_label
from tool.drawing import blend, boxed
from tool.evalutils import mask_counts

LOOKED_AT = 500                         # images scored one by one to find the best and the worst
LONG_SIDE = 320                         # of the pictures in the page, pixels
SCORES_SHOWN = (0.15, 0.25, 0.35, 0.45)


class Example(NamedTuple):
    """One image: why it is shown, its name, its classes, and data URIs of pictures by title."""

    why: str
    name: str
    classes: list[str]
    pictures: dict[str, str]


def image_iou(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> float:
    """Mean IoU of one image in percent over the classes that the truth or the prediction shows."""
    counts = mask_counts(truth, prediction, num_classes)
    union = counts.truth + counts.pred - counts.hit
    return 100 * float((counts.hit[union > 0] / union[union > 0]).mean()) if union.any() else 100.0


def choose(spec: DatasetSpec, split: str, folder: Path, count: int) -> list[tuple[str, Sample]]:
    """(why, sample): the best, median and worst segmentations; where there are no masks, images from all the list."""
    samples = spread(spec.samples(split), LOOKED_AT)
    results = [(sample, folder / 'results' / split / f'{sample.name}.png') for sample in samples]
    scored = sorted([(image_iou(truth, read_mask(path, spec.num_classes), spec.num_classes), sample.name, sample)
                     for sample, path in results if path.is_file() and (truth := read_truth(spec, sample)) is not None],
                    key=lambda item: item[:2])
    if len(scored) < count:
        return [('', sample) for sample in spread(samples, count)]
    each = max(1, count // 3)
    middle = (len(scored) - each) // 2
    parts = {'best': scored[::-1][:each], 'median': scored[middle:middle + each][::-1], 'worst': scored[:each][::-1]}
    return [(f'{why}: IoU {iou:.0f}', sample) for why, part in parts.items() for iou, _, sample in part]


def examples(spec: DatasetSpec, split: str, folder: Path, threshold: float, count: int) -> list[Example]:
    """What each stage made of the chosen images; CAM labels are cut at the threshold."""
    found, chosen = [], {sample: why for why, sample in choose(spec, split, folder, count)}
    for sample in keep_readable(spec, chosen):
        pictures = draw_row(sample, read_outputs(sample, spec, split, folder, threshold), spec)
        titles = {'CAM label': f'CAM at {threshold:.2f}'}
        found.append(Example(chosen[sample], sample.name, classes_of(spec, sample),
                             {titles.get(key, key): jpeg(picture) for key, picture in pictures.items()}))
    return found


def cuts(spec: DatasetSpec, split: str, folder: Path, count: int) -> list[Example]:
    """The CAM labels of some images at several background scores, to choose one by eye."""
    found = []
    for sample in keep_readable(spec, spread(spec.samples(split), count)):
        path = folder / 'labels' / spec.label_split(split) / 'cam' / f'{sample.name}.npz'
        if path.is_file():
            keys, cam = read_maps(path, spec.num_fg)
            pictures = draw_row(sample, {}, spec)
            image = pictures['image']
            pictures |= {f'{score:g}': blend(image, cam_label(keys, cam, score), voc_palette())
                         for score in SCORES_SHOWN}
            found.append(Example('', sample.name, classes_of(spec, sample),
                                 {key: jpeg(picture) for key, picture in pictures.items()}))
    return found


def classes_of(spec: DatasetSpec, sample: Sample) -> list[str]:
    """Names of the classes of an image by its image-level labels."""
    return [name for name, present in zip(spec.classes, spec.image_labels([sample.name])[0]) if present]


def jpeg(picture: np.ndarray) -> str:
    """A picture uint8 [H, W, 3] as a data URI, at most LONG_SIDE pixels long."""
    scale = min(1.0, LONG_SIDE / max(picture.shape[:2]))
    if scale < 1:
        picture = boxed(picture, max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale)))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, 'JPEG', quality=85)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode()


def legend(spec: DatasetSpec, shown: Sequence[Example]) -> Mapping[str, str]:
    """Colour (#rrggbb) of every class that the examples are labelled with."""
    names = {name for example in shown for name in example.classes}
    return {name: '#' + bytes(voc_palette()[index].tolist()).hex() for index, name in enumerate(spec.class_names)
            if name in names}
