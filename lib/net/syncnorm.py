"""Batch norm with the statistics of a batch that is split over processes."""
import torch
from torch import distributed, nn

from lib.net.freeze import norm_layers
from tool.torchutils import full_precision


class SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return SumOverProcesses.forward(ctx, gradient)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """nn.SyncBatchNorm in plain operations, as PyTorch's runs on GPUs only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        wide = full_precision(x)
        count = distributed.get_world_size() * x.numel() // x.shape[1]
        mean = SumOverProcesses.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normal = torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)
        return self.act(self.drop(normal)) if hasattr(self, 'act') else normal      # timm's has both built in


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network; if the batch is split over connected processes, its batch norms use statistics of the whole batch.

    The tensors stay the same objects under the same names.
    """
    if not distributed.is_initialized():
        return network
    if device.type == 'cuda' and all(type(layer) is nn.BatchNorm2d for layer in norm_layers(network)):
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for layer in norm_layers(network):      # the same layer; only its forward pass in training differs
        layer.__class__ = type(f'Shared{type(layer).__name__}', (SharedBatchNorm2d, type(layer)), {})
    return network
