"""Training on labels without a single labelled pixel stops within its first steps."""
from collections.abc import Callable, Mapping

import torch

from lib.run.device import any_of

PATIENCE = 25           # steps


class Labelled:
    """The counts that a stage divides its losses by; training stops if all are 0 in each of the first batches.

    Reading all label files beforehand would take a minute or more on a large set; the first batches show it in seconds.
    Checking ends with the first batch that has labels.

    Args:
        counts: batch -> numbers of what the losses are means over, on all processes.
        steps: number of training steps, which may be below PATIENCE.
        problem: the error message, with the remedy.
    """

    def __init__(self, counts: Callable[[Mapping], torch.Tensor], steps: int, problem: str):
        self.counts, self.left, self.problem = counts, min(PATIENCE, steps), problem

    def __call__(self, batch: Mapping) -> torch.Tensor:
        """The counts of a batch. Raises ValueError after PATIENCE batches without labels."""
        counts = self.counts(batch)
        if self.left:
            labelled, = any_of([bool(counts.any())])
            self.left = 0 if labelled else self.left - 1
            if not labelled and not self.left:
                raise ValueError(self.problem)
        return counts
