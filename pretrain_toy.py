"""Toy pretraining, the substitute for ImageNet weights on the synthetic set: a backbone that recognises its textures.

    ./run_demo.sh --stages backbone         how pretrained/toy_backbone.pth was made, on a separate synthetic set

The backbone is first trained to classify close-ups of single objects, generated here, and then to classify whole
training images, which also adapts the batch-norm statistics (frozen in the later stages). Writes exp/<run>/backbone/:
model.pth for --weights, in half precision, and the logs of both parts in close_ups/ and whole/.
"""
import argparse
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from lib.data.datasets import CamTrainSet, steps_of, training_batches
from lib.data.registry import get_spec
from lib.data.toy_draw import close_ups
from lib.net.backbone import make_backbone
from lib.net.syncnorm import share_batch_norm
from lib.net.weights import save_network
from lib.process import ranks
from lib.process.cli import integer
from lib.process.ending import run_script
from lib.run import device as devices
from lib.run.checkpoint import is_trained, remove_training
from lib.run.loop import Run, train
from lib.run.options import add_device_flags, add_loop_flags, base_parser, resolve
from lib.run.origin import Digests, training_origin
from tool.imutils import Norm, normalise


def make_parser() -> argparse.ArgumentParser:
    """Flags; nothing is published for this stage, so the defaults are values that work."""
    parser = base_parser(__doc__)
    parser.set_defaults(dataset='toy')
    add_device_flags(parser, backbone='resnet38d')
    add_loop_flags(parser, batch_size=32, lr=2e-3, lr_help='highest learning rate of AdamW')
    group = parser.add_argument_group('toy pretraining')
    group.add_argument('--close-ups', type=integer(1, 1_000_000), default=9000, help='number of close-ups')
    group.add_argument('--close-up-size', type=integer(8, 512), default=48, help='side of a close-up, pixels')
    group.add_argument('--close-up-epochs', type=integer(1, 100_000), default=3, help='passes over the close-ups')
    group.add_argument('--whole-epochs', type=integer(1, 100_000), default=4,
                       help='passes over the whole training images')
    group.add_argument('--whole-batch-size', type=integer(1, 65536), default=16, help='batch size of whole images')
    group.add_argument('--crop-size', type=integer(8, 8192), default=128,
                       help='side of the crop of whole images, pixels')
    return parser


class CloseUps(Dataset):
    """Parts of single objects, or background: image float32 [3, size, size], class index."""

    def __init__(self, count: int, size: int, seed: int, norm: Norm):
        self.images, self.labels = close_ups(count, size, seed)
        self.norm = norm

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        image = self.images[index][:, ::-1 if epoch % 2 else 1]
        return {'image': normalise(image, self.norm), 'label': self.labels[index]}


class Classifier(nn.Module):
    """Backbone, mean over the positions of conv6, linear layer: images [N, 3, H, W] -> logits [N, K + 1].

    The last logit is that of close-ups of background.
    """

    def __init__(self, backbone: nn.Module, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.taps['conv6'], num_classes + 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(images)['conv6'].mean((2, 3))).float()


def one_cycle(step: int, total: int, warm_up: float = 0.3) -> float:
    """Fraction of the highest learning rate: up along a cosine for the first 30 % of the steps, then down to 0."""
    done = step / total
    if done < warm_up:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / warm_up)) / 2
    return (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2


def make_step(network: Callable, target: str, loss: Callable) -> Callable:
    """The training step: logits of the batch's images against batch[target]."""

    def step(batch: Mapping) -> dict[str, torch.Tensor]:
        return {'loss': loss(network(batch['image']), batch[target])}

    return step


def whole_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Multi-label loss of logits [N, K + 1] against image-level labels [N, K]."""
    return F.multilabel_soft_margin_loss(logits[:, :-1], labels)


def train_parts(args: argparse.Namespace, network: Classifier, whole: CamTrainSet, device: torch.device,
                origin: Mapping, folder: Path) -> None:
    """Train on close-ups, then on the whole training images; each part is a run of its own."""
    amp = devices.pick_amp(args.amp, device)
    network = share_batch_norm(devices.place(network, device, amp), device).train()
    forward = devices.parallel(network, device, amp=amp, whole_batch=True)
    heads = CloseUps(args.close_ups, args.close_up_size, args.seed, network.backbone.norm)
    parts = [('close_ups', heads, 'label', F.cross_entropy, args.batch_size, args.close_up_epochs),
             ('whole', whole, 'image_labels', whole_loss, args.whole_batch_size, args.whole_epochs)]
    for name, data, target, loss, batch_size, epochs in parts:
        settings = argparse.Namespace(**{**vars(args), 'batch_size': batch_size, 'accumulate': 1})
        steps = len(data) // batch_size * epochs
        optimizer = torch.optim.AdamW([{'params': list(network.parameters()), 'base_lr': args.lr}])
        run = Run(settings, folder / name, network, optimizer, steps, device, origin)
        batches = training_batches(data, batch_size, steps, args.seed, args.workers, ranks.shares(batch_size))
        train(run, step=make_step(forward, target, loss), batches=batches, lr_factor=partial(one_cycle, total=steps))


def main(argv=None):
    """Train on close-ups, then on whole images."""
    args, spec = resolve(make_parser(), argv, 'pretrain_toy', get_spec)
    if spec.preset != 'toy':
        raise ValueError(f'--dataset {args.dataset} is not a synthetic set like the close-ups; make one with python -m '
                         'lib.data.toy')
    device = devices.pick_device(args.device)
    args.amp = devices.resolve_amp(args.amp, device)

    # Data and network.
    torch.manual_seed(args.seed)
    network = Classifier(make_backbone(args.backbone, args.width, args.output_stride, dropouts=(0, 0)), spec.num_fg)
    args.output_stride = network.backbone.stride
    long_side = round(0.9 * args.crop_size), round(1.5 * args.crop_size)
    whole = CamTrainSet(spec, spec.train_split, network.backbone.norm, args.crop_size, long_side, seed=args.seed,
                        limit=args.limit)
    whole.check()
    steps_of(args.close_ups, args.batch_size, 1, None, 'the close-ups')
    if len(whole) < args.whole_batch_size:
        raise ValueError(f'--whole-batch-size {args.whole_batch_size} is larger than the {len(whole)} images of '
                         f'{spec.train_split}; use at most {len(whole)}')
    folder = args.folder / 'backbone'
    ranks.print_rank0(f'Toy pretraining: {args.close_ups} close-ups, {len(whole)} images of {spec.name}, to {folder}')
    if args.dry_run:
        return

    # What the result depends on.
    digests, model = Digests(args.folder / '.digests.json'), folder / 'model.pth'
    origin = training_origin(args, spec, digests, whole.samples, whole.labels)
    if not args.fresh and is_trained(model, origin):
        ranks.print_rank0(f'{model} is already trained: nothing to do (--fresh starts over)')
        return

    # Train on the two sets in turn.
    devices.connect(device)
    if args.fresh and not ranks.was_restarted():
        devices.by_the_first(lambda: remove_training(model, folder / 'last.pth'))
    train_parts(args, network, whole, device, origin, folder)
    meta = {'network': 'backbone', 'backbone': args.backbone, 'width': args.width, 'output_stride': args.output_stride,
            'origin': origin}
    for layer in network.backbone.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.half()                # half the file; statistics of batch norms stay in float32
    devices.by_the_first(lambda: save_network(model, network.backbone, meta))


if __name__ == '__main__':
    run_script(main)
