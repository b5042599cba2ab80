"""Measure how well lib/suspects.py finds wrong and missing image-level labels, on a set with masks.

    python -m benchmarks.suspects --dataset animals/dataset.json --features features.npz \
        --imagenet timm:tf_efficientnet_lite0 efficientnet-lite0

First the labels as they are: a given label counts as wrong if no mask pixel shows the class, a label that is not given
as missing if one does. Then, for three seeds, 5 % of the given labels are removed and as many are added at random.
Prints average precision, precision of the first 100, chance level, and precision and recall of the verdicts, and the
same for a classifier fitted on all images (in-sample). --features stores the features for later calls.
"""
from pathlib import Path

import numpy as np
import torch

from lib.data.datasets import InferSet
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import read_mask
from lib.inference import Inference
from lib.process.ending import run_script
from lib.run import device as devices
from lib.run.options import resolve
from lib.suspects import imagenet_features, make_parser, read_features
from lib.trust import average_precision
from tool.labelerrors import label_errors, logistic_regression, out_of_fold_probs

SEEDS, FRACTION, FIRST = (1, 2, 3), 0.05, 100


def corrupted(labels: np.ndarray, seed: int) -> np.ndarray:
    """Labels [N, K] with FRACTION of the given ones removed, and as many added where there were none."""
    rng, changed = np.random.default_rng(seed), labels.copy()
    given, absent = np.argwhere(labels == 1), np.argwhere(labels == 0)
    count = round(FRACTION * len(given))
    for entries in (given, absent):
        rows, columns = entries[rng.choice(len(entries), count, replace=False)].T
        changed[rows, columns] ^= 1
    return changed


def shown(spec: DatasetSpec, split: str, names: set[str]) -> np.ndarray:
    """Labels [N, K] of the masks: 1 where a pixel shows the class."""
    masks = [read_mask(sample.mask, spec.num_classes) for sample in spec.samples(split) if sample.name in names]
    return np.array([np.isin(range(1, spec.num_classes), mask) for mask in masks]).astype(np.uint8)


def in_sample_probs(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As out_of_fold_probs, but fitted on all images."""
    inputs = torch.from_numpy(features)
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6) / inputs.shape[1] ** 0.5
    weight, bias = logistic_regression(inputs, torch.from_numpy(labels).float())
    return (inputs @ weight + bias).sigmoid().numpy()


def report(title: str, probs: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> None:
    """Print how well the wrong entries are found among those given, and the missing ones among the others."""
    flagged = np.zeros(labels.shape, bool)
    flagged[tuple(label_errors(probs, labels, np.ones(labels.shape[1], bool)).T)] = True
    for kind, value, scores in (('wrong', 1, 1 - probs), ('missing', 0, probs)):
        among = labels == value
        errors, verdicts, ranks = (labels != truth)[among], flagged[among], scores[among]
        if not errors.any():
            print(f'{title}: none {kind}')
            continue
        first = errors[np.argsort(-ranks, kind='stable')[:FIRST]].mean()
        print(f'{title}, {kind}: AP {100 * average_precision(ranks, errors):.1f}, precision at {FIRST} '
              f'{100 * first:.0f}, chance {100 * errors.mean():.1f} ({errors.sum()} of {len(errors)}); verdicts '
              f'{verdicts.sum()}, precision {100 * errors[verdicts].mean():.0f}, recall '
              f'{100 * verdicts[errors].mean():.0f}', flush=True)


def main(argv: list[str] | None = None) -> None:
    """Print the figures."""
    parser = make_parser()
    parser.description = __doc__
    parser.add_argument('--features', type=Path, metavar='FILE', help='.npz of the features, written if it is missing')
    args, spec = resolve(parser, argv, '', get_spec)
    split = args.split or spec.train_split
    if args.features and args.features.exists():
        with np.load(args.features) as kept:
            features = dict(zip(kept['names'].tolist(), kept['features']))
    else:
        device = devices.pick_device(args.device)
        network = Inference(imagenet_features(args), device, devices.pick_amp(args.amp, device), Path('ImageNet'))
        features = read_features(args, InferSet(spec, split, args.limit), network)
        if args.features:
            np.savez(args.features, names=[*features], features=np.stack([*features.values()]))
    names = [sample.name for sample in spec.samples(split) if sample.name in features]
    values, labels = np.stack([features[name] for name in names]), spec.image_labels(names)
    print(f'{len(names)} images, {labels.sum()} labels given of {labels.size}')
    report('labels as they are', out_of_fold_probs(values, labels, args.folds), labels, shown(spec, split, set(names)))
    for seed in SEEDS:
        changed = corrupted(labels, seed)
        report(f'corrupted, seed {seed}', out_of_fold_probs(values, changed, args.folds), changed, labels)
        report(f'corrupted, seed {seed}, in-sample', in_sample_probs(values, changed), changed, labels)


if __name__ == '__main__':
    run_script(main)
