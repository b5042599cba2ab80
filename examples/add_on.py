"""The two losses added to another method: a plain CAM classifier on a torchvision backbone.

    python -m lib.data.toy
    python -m examples.add_on --data data/toy/dataset.json
    python -m examples.add_on --network vit

Trains a classifier twice from the same seed, without and with the two losses, and prints the mIoU of its class maps on
the validation images. The lines that add the losses are marked: # 1 imports, # 2 ISL, # 3 FSL.

The losses accept class maps [N, K, h, w] of any size from any network; PlainViT shows how a ViT's tokens become maps.
"""
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data.datasets import CamTrainSet, InferSet, training_batches
from lib.data.registry import get_spec
from lib.files.imageio import read_mask
from lib.process.cli import COUNT, LARGEST_SEED, Parser, integer
from lib.process.ending import run_script
from tool.evalutils import Curve
from tool.imutils import IMAGENET_NORM, normalise
from tool.probutils import fsl_images, fsl_loss, fsl_maps, isl_loss  # 1
from tool.seamutils import fuse_scales


def maps_of_tokens(tokens: Tensor, height: int, width: int) -> Tensor:
    """Feature maps [N, D, height, width] from the patch tokens of a ViT [N, L, D], L = height width, no class token."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def plain_cam(num_fg: int) -> nn.Module:
    """ResNet-18 at stride 8 and one map per class: images [N, 3, H, W] -> logits [N, K, H / 8, W / 8]."""
    net = torchvision.models.resnet18(weights=None)     # weights='DEFAULT' for ImageNet weights
    return nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2,
                         nn.Conv2d(128, num_fg, 1, bias=False))


class PlainViT(nn.Module):
    """A small ViT with patches of 8 and one map per class: images [N, 3, H, W] -> logits [N, K, 16, 16]."""

    def __init__(self, num_fg: int):
        super().__init__()
        self.vit = torchvision.models.VisionTransformer(128, 8, 4, 4, 128, 256)
        self.classify = nn.Conv2d(128, num_fg, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        images = F.interpolate(images, (128, 128), mode='bilinear', align_corners=False)
        tokens = self.vit.conv_proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.vit.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.classify(maps_of_tokens(self.vit.encoder(tokens)[:, 1:], 16, 16))


NETWORKS = {'cnn': plain_cam, 'vit': PlainViT}


def objective(logits: Tensor, images: Tensor, image_labels: Tensor, added: bool) -> Tensor:
    """The method's own loss, on the mean of each class map, and with `added` the two losses of the paper."""
    loss = F.multilabel_soft_margin_loss(logits.mean((2, 3)), image_labels)
    if added:
        loss = 0.8 * loss + 0.2 * isl_loss(logits, image_labels)                                    # 2
        small = fsl_images(images, logits.shape[2:], *IMAGENET_NORM)                                # 3
        loss = loss + 1.0 * fsl_loss(fsl_maps(logits, image_labels), small)                         # 3
    return loss


def train(spec, make_network: Callable, steps: int, seed: int, added: bool) -> nn.Module:
    """Train a classifier for some steps of 8 crops; only `added` differs between the two trainings."""
    torch.manual_seed(seed)
    network = make_network(spec.num_fg)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    data = CamTrainSet(spec, spec.train_split, crop=128, long_side=(115, 197), seed=seed)
    for _, batch in zip(range(steps), training_batches(data, 8, steps, seed, 0)(0)):
        loss = objective(network(batch['image']), batch['image'], batch['image_labels'], added)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def score(spec, network: nn.Module) -> dict:
    """mIoU at each background threshold, from the maps of the classes present in each validation image."""
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
    parser = Parser(__doc__, prog='python -m examples.add_on')
    parser.add_argument('--data', default='data/toy/dataset.json', help='dataset.json with validation masks')
    parser.add_argument('--network', choices=NETWORKS, default='cnn', help='ResNet-18, or a small ViT')
    parser.add_argument('--steps', type=integer(1, COUNT), default=200, help='training steps of 8 images')
    parser.add_argument('--seed', type=integer(0, LARGEST_SEED), default=1, help='of weights, order and augmentation')
    args = parser.parse_args(argv)
    spec = get_spec(args.data)
    spec.check(spec.val_split, need_masks=True)
    for added in (False, True):
        result = score(spec, train(spec, NETWORKS[args.network], args.steps, args.seed, added))
        at_quarter = result['miou'][result['thresholds'].index(0.25)]
        print(f'{"with ISL and FSL" if added else "plain CAM":18s} mIoU {result["best_miou"]:5.2f} at its best '
              f'threshold {result["best_threshold"]:.2f}, {at_quarter:5.2f} at 0.25', flush=True)


if __name__ == '__main__':
    run_script(main)
