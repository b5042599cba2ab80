"""Segment images with the trained DeepLab.

    python infer_seg.py --split val                       a split of the data set, to exp/<run>/results/<split>/<id>.png
    python infer_seg.py --images photos/*.jpg --out masks any images

Reads exp/<run>/seg/model.pth; writes label PNGs with the VOC palette, at the size of each image.
"""
import argparse
from pathlib import Path

import numpy as np
import torch

from lib.data.datasets import FileSet, InferSet
from lib.data.loading import single_images
from lib.data.registry import get_spec
from lib.multiscale import multi_scale
from lib.net.backbones import trained_backbone
from lib.net.deeplab import DeepLab
from lib.net.weights import load_network
from lib.run import device as devices
from lib.run.options import add_device_flags, base_parser, positive_float, positive_int, resolve, run_script
from lib.run.pool import Background
from lib.run.progress import progress
from lib.run.record import made_by
from tool.crfutils import FINAL_CRF, dense_crf
from tool.imageio import write_label_png
from tool.imutils import fitting_size, normalise, resize_cubic

PRESETS = {
    'voc12': {},
    'coco': {},
    'toy': {'width': 0.125, 'dilation': 6, 'fov_channels': 128, 'scales': (0.75, 1.0, 1.25), 'amp': 'auto'},
    'own': {'amp': 'auto'},
}


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = base_parser(__doc__)
    add_device_flags(parser)
    group = parser.add_argument_group('inference')
    group.add_argument('--split', help='list of images; the default is the data set\'s validation split')
    group.add_argument('--images', type=Path, nargs='+', metavar='FILE', help='segment these files instead of a split')
    group.add_argument('--out', type=Path, metavar='DIR',
                       help='folder of the PNGs; the default is exp/<run>/results/<split>, for --images results/images')
    group.add_argument('--checkpoint', type=Path, metavar='FILE',
                       help='trained network; the default is exp/<run>/seg/model.pth')
    group.add_argument('--scales', type=positive_float, nargs='+', default=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
                       help='image sizes, each run with its mirror')
    group.add_argument('--crf', action=argparse.BooleanOptionalAction, default=True, help='sharpen with the final CRF')
    group.add_argument('--dilation', type=positive_int, default=12, help='of the head, as trained')
    group.add_argument('--fov-channels', type=positive_int, default=512, help='channels of the head, as trained')
    return parser


def write_result(path: Path, image: np.ndarray, probs: np.ndarray, crf: bool) -> None:
    """Write the label PNG of one image [H, W, 3] from its class probabilities [C, H, W]."""
    write_label_png(path, (dense_crf(image, probs, FINAL_CRF) if crf else probs).argmax(0).astype(np.uint8))


def main(argv=None):
    """Segment one split, or the files given."""
    args, spec = resolve(make_parser(), argv, PRESETS, get_spec)
    split = args.split or spec.val_split
    dataset = FileSet(args.images) if args.images else InferSet(spec, split, args.limit, with_labels=False)
    dataset.check()
    device = devices.pick_device(args.device)
    amp = devices.pick_amp(args.amp, device)
    checkpoint = args.checkpoint or args.folder / 'seg' / 'model.pth'
    backbone = trained_backbone(checkpoint, args.backbone, args.width)
    network = DeepLab(backbone, spec.num_classes, args.fov_channels, args.dilation)
    load_network(network, checkpoint)
    network = devices.place(network, device, amp).eval()
    folder = args.out or args.folder / 'results' / ('images' if args.images else split)
    print(f'Segmentation of {len(dataset)} images to {folder}')
    if args.dry_run:
        return

    def forward(views: torch.Tensor) -> torch.Tensor:
        with devices.autocast(device, amp):
            return network(views)

    norm, size_step = backbone.norm, backbone.size_step
    made_by(folder, args, device)
    with Background(args.workers) as background:
        for sample in progress(single_images(dataset, min(args.workers, 1)), 'infer_seg'):
            image = sample['image']
            normalised = normalise(image, norm).transpose(1, 2, 0)

            def view(_, height, width, source=normalised):
                fitting = resize_cubic(source, *fitting_size(height, width, size_step))
                return np.ascontiguousarray(fitting.transpose(2, 0, 1))

            maps = torch.cat(list(multi_scale(image, args.scales, view, forward, device, align_corners=True)))
            probs = maps.mean(0).softmax(0).cpu().numpy()
            background.submit(write_result, folder / f'{sample["name"]}.png', image, probs, args.crf)


if __name__ == '__main__':
    run_script(main)
