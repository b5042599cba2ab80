"""CUDA without a GPU: tensors that say they are on one, with sizes, dtypes and devices but no values.

Whatever mixes devices or dtypes raises, and so does whatever needs a value, for which the host would wait. Backward
does not run on such tensors; it does on those of the meta device, which have sizes and dtypes alone.
"""
import contextlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import infer_aff
import infer_cam
import infer_seg
import pretrain_toy
import train_aff
import train_seg
from lib import cam_stage
from lib.inference import Inference
from lib.net.aff import AffinityNet
from lib.net.deeplab import DeepLab
from lib.net.freeze import freeze_early, freeze_norm_affine, make_optimizer, set_train_mode
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from lib.run import device as devices
from lib.run.loop import Terms
from tool.torchutils import part_of, to_device

CPU, CUDA, META = (torch.device(name) for name in ('cpu', 'cuda:0', 'meta'))
AMPS = (None, torch.bfloat16)
SIDE, CLASSES = 64, 4


class Waits(TorchDispatchMode):
    """Lists the operations with tensors on two devices for which the host waits."""

    COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        # A kernel takes a single number of the CPU as it is.
        places = {tensor.device.type for tensor in tensors if function in self.COPIES or tensor.dim()}
        if len(places) > 1 and not (kwargs or {}).get('non_blocking') and args[2:] != (True,):
            self.found.append(f'{tensors[0].device.type}->{tensors[-1].device.type}')
        return result


@pytest.fixture
def waits(monkeypatch):
    """What the host waits for; while the fixture lasts there is a GPU, as far as torch can tell."""
    monkeypatch.setattr(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda **_: True)
    monkeypatch.setattr(torch.Tensor, 'numpy', lambda tensor: np.empty(tensor.shape, np.float32))
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as found:
        yield found.found


def seam(backbone):
    network = Seam(backbone, CLASSES)
    freeze_early(network)
    set_train_mode(network, batch_norm='running')
    return network


def affinity(backbone):
    network = AffinityNet(backbone)
    freeze_early(network)
    set_train_mode(network, batch_norm='running')
    return network


def deeplab(backbone):
    network = DeepLab(backbone, CLASSES, 8)
    freeze_norm_affine(network)
    set_train_mode(network, batch_norm='batch')
    return network


def classifier(backbone):
    return pretrain_toy.Classifier(backbone, CLASSES - 1).train()


def cam_step(network):
    return cam_stage.make_step(cam_stage.make_parser('', 'voc12').parse_args([]), network, ResNet38d.norm)


def affinity_step(network):
    return train_aff.make_step(train_aff.make_parser().parse_args([]), network)


def close_up_step(network):
    return pretrain_toy.make_step(network, 'label', torch.nn.functional.cross_entropy)


def count_pairs(batch):
    return train_aff.count_pairs(train_aff.make_parser().parse_args([]), batch)


