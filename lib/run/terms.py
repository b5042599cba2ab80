"""Loss terms between two records, kept on the device so that no step waits for it."""
import math
from collections.abc import Mapping, Sequence

import torch

from lib.process import ranks


class Terms:
    """Sums of the loss terms since the last record, and the first step at which each was not finite."""

    def __init__(self, device: torch.device):
        self.device = device
        self.names, self.sums, self.count = [], None, 0
        self.first_bad = None           # step by term, -1 where all were finite
        self.samples = {}               # step -> names of its samples, since the last check

    def add(self, step: int, terms: Mapping[str, torch.Tensor], samples: Sequence[str]) -> None:
        """Take in the terms of one step, counted from 1."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        if self.sums is None:
            self.names, self.sums = list(terms), torch.zeros_like(values)
        if self.first_bad is None:
            self.first_bad = torch.full(values.shape, -1, dtype=torch.int64, device=values.device)
        self.first_bad = torch.where((self.first_bad < 0) & ~values.isfinite(), step, self.first_bad)
        self.sums = self.sums + values
        self.count += 1
        self.samples[step] = list(samples)

    def problem(self) -> str:
        """Which term stopped being finite, when and on which samples; '' if none did. Waits for the device."""
        first = self.first_bad.tolist() if self.first_bad is not None else []
        broken = [(step, name) for step, name in zip(first, self.names) if step >= 0]
        if not broken:
            self.samples = {}
            return ''
        step = min(step for step, _ in broken)
        names = ', '.join(name for at, name in broken if at == step)
        return f'loss term {names} is not finite at step {step} (samples {", ".join(self.samples.get(step, []))})'

    def take(self) -> dict[str, float]:
        """The means since the last call, over all processes."""
        values = ranks.mean(self.sums / self.count).tolist()
        means = dict(zip(self.names, values))
        self.sums, self.count = None, 0
        return means

    def state(self) -> dict:
        """What a checkpoint needs for the next means to be those of an uninterrupted run."""
        sums = [] if self.sums is None else ranks.mean(self.sums).tolist()
        return {'names': list(self.names), 'sums': sums, 'count': self.count}

    def load(self, state: Mapping) -> None:
        """Put a state back."""
        self.names, self.count = list(state['names']), state['count']
        self.sums = torch.tensor(state['sums'], device=self.device) if state['sums'] else None
        assert all(math.isfinite(value) for value in state['sums'])
