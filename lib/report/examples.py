"""Images of a run for its report: which ones, and what each stage made of them, ready for the page."""
import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lib.data.corrupt import keep_readable, read_ground_truth
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import read_mask
from lib.report.rows import draw_row, evenly_spaced, read_outputs
from tool.drawing import boxed
from tool.evalutils import mask_counts

SCORED = 500                            # images scored one by one to find the best and the worst
LONG_SIDE = 320                         # of the images in the page, pixels
SCORES_SHOWN = (0.15, 0.25, 0.35, 0.45)


def image_groups(spec: DatasetSpec, split: str, folder: Path, threshold: float, count: int,
                 scored: bool) -> dict[str, list[dict]]:
    """Images for the page: 'stages', what the stages made of some; 'training', the same of some training images with
    seeds; without scores 'thresholds', CAM labels at several background scores.

    Each is a dict of 'why' (it is shown), 'name', 'classes' and 'images' (data URIs by title).
    """
    groups = {'stages': draw_examples(spec, split, folder, choose(spec, split, folder, count), [threshold])}
    if split != spec.train_split and (folder / 'labels' / spec.train_split / 'seeds').is_dir():
        chosen = choose(spec, spec.train_split, folder, 3)
        groups['training'] = draw_examples(spec, spec.train_split, folder, chosen, [threshold])
    if not scored and (folder / 'labels' / spec.label_split(split) / 'cam').is_dir():
        chosen = dict.fromkeys(evenly_spaced(spec.samples(split), min(count, 4)), '')
        groups['thresholds'] = draw_examples(spec, split, folder, chosen, SCORES_SHOWN, 'CAM at')
    return groups


def draw_examples(spec: DatasetSpec, split: str, folder: Path, chosen: Mapping[Sample, str],
                  thresholds: Sequence[float], columns: str = '') -> list[dict]:
    """What each stage made of the chosen images, see image_groups; all columns, or those that begin with `columns`."""
    examples = []
    for sample, image in keep_readable(spec, chosen):
        outputs = read_outputs(sample, spec, split, folder, thresholds)
        row = draw_row(sample, image, {name: values for name, values in outputs.items() if name.startswith(columns)})
        labels = spec.image_labels([sample.name])[0]
        examples.append({'why': chosen[sample], 'name': sample.name,
                         'classes': [name for name, present in zip(spec.classes, labels) if present],
                         'images': {title: jpeg(drawn) for title, drawn in row.items()}})
    return examples


def choose(spec: DatasetSpec, split: str, folder: Path, count: int) -> dict[Sample, str]:
    """Samples and why: the best, median and worst segmentations; without masks, images evenly spaced over the list."""
    samples, scored = evenly_spaced(spec.samples(split), SCORED), []
    for sample in samples:
        path = folder / 'results' / split / f'{sample.name}.png'
        if path.is_file() and (ground_truth := read_ground_truth(spec, sample)) is not None:
            iou = image_iou(ground_truth, read_mask(path, spec.num_classes), spec.num_classes)
            scored.append((iou, sample.name, sample))
    if len(scored) < count:
        return dict.fromkeys(evenly_spaced(samples, count), '')
    scored.sort(reverse=True, key=lambda item: item[:2])
    each = max(1, count // 3)
    middle = (len(scored) - each) // 2
    parts = {'best': scored[:each], 'median': scored[middle:middle + each], 'worst': scored[-each:]}
    return {sample: f'{why}: IoU {iou:.0f}' for why, part in parts.items() for iou, _, sample in part}


def image_iou(ground_truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> float:
    """Mean IoU of one image in percent over the classes that the ground truth or the prediction shows."""
    hit, expected, predicted = mask_counts(ground_truth, prediction, num_classes)
    union = expected + predicted - hit
    return 100 * float((hit[union > 0] / union[union > 0]).mean()) if union.any() else 100.0


def jpeg(image: np.ndarray) -> str:
    """An image uint8 [H, W, 3] as a data URI, reduced to LONG_SIDE."""
    scale = min(1.0, LONG_SIDE / max(image.shape[:2]))
    image = boxed(image, *(max(1, round(side * scale)) for side in image.shape[:2]))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'JPEG', quality=85)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode()
