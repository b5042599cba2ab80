"""What a stage trains and what is frozen: chosen once, in the script, never a side effect of train().

                      CAM, affinity                        segmentation
    weights           freeze_early or freeze_backbone      freeze_norm_affine or freeze_backbone
    batch norm        set_train_mode(net, 'running')       set_train_mode(net, 'batch'); that of a frozen backbone
                                                           set_train_mode(net.backbone, 'running') after it
"""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lib.process.ranks import batch_rows
from tool.torchutils import lr_groups


def norm_layers(net: nn.Module) -> Iterator[_BatchNorm]:
    """All batch norms of a network, synchronised ones and subclasses included."""
    return (module for module in net.modules() if isinstance(module, _BatchNorm))


def freeze_early(net: nn.Module) -> None:
    """CAM and affinity stages: freeze the scale and shift of every batch norm, and the early layers of the backbone.

    The early layers are net.backbone.frozen_prefixes. Everything else is trained, whatever was set before.
    """
    freeze_norm_affine(net)
    for name in net.backbone.frozen_prefixes:
        net.backbone.get_submodule(name).requires_grad_(False)


def freeze_backbone(net: nn.Module) -> None:
    """Any stage on frozen features: only the head is trained, without scale and shift of batch norms."""
    freeze_norm_affine(net)
    net.backbone.requires_grad_(False)


def freeze_norm_affine(net: nn.Module) -> None:
    """Segmentation stage: freeze the scale and shift of every batch norm; every convolution is trained, even the first.

    The original keeps scale and shift out of its optimiser in all stages.
    """
    net.requires_grad_(True)
    for layer in norm_layers(net):
        layer.requires_grad_(False)


FREEZE = {'early': freeze_early, 'backbone': freeze_backbone}       # by value of --freeze, CAM and affinity stages
FREEZE_SEG = {'norm': freeze_norm_affine, 'backbone': freeze_backbone}


def set_train_mode(net: nn.Module, batch_norm: str) -> None:
    """Set training mode: dropout is on, and batch norm uses the given statistics.

    Args:
        net: the network, or its DataParallel wrapper.
        batch_norm: 'running' normalises with the stored statistics and does not change them (CAM and affinity stages);
            'batch' normalises with those of the batch and updates the stored ones (segmentation stage; the original
            never calls train(), so its network stays in the initial mode of PyTorch, which is this one).
    """
    assert batch_norm in ('running', 'batch')
    net.train()
    if batch_norm == 'running':
        for layer in norm_layers(net):
            layer.eval()


def make_optimizer(network: nn.Module, lr: float, momentum: float, weight_decay: float,
                   head_lr: float = 10) -> torch.optim.SGD:
    """SGD on all that a stage trains: the backbone at lr, network.new_modules at head_lr * lr, biases at twice that.

    Frozen tensors, and the scale and shift of batch norm, are in no group.
    """
    named = list(network.named_parameters())
    is_new = {name: name.split('.')[0] in network.new_modules for name, _ in named}
    groups = lr_groups([pair for pair in named if not is_new[pair[0]]], [pair for pair in named if is_new[pair[0]]],
                       lr, weight_decay, head_lr)
    # Not fused=True: on CPUs it mixes up weights and gradients of different memory layout (torch 2.14).
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


class BatchDropout(nn.Dropout):
    """nn.Dropout."""

    drops_maps = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.p:
            return x
        count, mine = batch_rows(len(x))
        shape = (x.shape[1], 1, 1) if self.drops_maps else x.shape[1:]
        kept = x.new_empty(count, *shape).bernoulli_(1 - self.p)[mine]
        return x * kept.div_(1 - self.p)


class BatchDropout2d(BatchDropout):
    """nn.Dropout2d: drops whole maps of [N, C, H, W]."""

    drops_maps = True


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """The network in eval mode; afterwards every module is in its former mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    yield
    for module, training in modes.items():
        module.training = training
