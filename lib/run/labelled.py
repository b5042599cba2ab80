"""Training on labels that teach nothing is stopped at its first steps."""
from collections.abc import Callable, Mapping

import torch

from lib.process import ranks

PATIENCE = 25           # steps


class Labelled:
    """The counts that a stage divides its losses by; all of them 0 in every batch so far means nothing to learn.

    Reading all label files beforehand would take a minute or more on a large set; the first batches show it in seconds,
    and once a batch has something to learn from, nothing is looked at any more.

    Args:
        counts: batch -> numbers of what the losses are means over, on all processes.
        steps: of the training, which may be fewer than the patience.
        problem: what to say, with the remedy.
    """

    def __init__(self, counts: Callable[[Mapping], torch.Tensor], steps: int, problem: str):
        self.counts, self.left, self.problem = counts, min(PATIENCE, steps), problem

    def __call__(self, batch: Mapping) -> torch.Tensor:
        """The counts of a batch. Raises ValueError if no batch so far had any and the patience is at an end."""
        counts = self.counts(batch)
        if self.left:
            found, = ranks.any_of([bool(counts.any())])
            self.left = 0 if found else self.left - 1
            if not found and not self.left:
                raise ValueError(self.problem)
        return counts
