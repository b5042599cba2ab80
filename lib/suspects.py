"""List image-level labels that are likely wrong or missing, the most certain first. No label is changed.

    python -m lib.suspects --dataset data/my.json --run my
    python -m lib.suspects --dataset data/my.json --imagenet timm:tf_efficientnet_lite0 efficientnet-lite0

Features of the training images come from the ImageNet weights with which the run's CAM training started, or from
--imagenet; not from the trained network, which has seen the labels. In cross-validation, a linear classifier is fitted
on the other folds; tool/labelerrors.py decides which labels it contradicts. Writes exp/<run>/suspects.csv, whose first
entries the report shows: image, class, given (1 if the image has the label), score (probability of the class), verdict.
"""
import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from lib.data.datasets import InferSet, single_images
from lib.data.registry import get_spec
from lib.files.jsonfile import read_json
from lib.inference import Inference
from lib.multiscale import add_views
from lib.net.backbone import Backbone, make_backbone
from lib.net.weights import load_imagenet
from lib.process.cli import integer, progress
from lib.process.ending import run_script
from lib.report.suspects import FILE, MISSING, WRONG, Suspect, read_suspects, write_suspects
from lib.run import device as devices
from lib.run.options import add_device_flags, base_parser, resolve
from lib.trust import CHANCE, average_precision
from tool.labelerrors import label_errors, out_of_fold_probs

TRAINED = {'backbone': str, 'weights': str, 'width': float}     # in args.json of CAM training
SHOWN = 10


def make_parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.prog = 'python -m lib.suspects'
    add_device_flags(parser)
    group = parser.add_argument_group('labels')
    group.add_argument('--split', help='list of images; the default is the data set\'s training split')
    group.add_argument('--imagenet', nargs=2, metavar=('BACKBONE', 'WEIGHTS'), help='--backbone and --weights as for '
                       'CAM training; the default is what the run\'s CAM training started from')
    group.add_argument('--folds', type=integer(2, 100), default=5, help='number of cross-validation folds')
    return parser


class Pooled(nn.Module):
    """A backbone and the mean of its last feature map: images [N, 3, H, W] -> [N, D]."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images)['conv6'].float().mean((2, 3))


def imagenet_features(args: argparse.Namespace) -> Pooled | None:
    """The backbone that the flags name, or that of the run before its CAM training; None if it had random weights."""
    if args.imagenet:
        trained = dict(zip(('backbone', 'weights'), args.imagenet), width=args.width)
    else:
        trained = read_json(args.folder / 'cam/args.json', TRAINED, 'train the CAM network first, or give --imagenet')
    if trained['weights'] == 'none':
        return None
    try:        # stride 16 takes a third of the time of 8, and is as good for pooled features
        backbone = make_backbone(trained['backbone'], trained['width'], 16)
    except ValueError:
        backbone = make_backbone(trained['backbone'], trained['width'])
    load_imagenet(backbone, trained['weights'])
    return Pooled(backbone)


@torch.inference_mode()
def read_features(args: argparse.Namespace, dataset: InferSet, network: Inference) -> dict[str, np.ndarray]:
    """Features [D] by image name."""
    backbone, features = network.network.backbone, {}
    prepare = partial(add_views, scales=(1,), norm=backbone.norm, size_step=backbone.size_step)
    for sample in progress(single_images(dataset, min(args.workers, 1), prepare), 'features', total=len(dataset)):
        images = torch.from_numpy(sample['views'][0])[None].to(network.device)
        features[sample['name']] = network(sample['name'], lambda run, images=images: run(images))[0].cpu().numpy()
    return features


def find_suspects(features: dict[str, np.ndarray], labels: np.ndarray, classes: Sequence[str],
                  folds: int) -> list[Suspect]:
    """The suspicious entries of a label table [N, K]; prints the classes that are not judged."""
    names, few = list(features), np.minimum(labels.sum(0), (1 - labels).sum(0)) < folds
    probs = np.zeros(labels.shape, np.float32)
    if not few.all():
        probs[:, ~few] = out_of_fold_probs(np.stack([*features.values()]), labels[:, ~few], folds)
    weak = ~few & [truth.any() and average_precision(scores, truth) < CHANCE * truth.mean()
                   for scores, truth in zip(probs.T, labels.T == 1)]
    for chosen, why in ((few, f'fewer than {folds} images (--folds) show the class, or lack it'),
                        (weak, 'the features hardly predict which images show it')):
        if chosen.any():
            print(f'not judged, as {why}: {", ".join(classes[index] for index in np.flatnonzero(chosen))}')
    return [Suspect(names[row], classes[index], int(labels[row, index]), float(probs[row, index]),
                    WRONG if labels[row, index] else MISSING)
            for row, index in label_errors(probs, labels, ~(few | weak)).tolist()]


def main(argv: list[str] | None = None) -> None:
    args, spec = resolve(make_parser(), argv, '', get_spec)
    dataset = InferSet(spec, args.split or spec.train_split, args.limit)
    out, device = args.folder / FILE, devices.pick_device(args.device)
    read_suspects(out)          # refuses a file that was not written by this command
    if (pooled := imagenet_features(args)) is None:
        print('no label is judged: random features (--weights none) carry no information')
        return
    network = Inference(pooled, device, devices.pick_amp(args.amp, device), 'the ImageNet network')
    dataset.check()
    print(f'Labels of {len(dataset)} images ({spec.name} {dataset.split}) to {out}')
    if args.dry_run:
        return
    features = read_features(args, dataset, network)
    suspects = find_suspects(features, spec.image_labels([*features]), spec.classes, args.folds)
    write_suspects(out, suspects)
    counts = [sum(one.verdict == verdict for one in suspects) for verdict in (WRONG, MISSING)]
    print(f'{counts[0]} labels are {WRONG}, {counts[1]} {MISSING}' + ('; the most certain:' if suspects else ''))
    for one in suspects[:SHOWN]:
        print(f'  {one.image}: {one.name} {one.verdict} ({one.score:.3f})')


if __name__ == '__main__':
    run_script(main)
