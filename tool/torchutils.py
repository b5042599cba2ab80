"""Optimiser groups, the learning-rate schedule, full precision for losses, and helpers of a training step."""
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor as float32 if it is float16 or bfloat16, else unchanged: float64 stays float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def lr_groups(pretrained: Iterable[tuple[str, nn.Parameter]], new: Iterable[tuple[str, nn.Parameter]],
              lr: float, weight_decay: float, new_factor: float = 10) -> list[dict]:
    """Split named parameters into the four groups used by all stages.

    Biases have twice the learning rate of weights and no weight decay. Frozen parameters are left out, and so are the
    scale and shift of every batch norm, which the published code trains in no stage.

    Args:
        pretrained: (name, parameter) of the modules that start from ImageNet weights, as named_parameters gives them.
        new: the same for the modules that start from random weights.
        lr: learning rate of pretrained weights.
        weight_decay: L2 factor of the weights.
        new_factor: learning rate of new weights, as a multiple of lr.

    Each group for the torch optimiser, perhaps empty, has its name and its base_lr for set_lr.
    """
    rows = (('pretrained weights', 1, weight_decay), ('pretrained biases', 2, 0.0),
            ('new weights', new_factor, weight_decay), ('new biases', 2 * new_factor, 0.0))
    groups = [{'name': name, 'params': [], 'lr': factor * lr, 'weight_decay': decay, 'base_lr': factor * lr}
              for name, factor, decay in rows]
    for first, named in ((0, list(pretrained)), (2, list(new))):
        # Modules whose weight is a vector are batch norms: convolutions and linear layers have two axes or more.
        norms = {name.removesuffix('weight') for name, parameter in named
                 if name.rpartition('.')[2] == 'weight' and parameter.dim() == 1}
        for name, parameter in named:
            kind = name.rpartition('.')[2]
            if parameter.requires_grad and name.removesuffix(kind) not in norms:
                groups[first + (kind == 'bias')]['params'].append(parameter)
    return groups


def poly_factor(step: int, total: int, power: float = 0.9) -> float:
    """Fraction of the initial learning rate at a step: (1 - step / total) ** power, 0 from step = total on.

    In the published CAM and affinity stages 0.9 is this power only; their momentum is 0.0005, since weight decay is
    passed in its place.
    """
    return max(0.0, 1 - step / total) ** power


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to factor times its base_lr, in place."""
    for group in optimizer.param_groups:
        group['lr'] = factor * group['base_lr']


def all_finite(network: nn.Module) -> bool:
    """Whether all weights of a network are finite."""
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def to_device(batch: Mapping, device: torch.device) -> dict:
    """The batch with its tensors on the device."""
    return {key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()}


def part_of(batch: Mapping, part: int, parts: int) -> dict:
    """One of several equal parts of a batch; all parts have the same 'counts'."""
    size = len(batch['image']) // parts
    rows = slice(part * size, (part + 1) * size)
    return {key: value if key == 'counts' else value[rows] for key, value in batch.items()}


def due(done: int, every: int) -> bool:
    """Whether something that happens every N steps is due at this step; 0 means never."""
    return every > 0 and done % every == 0


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's random state, distinct for all steps of all seeds in use."""
    return seed * 1_000_003 + step
