"""How much disk each stage of a run will need, from the lists and the sizes of the images.

    python -m lib.disk --dataset voc12 --stages train_cam,infer_cam

The drivers print it with --dry-run. Networks are counted: 4 bytes a number for model.pth, and for last.pth the momentum
of all that is trained besides. Label files are estimated: the constants below times pixels, classes and images; the
sizes of up to 200 images, evenly spread over a list, stand for all. Not counted: logs, pictures and events of
TensorBoard (some MB), and what a running training needs besides: previous.pth and the one being written, each as
large as last.pth.
"""
import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib.data.registry import get_spec
from lib.net.aff import AffinityNet
from lib.net.backbones import make_backbone
from lib.net.deeplab import DeepLab
from lib.net.freeze import freeze_early, freeze_norm_affine
from lib.net.seam import Seam
from lib.run.options import run_script
from tool.dataspec import DatasetSpec
from tool.ranges import integer, number

PRESETS = {
    'voc12': {'width': 1.0, 'fov_channels': 512},
    'coco': {'width': 1.0, 'fov_channels': 512},
    'toy': {'width': 0.125, 'fov_channels': 128},
    'own': {'width': 1.0, 'fov_channels': 512},
}
# Bytes a pixel of each class shown, for CAMs and for the two seeds together, and of a label PNG; and bytes of each file
# besides. As found on CAMs of drawn images; those of larger and smoother maps take less.
CAM_BYTES, SEED_BYTES, PNG_BYTES = 0.20, 0.24, 0.02
CAM_FILE, SEED_FILE, PNG_FILE = 600, 800, 800
SAMPLED = 200
STAGES = ('train_cam', 'infer_cam', 'train_aff', 'infer_aff', 'train_seg', 'infer_seg')

Row = tuple[str, str, float]


def estimate(spec: DatasetSpec, width: float, fov_channels: int, backbone: str = 'resnet38d') -> list[Row]:
    """(stage, what, bytes) of every file or folder of files that a run leaves.

    Raises:
        FileNotFoundError, ValueError: if a list, the labels or an image is not there or cannot be read.
    """
    with torch.device('meta'):
        networks = {'cam': Seam(make_backbone(backbone, width), spec.num_classes),
                    'aff': AffinityNet(make_backbone(backbone, width)),
                    'seg': DeepLab(make_backbone(backbone, width), spec.num_classes, fov_channels)}
    rows = []
    for name, network in networks.items():
        (freeze_norm_affine if name == 'seg' else freeze_early)(network)
        whole = sum(tensor.nbytes for tensor in network.state_dict().values())
        momentum = sum(tensor.nbytes for tensor in network.parameters() if tensor.requires_grad)
        rows += [(f'train_{name}', 'model.pth', whole), (f'train_{name}', 'last.pth', whole + momentum)]
    for split in (spec.val_split, spec.train_split):
        count, pixels, shown = split_size(spec, split)
        rows.append(('infer_cam', f'CAMs of {split}', count * CAM_FILE + shown * CAM_BYTES))
        if split == spec.train_split:
            rows.append(('infer_cam', f'seeds of {split}', count * SEED_FILE + shown * SEED_BYTES))
        rows.append(('infer_aff', f'labels of {split}', count * PNG_FILE + pixels * PNG_BYTES))
    for split in (spec.val_split, spec.score_split):
        count, pixels, _ = split_size(spec, split)
        rows.append(('infer_seg', f'results of {split}', count * PNG_FILE + pixels * PNG_BYTES))
    return sorted(rows, key=lambda row: STAGES.index(row[0]))


def split_size(spec: DatasetSpec, split: str) -> tuple[int, float, float]:
    """Images of a split, their pixels, and the pixels times the classes that each image shows."""
    samples = spec.samples(split)
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, min(SAMPLED, len(samples))).astype(int)]
    pixels = np.mean([_pixels(sample.image, spec.max_side) for sample in chosen]) * len(samples)
    classes = spec.image_labels([sample.name for sample in samples]).sum(1).mean()
    return len(samples), pixels, pixels * classes


def _pixels(path: Path, max_side: int | None) -> float:
    """Pixels of an image file as it is read: shrunk to a long side of max_side."""
    try:
        with Image.open(path) as image:
            return image.width * image.height * min(1, (max_side or math.inf) / max(image.size)) ** 2
    except OSError as error:
        raise FileNotFoundError(f'{path} is missing or no image; the disk needed cannot be told without it') from error


def report(rows: Sequence[Row], stages: Sequence[str]) -> str:
    """The rows of some stages as text, with their sum."""
    rows = [row for row in rows if row[0] in stages]
    lines = [f'  {stage:10} {what:24} {_readable(size):>9}' for stage, what, size in rows]
    return '\n'.join(['disk needed, roughly:', *lines, f'  {"in all":35} {_readable(sum(row[2] for row in rows)):>9}'])


def _readable(size: float) -> str:
    for unit, length in (('GB', 1e9), ('MB', 1e6)):
        if size >= length:
            return f'{size / length:.3g} {unit}'
    return f'{size / 1e3:.3g} kB'


def make_parser() -> argparse.ArgumentParser:
    """The flags; widths that are not given are those of the data set's preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dataset', default='voc12', help='voc12, coco, or the path of a dataset.json')
    parser.add_argument('--data-root', type=Path, metavar='DIR', help='folder that holds the images')
    parser.add_argument('--lists', type=Path, metavar='DIR', help='folder with the lists')
    parser.add_argument('--stages', default=','.join(STAGES), help='stages to count, separated by commas')
    parser.add_argument('--backbone', default='resnet38d', metavar='NAME', help='resnet38d or timm:NAME')
    parser.add_argument('--width', type=number(0.01, 4), help='multiple of the published channel counts')
    parser.add_argument('--fov-channels', type=integer(1, 8192),
                        help='channels of the head of the segmentation network')
    return parser


def main(argv: list[str] | None = None) -> None:
    """Print the estimate."""
    args = make_parser().parse_args(argv)
    spec = get_spec(args.dataset, args.data_root, args.lists)
    preset = PRESETS[spec.preset]
    rows = estimate(spec, args.width or preset['width'], args.fov_channels or preset['fov_channels'], args.backbone)
    print(report(rows, args.stages.split(',')))


if __name__ == '__main__':
    run_script(main)
