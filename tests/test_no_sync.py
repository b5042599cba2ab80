"""No training step asks for a value of a tensor, which would make the host wait for the GPU at every step.

Tensors of the meta device have sizes and no values, so whatever needs one raises.
"""
import contextlib

import pytest
import torch

import train_aff
import train_seg
from lib.cam_stage import make_parser, make_step
from lib.net.aff import AffinityNet
from lib.net.deeplab import DeepLab
from lib.net.freeze import freeze_early, freeze_norm_affine, set_train_mode
from lib.net.optimizer import make_optimizer
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from lib.run.terms import Terms
from tool import probutils, seamutils

META = torch.device('meta')


def train_one_step(network, freeze, batch_norm, make, batch):
    """A whole step, from the batch to the new weights and the sums of the terms."""
    freeze(network)
    set_train_mode(network, batch_norm=batch_norm)
    terms = make(network)(batch)
    terms['loss'].backward()
    make_optimizer(network, 0.1, 0.9, 5e-4).step()
    Terms(META).add(1, terms, ['a', 'b'])
    assert next(network.parameters()).is_meta


@pytest.fixture
def backbone():
    with META:
        return ResNet38d(1 / 32)


def test_cam_step_needs_no_value(backbone, monkeypatch):
    for module in (probutils, seamutils):       # the meta device knows no autocast
        monkeypatch.setattr(module, 'no_autocast', lambda tensor: contextlib.nullcontext())
    with META:
        network = Seam(backbone, 4)
        batch = {'image': torch.empty(2, 3, 64, 64), 'image_labels': torch.empty(2, 3)}
    args = make_parser('', 'voc12').parse_args([])
    train_one_step(network, freeze_early, 'running', lambda net: make_step(args, net, backbone.norm, META), batch)


def test_affinity_step_needs_no_value(backbone):
    with META:
        network = AffinityNet(backbone)
        batch = {'image': torch.empty(2, 3, 96, 96), 'label': torch.empty(2, 12, 12, dtype=torch.uint8),
                 'counts': torch.empty(3)}
    args = train_aff.make_parser().parse_args([])
    train_one_step(network, freeze_early, 'running', lambda net: train_aff.make_step(args, net, META), batch)


def test_segmentation_step_needs_no_value(backbone):
    with META:
        network = DeepLab(backbone, 4, 8)
        batch = {'image': torch.empty(2, 3, 64, 64), 'mask': torch.empty(2, 64, 64, dtype=torch.int64),
                 'counts': torch.empty(())}
    args = train_seg.make_parser().parse_args([])
    train_one_step(network, freeze_norm_affine, 'batch', lambda net: train_seg.make_step(args, net, META), batch)


def test_a_step_that_needs_a_value_is_caught():
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool((torch.empty(3, device=META) > 0).all())
