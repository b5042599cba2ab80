"""Outputs of a run for single images, drawn over them; which images a report shows."""
import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lib.data.checks import read_ground_truth
from lib.data.labelio import read_maps, read_seeds
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import IGNORED, read_image, read_mask, voc_palette
from lib.run.chosen import chosen_score
from tool.camutils import cam_label, labels_of
from tool.drawing import blend, heat
from tool.evalutils import mask_counts

COLUMNS = ('image', 'CAM', 'CAM at {:.2f}', 'seeds', 'random walk', 'segmentation', 'ground truth')
SCORED = 500                            # images scored one by one to find the best and the worst
LONG_SIDE = 320                         # of the images in the page, pixels
SCORES_SHOWN = (0.15, 0.25, 0.35, 0.45)


def evenly_spaced(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, evenly spaced over the list."""
    count = min(count, len(samples))
    return [samples[(2 * number + 1) * len(samples) // (2 * count)] for number in range(count)]


def shown_threshold(scores: Sequence[Mapping], split: str, folder: Path) -> float:
    """Threshold of the CAM labels to show: in the newest evaluation of the split's CAMs the chosen score, else the best
    one; if there is none, the background score chosen for the run in the folder, or FALLBACK."""
    scored = [result['threshold'] for record in reversed(scores) if (record['what'], record['split']) == ('cam', split)
              for result in record['results'] if result.get('chosen') or result.get('best')]
    return scored[0] if scored else chosen_score(folder)


def seeds_label(path: Path, num_fg: int) -> np.ndarray:
    """Labels of which the two seeds of a file are certain, uint8 [H, W]: objects by the low, background by the high."""
    keys, scores = read_seeds(path, num_fg)
    label = labels_of(keys)[scores[min(scores)].argmax(0)]
    label[label == 0] = IGNORED
    label[scores[max(scores)].argmax(0) == 0] = 0
    return label


def read_outputs(sample: Sample, spec: DatasetSpec, split: str, folder: Path,
                 thresholds: Sequence[float]) -> dict[str, np.ndarray]:
    """All outputs for one image by column: the strongest CAM float32 [H, W], and labels uint8 [H, W]."""
    labels, outputs = folder / 'labels' / spec.label_split(split), {}
    if (path := labels / 'cam' / f'{sample.name}.npz').is_file():
        keys, cam = read_maps(path, spec.num_fg)
        outputs['CAM'] = cam.max(0, initial=0)
        outputs |= {COLUMNS[2].format(threshold): cam_label(keys, cam, threshold) for threshold in thresholds}
    if (path := labels / 'seeds' / f'{sample.name}.npz').is_file():
        outputs['seeds'] = seeds_label(path, spec.num_fg)
    masks = {'random walk': labels / 'walk' / f'{sample.name}.png',
             'segmentation': folder / 'results' / split / f'{sample.name}.png'}
    outputs |= {column: read_mask(path, spec.num_classes) for column, path in masks.items() if path.is_file()}
    ground_truth = read_ground_truth(spec, sample.mask)
    return outputs if ground_truth is None else outputs | {'ground truth': ground_truth}


def draw_row(sample: Sample, image: np.ndarray, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The image uint8 [H, W, 3], and each output drawn over it, by column; ValueError if the sizes differ."""
    row = {'image': image}
    for column, values in outputs.items():
        if values.shape != image.shape[:2]:
            raise ValueError(f'{column} of {sample.name} is {values.shape[0]}x{values.shape[1]}, the image '
                             f'{image.shape[0]}x{image.shape[1]}; regenerate it from this image')
        row[column] = blend(image, values, voc_palette()) if values.dtype == np.uint8 else heat(image, values)
    return row


def image_groups(spec: DatasetSpec, split: str, folder: Path, threshold: float, count: int,
                 scored: bool) -> dict[str, list[dict]]:
    """Images for the page: 'stages', outputs of the stages for some; 'training', the same for some training images with
    seeds; without scores 'thresholds', CAM labels at several background scores.

    Each is a dict of 'why' (it is shown), 'name', 'classes' and 'images' (data URIs by title).
    """
    def drawn(split: str, chosen: Mapping[Sample, str], thresholds: Sequence[float] = (threshold,),
              columns: str = '') -> list[dict]:
        examples = []
        for sample in chosen:
            outputs = read_outputs(sample, spec, split, folder, thresholds)
            outputs = {column: values for column, values in outputs.items() if column.startswith(columns)}
            row = draw_row(sample, read_image(sample.image, **spec.reading), outputs)
            labels = spec.image_labels([sample.name])[0]
            examples.append({'why': chosen[sample], 'name': sample.name,
                             'classes': [name for name, present in zip(spec.classes, labels) if present],
                             'images': {title: jpeg(picture) for title, picture in row.items()}})
        return examples

    groups = {'stages': drawn(split, choose(spec, split, folder, count))}
    if split != spec.train_split and (folder / 'labels' / spec.train_split / 'seeds').is_dir():
        groups['training'] = drawn(spec.train_split, choose(spec, spec.train_split, folder, 3))
    if not scored and (folder / 'labels' / spec.label_split(split) / 'cam').is_dir():
        chosen = dict.fromkeys(evenly_spaced(spec.samples(split), min(count, 4)), '')
        groups['thresholds'] = drawn(split, chosen, SCORES_SHOWN, 'CAM at')
    return groups


def choose(spec: DatasetSpec, split: str, folder: Path, count: int) -> dict[Sample, str]:
    """Samples and why: the best, median and worst segmentations; without masks, images evenly spaced over the list."""
    samples, scored = evenly_spaced(spec.samples(split), SCORED), {}
    for sample in samples:
        path = folder / 'results' / split / f'{sample.name}.png'
        if path.is_file() and (ground_truth := read_ground_truth(spec, sample.mask)) is not None:
            scored[sample] = image_iou(ground_truth, read_mask(path, spec.num_classes), spec.num_classes)
    if len(scored) < count:
        return dict.fromkeys(evenly_spaced(samples, count), '')
    order, each = sorted(scored, reverse=True, key=lambda sample: (scored[sample], sample.name)), max(1, count // 3)
    middle = (len(scored) - each) // 2
    parts = {'best': order[:each], 'median': order[middle:middle + each], 'worst': order[-each:]}
    return {sample: f'{why}: IoU {scored[sample]:.0f}' for why, part in parts.items() for sample in part}


def image_iou(ground_truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> float:
    """Mean IoU of one image in percent over the classes that the ground truth or the prediction shows."""
    hit, expected, predicted = mask_counts(ground_truth, prediction, num_classes)
    union = expected + predicted - hit
    return 100 * float((hit[union > 0] / union[union > 0]).mean()) if union.any() else 100.0


def jpeg(image: np.ndarray) -> str:
    """An image uint8 [H, W, 3] as a data URI, reduced to LONG_SIDE."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((LONG_SIDE, LONG_SIDE))
    picture.save(buffer, 'JPEG', quality=85)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode()