# Network, step, counts, and the batch besides its images: shape and dtype by name.
STAGES = {
    'pretrain': (classifier, close_up_step, None, {'label': ((2,), torch.int64)}),
    'cam': (seam, cam_step, None, {'image_labels': ((2, CLASSES - 1), torch.float32)}),
    'aff': (affinity, affinity_step, count_pairs, {'label': ((2, SIDE // 8, SIDE // 8), torch.uint8)}),
    'seg': (deeplab, train_seg.make_step, train_seg.count_labelled, {'mask': ((2, SIDE, SIDE), torch.int64)})}


def on(device, make_network):
    """A narrow network, made on the CPU, with tensors of a device that this machine lacks: .to() makes none."""
    with unset_fake_temporarily():
        network = make_network(ResNet38d(1 / 32))
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is not None:
                    other = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
                    tensors[name] = torch.nn.Parameter(other, value.requires_grad) if isinstance(
                        value, torch.nn.Parameter) else other
    return network


def train_one_step(stage, device, amp=None):
    """A network, and the terms of one step on a batch that comes from the CPU."""
    make_network, make_step, counts, entries = STAGES[stage]
    network = on(device, make_network)
    batch = {'image': torch.empty(2, 3, SIDE, SIDE), 'name': ['a', 'b']}
    batch |= {key: torch.empty(shape, dtype=dtype) for key, (shape, dtype) in entries.items()}
    batch = to_device(batch, device)
    if counts:
        batch['counts'] = counts(batch).float()
    return network, make_step(devices.parallel(network, device, amp=amp))(part_of(batch, 0, 1))


@pytest.mark.parametrize('amp', AMPS, ids=str)
@pytest.mark.parametrize('stage', STAGES)
def test_forward_and_loss_of_every_stage_stay_on_the_gpu_and_wait_for_nothing(waits, stage, amp):
    _, terms = train_one_step(stage, CUDA, amp)
    assert {(value.device, value.dtype, value.dim()) for value in terms.values()} == {(CUDA, torch.float32, 0)}
    kept = Terms(CUDA)
    for step in (1, 2):
        kept.add(step, terms, ['a', 'b'])
    assert kept.sums.device == CUDA and waits == []
    with pytest.raises(DataDependentOutputException):       # a look at the losses does wait
        kept.problem()


@pytest.mark.parametrize('stage', STAGES)
def test_a_whole_step_with_backward_and_optimiser_needs_no_value(stage, monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: contextlib.nullcontext())   # the meta device knows none
    network, terms = train_one_step(stage, META)
    terms['loss'].backward()
    optimizer = make_optimizer(network, 0.1, 0.9, 5e-4) if hasattr(network, 'new_modules') else torch.optim.AdamW(
        network.parameters())
    optimizer.step()
    Terms(META).add(1, terms, ['a', 'b'])
    assert next(network.parameters()).is_meta


@pytest.fixture
def run_inference(waits, monkeypatch):
    """Function that has Inference compute one image on the GPU; returns the result and what the host waited for."""
    monkeypatch.setattr(torch.Tensor, '__bool__', lambda tensor: waits.append('look') is None)

    def run(make_network, amp, compute):
        with unset_fake_temporarily():
            inference = Inference(make_network(ResNet38d(1 / 32)), CPU, amp, Path('model.pth'))
        inference.device, inference.network = CUDA, on(CUDA, lambda _: inference.network)
        waits.clear()
        return inference('a', compute), waits

    return run


SIZES, IMAGE = ((33, 41), (65, 81)), np.zeros((65, 81, 3), np.uint8)
ONE_RESULT_AND_ONE_LOOK = ['cuda->cpu', 'look']


@pytest.mark.parametrize('amp', AMPS, ids=str)
def test_cams_wait_once_for_the_finished_maps(run_inference, amp):
    sample = {'image': IMAGE, 'image_labels': np.array([1, 0, 1]), 'views': [torch.empty(3, *size) for size in SIZES]}
    (_, _, cam), waits = run_inference(seam, amp, partial(infer_cam.infer_cams, sample, device=CUDA))
    assert cam.shape == (2, 65, 81) and waits == ONE_RESULT_AND_ONE_LOOK


@pytest.mark.parametrize('amp', AMPS, ids=str)
def test_affinities_wait_once_for_the_walk(run_inference, amp, monkeypatch):
    args, image = infer_aff.make_parser().parse_args([]), np.zeros((96, 112, 3), np.uint8)
    monkeypatch.setattr(torch, 'from_numpy', lambda array: torch.empty(array.shape))
    compute = partial(infer_aff.infer_affinity, image, args=args, backbone=ResNet38d, device=CUDA)
    (_, values, grid), waits = run_inference(affinity, amp, compute)
    assert values.shape == (34, (12 - 4) * (14 - 8)) and grid == (12, 14) and waits == ONE_RESULT_AND_ONE_LOOK


@pytest.mark.parametrize('amp', AMPS, ids=str)
def test_segmentation_waits_once_for_the_probabilities(run_inference, amp, monkeypatch):
    monkeypatch.setattr(infer_seg, 'make_views', lambda *_: (torch.empty(3, *size) for size in SIZES))
    probs, waits = run_inference(deeplab, amp, partial(
        infer_seg.infer_probs, IMAGE, scales=(0.5, 1), norm=None, size_step=None, device=CUDA))
    assert probs.shape == (CLASSES, 65, 81) and waits == ONE_RESULT_AND_ONE_LOOK


@pytest.mark.parametrize('wrong', [
    lambda x: bool((x > 0).all()), lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: x[x > 0],
    lambda x: x.nonzero(), lambda x: x + torch.ones(3), lambda x: x @ x.bfloat16(),
    lambda x: torch.where(torch.ones(3, dtype=torch.bool), x, 0)])
def test_what_mixes_or_needs_values_is_caught(waits, wrong):
    with pytest.raises(RuntimeError):
        wrong(torch.empty(3, device=CUDA))


@pytest.mark.parametrize('wrong, expected', [
    (lambda x: x.cpu(), 'cuda->cpu'), (lambda x: x.to('cpu', torch.float64), 'cuda->cpu'),
    (lambda x: torch.empty(3).to(x.device), 'cpu->cuda'), (lambda x: x.copy_(torch.empty(3)), 'cuda->cuda'),
    (lambda x: torch.tensor([1, 2], device=x.device), 'cpu->cuda'), (lambda x: x[torch.tensor([0, 1])], 'cuda->cuda')])
def test_a_hidden_copy_is_caught(waits, wrong, expected):
    wrong(torch.empty(3, device=CUDA))
    assert waits == [expected]
