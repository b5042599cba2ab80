"""Compare pretrained backbones on photos with masks, in a few minutes of CPU time: CAMs of a linear classifier.

    python -m benchmarks.backbone_probe --dataset animals/dataset.json --train 160 --val 120 \
        timm:tf_efficientnet_lite0=efficientnet-lite0 timm:tf_efficientnet_lite1=efficientnet-lite1

Each argument is BACKBONE=WEIGHTS, as for --backbone and --weights. The backbone is frozen and sees each photo once,
without augmentation. A linear classifier is trained on the mean of conv6 with image-level labels; its maps, masked with
the true labels, are scored as CAMs. This involves neither SEAM nor the two losses: use it to choose a backbone, not to
report a score.
"""
import time

import numpy as np
import torch
from torch.nn import functional as F

from lib.data.datasets import InferSet
from lib.data.registry import get_spec
from lib.files.imageio import read_mask
from lib.net.backbone import make_backbone
from lib.net.weights import load_imagenet
from lib.process.cli import COUNT, Parser, integer
from lib.process.ending import run_script
from tool.evalutils import Curve
from tool.imutils import fitting_size, normalise, resize_bicubic
from tool.seamutils import fuse_scales, resize


def features(backbone, dataset: InferSet, count: int) -> tuple[list[torch.Tensor], list[int], float]:
    """conv6 [C, h, w] of evenly spaced photos, their indices, and the CPU seconds per photo."""
    chosen, maps, seconds = np.linspace(0, len(dataset) - 1, count).astype(int).tolist(), [], 0.0
    for index in chosen:
        image = dataset[index]['image']
        fitting = resize_bicubic(image, *fitting_size(*image.shape[:2], backbone.size_step))
        start = time.process_time()
        maps.append(backbone(torch.from_numpy(normalise(fitting, backbone.norm))[None])['conv6'][0])
        seconds += time.process_time() - start
    return maps, chosen, seconds / count


def linear_classifier(pooled: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [K, C], of the features divided by their scale [C], of a logistic regression with weight decay."""
    scale = pooled.std(0) + 1e-6
    layer = torch.nn.Linear(pooled.shape[1], labels.shape[1])
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn='strong_wolfe')

    def closure():
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(layer(pooled / scale), labels) + 1e-2 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer.weight.detach(), scale


def probe(word: str, train: InferSet, val: InferSet, counts: tuple[int, int]) -> str:
    """One backbone as a row of the table."""
    name, _, weights = word.partition('=')
    torch.manual_seed(0)
    backbone = make_backbone(name).eval()
    load_imagenet(backbone, weights)
    with torch.no_grad():
        maps, chosen, _ = features(backbone, train, counts[0])
        val_maps, val_chosen, seconds = features(backbone, val, counts[1])
    pooled, labels = torch.stack([values.mean((1, 2)) for values in maps]), torch.from_numpy(train.labels[chosen])
    weight, scale = linear_classifier(pooled, labels)
    curve = Curve(val.spec.num_classes)
    for index, values in zip(val_chosen, val_maps):
        truth = read_mask(val.samples[index].mask, val.spec.num_classes, val.spec.max_side)
        keys = np.flatnonzero(val.labels[index])
        logits = torch.einsum('kc,chw->khw', weight[keys], values / scale[:, None, None])[None]
        curve.add(truth, keys, fuse_scales(resize(logits, truth.shape)).numpy())
    summary = curve.summary()
    return (f'| `{name}` | {sum(value.numel() for value in backbone.parameters()) / 1e6:.1f} | {seconds:.3f} | '
            f'{summary["best_miou"]:.2f} ({summary["best_threshold"]:.2f}) |')


def main(argv=None):
    """Print the table."""
    parser = Parser(__doc__, prog='python -m benchmarks.backbone_probe')
    parser.add_argument('backbones', nargs='+')
    parser.add_argument('--dataset', required=True)
    parser.add_argument('--train', type=integer(2, COUNT), default=160, help='number of training photos')
    parser.add_argument('--val', type=integer(1, COUNT), default=120, help='number of photos to score')
    args = parser.parse_args(argv)
    spec = get_spec(args.dataset, None, None)
    train, val = InferSet(spec, spec.train_split), InferSet(spec, spec.val_split)
    print('| network | million parameters | CPU s per photo | mIoU at the best threshold (which) |\n|---|---|---|---|')
    for word in args.backbones:
        print(probe(word, train, val, (args.train, args.val)), flush=True)


if __name__ == '__main__':
    run_script(main)
