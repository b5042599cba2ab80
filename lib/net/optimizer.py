"""SGD over the published learning-rate groups of a network."""
import torch
from torch import nn

from tool.torchutils import lr_groups


def make_optimizer(network: nn.Module, lr: float, momentum: float, weight_decay: float,
                   head_lr: float = 10) -> torch.optim.SGD:
    """SGD on all that a stage trains: the backbone at lr, network.new_modules at head_lr times it, biases twice that.

    Frozen tensors, and the scale and shift of batch norm, are in no group.
    """
    named = list(network.named_parameters())
    is_new = {name: name.split('.')[0] in network.new_modules for name, _ in named}
    groups = lr_groups([pair for pair in named if not is_new[pair[0]]], [pair for pair in named if is_new[pair[0]]],
                       lr, weight_decay, head_lr)
    # Not fused=True: on CPUs it mixes up weights and gradients that lie differently in memory (torch 2.14).
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)
