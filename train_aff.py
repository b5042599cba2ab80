"""Train AffinityNet on the CRF seeds: features that are similar for neighbouring pixels of the same class.

    python train_aff.py                                  one GPU, or several in this process (DataParallel)
    torchrun --nproc-per-node 4 -- train_aff.py          four processes that share each batch

Reads the images, exp/<run>/labels/<train split>/seeds and ImageNet weights; writes exp/<run>/aff/: model.pth, last.pth
(from which the same command resumes), args.json, env.json, log.txt, metrics.jsonl and TensorBoard events.
"""
import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lib.data.affinity import AffTrainSet
from lib.data.datasets import steps_of
from lib.data.npyio import label_source
from lib.data.registry import get_spec
from lib.files.imageio import voc_palette
from lib.net.aff import AffinityNet
from lib.net.freeze import FREEZE, set_train_mode
from lib.process.cli import integer
from lib.process.ending import run_script
from lib.run import device as devices
from lib.run.options import NOTHING, resolve
from lib.training import Stage, add_epoch_flags, pretrained_backbone, training_parser
from tool.affutils import affinity_loss, mean_affinity, pair_affinity, pair_counts, pair_labels
from tool.drawing import blend, grey, magnified
from tool.imutils import denormalise


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults reproduce the paper on VOC."""
    # A slip of the published code, kept: the value of weight decay is passed as momentum, as in CAM training.
    parser = training_parser(__doc__, batch_size=8, lr=0.01, momentum=5e-4, freeze=tuple(FREEZE))
    add_epoch_flags(parser)
    group = parser.add_argument_group('affinity objective')
    group.add_argument('--radius', type=integer(2, 32), default=5,
                       help='pairs of pixels are closer than this, in pixels of the feature maps')
    group.add_argument('--seed-dir', type=Path, metavar='DIR',
                       help='CRF seeds; the default is exp/<run>/labels/<train split>/seeds').affects = NOTHING
    group.add_argument('--unpickle', action='store_true',
                       help='read pickled .npy files from two folders alpha_<strength> in --seed-dir, as written by '
                       'the reference and by infer_cam.py --export-npy').affects = NOTHING
    return parser


def make_network(args: argparse.Namespace) -> AffinityNet:
    """AffinityNet with ImageNet weights; batch norm and what --freeze names are not trained."""
    network = AffinityNet(pretrained_backbone(args))
    FREEZE[args.freeze](network)
    set_train_mode(network, batch_norm='running')
    return network


def make_step(args: argparse.Namespace, network: Callable) -> Callable:
    """The training step: affinities of close pixels against the pairs of which the seeds are certain."""

    def step(batch: Mapping) -> dict[str, torch.Tensor]:
        features = network(batch['image'])
        affinity = pair_affinity(features, args.radius)                     # [N, offsets, positions] in (0, 1]
        terms = affinity_loss(affinity, pair_labels(batch['label'], args.radius), batch['counts'])
        terms['loss'] = terms['bg'] / 4 + terms['fg'] / 4 + terms['neg'] / 2
        return terms

    return step


def count_pairs(args: argparse.Namespace, batch: Mapping) -> torch.Tensor:
    """Number of pairs of each kind in a batch, by which the losses are divided."""
    return pair_counts(pair_labels(batch['label'], args.radius))


def draw_row(args: argparse.Namespace, network: AffinityNet, device: torch.device, sample: Mapping) -> list[np.ndarray]:
    """For TensorBoard: a training crop, its label from the two seeds, its mean affinity.

    The affinity map is grey, dark at the edges that the network sees. Pale yellow is ignored.
    """
    crop = (denormalise(sample['image'].numpy(), network.backbone.norm).clip(0, 1) * 255).astype(np.uint8)
    image, stride = crop.transpose(1, 2, 0), network.backbone.stride
    features = network(sample['image'][None].to(device))
    affinity = pair_affinity(features, args.radius)[0].cpu().numpy()
    near = mean_affinity(affinity, tuple(features.shape[-2:]), args.radius)
    label = blend(image, magnified(sample['label'].numpy(), stride), voc_palette())
    return [image, label, magnified(grey(near), stride)]


def main(argv=None):
    """Train on the data set's training split."""
    args, spec = resolve(make_parser(), argv, 'train_aff', get_spec)
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)

    # Data and network.
    network = make_network(args)
    own_seeds = args.folder / 'labels' / spec.train_split / 'seeds'
    seeds, _ = label_source(args.seed_dir, own_seeds, args.unpickle, '--seed-dir')
    dataset = AffTrainSet(spec, spec.train_split, network.backbone.norm, args.crop_size, seeds, seed=args.seed,
                          limit=args.limit, unpickle=args.unpickle, stride=args.output_stride)
    dataset.check()
    steps = steps_of(len(dataset), args.batch_size, args.epochs, args.max_steps, spec.train_split, args.min_steps)
    stage = Stage('aff', args, spec, device, dataset, steps)
    stage.check_labels()
    if args.dry_run:
        return

    # What the result depends on: it must be the same in a resumed run.
    origin = stage.origin(seeds=[path for _, path in dataset.labelled()])

    # Train.
    step = make_step(args, stage.forward(network))
    no_labels = (f'the seeds in {dataset.seeds_dir} are certain of no pair of pixels in the first batches: nothing to '
                 'learn from; give infer_cam.py other --seed-alphas')
    samples = [dataset[0, index] for index in range(min(4, len(dataset)))] if args.picture_every else []
    pictures = 'affinity', samples, partial(draw_row, args, network, device)
    stage.train(network, 'aff', step, origin, pictures=pictures, counts=partial(count_pairs, args),
                no_labels=no_labels)


if __name__ == '__main__':
    run_script(main)
