"""What a run made of single images, drawn side by side: for the panel and the report."""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lib.data.corrupt import read_ground_truth
from lib.data.labelio import read_maps, read_seeds
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import IGNORED, read_mask, voc_palette
from lib.run.chosen import chosen_score
from tool.camutils import cam_label, labels_of
from tool.drawing import blend, heat

DEFAULT_THRESHOLD = 0.25
COLUMNS = ('image', 'CAM', 'CAM at {:.2f}', 'seeds', 'random walk', 'segmentation', 'ground truth')


def evenly_spaced(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, evenly spaced over the list."""
    count = min(count, len(samples))
    return [samples[(2 * number + 1) * len(samples) // (2 * count)] for number in range(count)]


def best_threshold(scores: Sequence[Mapping], split: str, folder: Path) -> float:
    """Best threshold in the newest evaluation of the split's CAMs; if there is none, the background score that the run
    in the folder chose, or DEFAULT_THRESHOLD."""
    best = [result['threshold'] for record in reversed(scores) if (record['what'], record['split']) == ('cam', split)
            for result in record['results'] if result.get('best')]
    return best[0] if best else chosen_score(folder, DEFAULT_THRESHOLD)


def seeds_label(path: Path, num_fg: int) -> np.ndarray:
    """What the two seeds of a file are sure of, uint8 [H, W]: objects by the low one, background by the high one."""
    keys, scores = read_seeds(path, num_fg)
    label = labels_of(keys)[scores[min(scores)].argmax(0)]
    label[label == 0] = IGNORED
    label[scores[max(scores)].argmax(0) == 0] = 0
    return label


def read_outputs(sample: Sample, spec: DatasetSpec, split: str, folder: Path,
                 thresholds: Sequence[float]) -> dict[str, np.ndarray]:
    """All outputs for one image by column: the strongest CAM float32 [H, W], and labels uint8 [H, W]."""
    labels = folder / 'labels' / spec.label_split(split)
    cams, seeds = labels / 'cam' / f'{sample.name}.npz', labels / 'seeds' / f'{sample.name}.npz'
    outputs = {}
    if cams.is_file():
        keys, cam = read_maps(cams, spec.num_fg)
        outputs['CAM'] = cam.max(0, initial=0)
        outputs |= {COLUMNS[2].format(threshold): cam_label(keys, cam, threshold) for threshold in thresholds}
    if seeds.is_file():
        outputs['seeds'] = seeds_label(seeds, spec.num_fg)
    masks = {'random walk': labels / 'walk' / f'{sample.name}.png',
             'segmentation': folder / 'results' / split / f'{sample.name}.png'}
    outputs |= {column: read_mask(path, spec.num_classes) for column, path in masks.items() if path.is_file()}
    ground_truth = read_ground_truth(spec, sample)
    return outputs if ground_truth is None else outputs | {'ground truth': ground_truth}


def draw_row(sample: Sample, image: np.ndarray, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The image uint8 [H, W, 3], and each output laid over it, by column; ValueError if the sizes differ."""
    row = {'image': image}
    for column, values in outputs.items():
        if values.shape != image.shape[:2]:
            raise ValueError(f'{column} of {sample.name} is {values.shape[0]}x{values.shape[1]}, the image '
                             f'{image.shape[0]}x{image.shape[1]}; regenerate it from this image')
        row[column] = blend(image, values, voc_palette()) if values.dtype == np.uint8 else heat(image, values)
    return row
