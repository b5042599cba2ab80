"""The paper's two losses added to another method: a plain CAM classifier on a torchvision backbone.

    python -m lib.data.toy --out data/toy-0
    python examples/add_on.py --data data/toy-0/dataset.json

Trains a classifier twice from the same seed for the same number of steps, without and with the two losses, and prints
the mIoU of its class maps on the validation images. Lines that change are marked: # 1 imports, # 2 ISL, # 3 FSL.

The losses take maps [N, C, h, w] of any size, from any network. The tokens of a ViT [N, L, D] become such maps by
maps_of_tokens, followed by the same 1x1 convolution as below.
"""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

# ruff: noqa: E402
if __name__ == '__main__' and not __package__:      # run as a file: start anew as a module
    ROOT = Path(__file__).resolve().parents[1]
    sys.exit(subprocess.call([sys.executable, '-m', 'examples.add_on', *sys.argv[1:]],
                             env={**os.environ, 'PYTHONPATH': str(ROOT)}))

from lib.data.datasets import CamTrainSet, InferSet
from lib.data.loading import training_batches
from lib.data.registry import get_spec
from lib.files.imageio import read_mask
from lib.process.ending import run_script
from lib.process.ranges import COUNT, LARGEST_SEED, Parser, integer
from tool.camloss import cam_fsl  # 1: the two losses
from tool.camutils import fuse_scales
from tool.evalutils import Curve
from tool.imutils import IMAGENET_NORM, normalise
from tool.probutils import isl_loss  # 1


def maps_of_tokens(tokens: Tensor, height: int, width: int) -> Tensor:
    """Patch tokens of a ViT [N, L, D], without the class token, as feature maps [N, D, height, width]; L = h w."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


class PlainCam(nn.Module):
    """ResNet-18 at stride 8 and one class map a class: images [N, 3, H, W] -> logits [N, K, H / 8, W / 8]."""

    def __init__(self, num_fg: int):
        super().__init__()
        net = torchvision.models.resnet18(weights=None)     # weights='DEFAULT' for ImageNet weights
        self.features = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2)
        self.classifier = nn.Conv2d(128, num_fg, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def objective(logits: Tensor, images: Tensor, image_labels: Tensor, added: bool) -> Tensor:
    """The method's own loss, classification by the mean of each map, and with `added` the paper's two."""
    loss = F.multilabel_soft_margin_loss(logits.mean((2, 3)), image_labels)
    if added:
        loss = 0.8 * loss + 0.2 * isl_loss(logits, image_labels)                # 2: ISL
        with_background = F.pad(logits, (0, 0, 0, 0, 1, 0))         # 3: cam_fsl fills in channel 0
        loss = loss + FSL_WEIGHT * cam_fsl(with_background, images, image_labels, IMAGENET_NORM)      # 3: FSL
    return loss


FSL_WEIGHT = 1.0


def train(spec, steps: int, seed: int, added: bool) -> PlainCam:
    """A classifier after some steps of 8 crops; everything but `added` is the same from run to run."""
    torch.manual_seed(seed)
    network = PlainCam(spec.num_fg)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    data = CamTrainSet(spec, spec.train_split, crop=128, long_side=(115, 197), seed=seed)
    for batch in training_batches(data, 8, steps, seed, 0)(0):
        loss = objective(network(batch['image']), batch['image'], batch['image_labels'], added)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if schedule.last_epoch == steps:
            break
    return network.eval()


@torch.inference_mode()
def score(spec, network: PlainCam) -> dict:
    """mIoU over background thresholds of the maps of the classes present, on the validation images."""
    curve = Curve(spec.num_classes)
    images = InferSet(spec, spec.val_split)
    for index, sample in enumerate(images.samples):
        image, present = images[index]['image'], np.flatnonzero(images[index]['image_labels'])
        logits = network(torch.from_numpy(normalise(image, IMAGENET_NORM))[None])[:, present]
        maps = F.interpolate(logits, image.shape[:2], mode='bilinear', align_corners=False)
        curve.add(read_mask(sample.mask, spec.num_classes), present, fuse_scales(maps).numpy())
    return curve.summary()


def main(argv: list[str] | None = None) -> None:
    """Train without and with the losses and print both scores."""
    parser = Parser(__doc__)
    parser.add_argument('--data', default='data/toy-0/dataset.json', help='a dataset.json with masks for val')
    parser.add_argument('--steps', type=integer(1, COUNT), default=200, help='training steps of 8 images')
    parser.add_argument('--seed', type=integer(0, LARGEST_SEED), default=1,
                        help='of weights, data order and augmentation')
    args = parser.parse_args(argv)
    spec = get_spec(args.data)
    spec.check(spec.val_split, need_masks=True)
    for added in (False, True):
        result = score(spec, train(spec, args.steps, args.seed, added))
        miou, thresholds = result['miou'], list(result['thresholds'])
        print(f'{"with ISL and FSL" if added else "plain CAM":18s} mIoU {max(miou):5.2f} at its best threshold '
              f'{result["best_threshold"]:.2f}, {miou[thresholds.index(0.25)]:5.2f} at 0.25', flush=True)


if __name__ == '__main__':
    run_script(main)
