"""Loss terms between two records, kept on the device so that no step waits for it."""
import math
from collections.abc import Mapping, Sequence

import torch

from lib.process import ranks


class Terms:
    """Sums of the loss terms since the last record, and their values since the last check."""

    def __init__(self, device: torch.device):
        self.device = device
        self.names, self.sums, self.count = [], None, 0
        self.unchecked = []             # (step, values, names of the samples)

    def add(self, step: int, terms: Mapping[str, torch.Tensor], samples: Sequence[str]) -> None:
        """Add the terms of one step, counted from 1."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        self.names = list(terms)
        self.sums = values + (torch.zeros_like(values) if self.sums is None else self.sums)
        self.count += 1
        self.unchecked.append((step, values, list(samples)))

    def problem(self) -> str:
        """Which term stopped being finite, when and on which samples; '' if none did. Waits for the device."""
        unchecked, self.unchecked = self.unchecked, []
        finite = torch.stack([values for _, values, _ in unchecked]).isfinite().tolist() if unchecked else []
        for (step, _, samples), flags in zip(unchecked, finite):
            if not all(flags):
                names = ', '.join(name for name, flag in zip(self.names, flags) if not flag)
                return f'loss term {names} is not finite at step {step} (samples {", ".join(samples)})'
        return ''

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
