"""Dropout that is the same however a batch is split over processes (see lib/process/batchpart.py)."""
import torch
from torch import nn

from lib.process.batchpart import batch_rows


class BatchDropout(nn.Dropout):
    """nn.Dropout."""

    def shape(self, x: torch.Tensor) -> tuple[int, ...]:
        """Shape of the factors of one sample."""
        return tuple(x.shape[1:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.p:
            return x
        count, mine = batch_rows(len(x))
        kept = x.new_empty(count, *self.shape(x)).bernoulli_(1 - self.p)[mine]
        return x * kept.div_(1 - self.p)


class BatchDropout2d(BatchDropout):
    """nn.Dropout2d: drops whole maps of [N, C, H, W]."""

    def shape(self, x: torch.Tensor) -> tuple[int, ...]:
        return x.shape[1], 1, 1
