"""The training loop of all stages. It knows no loss, network or data set; a step knows no logging or checkpoint."""
import argparse
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from lib.run.checkpoint import load_checkpoint, save_checkpoint
from lib.run.options import settings
from lib.run.record import Record
from tool.progress import bar_style
from tool.torchutils import set_lr


def train(args: argparse.Namespace, folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer,
          step: Callable[[Mapping], Mapping[str, torch.Tensor]], batches: Callable[[int], Iterable[Mapping]],
          lr_factor: Callable[[int], float], total_steps: int, device: torch.device,
          pictures: Callable[[], Mapping[str, np.ndarray]] | None = None) -> None:
    """Train to the last step, going on from folder/last.pth where there is one.

    Every step starts from a random state made of (seed, step), so an interrupted run ends as an uninterrupted one.

    Args:
        args: the script's settings (seed, fresh, amp, log_every, save_every, picture_every are read here).
        folder: the stage's folder; takes last.pth and the record.
        network: what is trained; its state goes into the checkpoint.
        optimizer: groups hold `base_lr`.
        step: batch -> loss terms by name, among them 'loss', which is minimised.
        batches: first step -> the batches from that step on; tensors are moved to the device here.
        lr_factor: step -> factor on every group's `base_lr`.
        total_steps: where training ends.
        device: where it runs.
        pictures: makes pictures (uint8 [H, W, 3]) by name, for TensorBoard.

    Raises:
        ValueError: if a loss term stops being finite; last.pth keeps an earlier, sound state.
    """
    last = folder / 'last.pth'
    scaler = torch.amp.GradScaler(enabled=args.amp == 'fp16')
    if args.fresh:
        last.unlink(missing_ok=True)        # or a run killed before its first checkpoint would go on from the old one
    done = restore(last, settings(args), network, optimizer, scaler)
    if done >= total_steps:
        print(f'{last} is at step {done} of {total_steps}: nothing left to train (--fresh starts over)')
        return
    record = Record(folder, args, device, done)
    means = RunningMeans()
    with tqdm(total=total_steps * args.batch_size, initial=done * args.batch_size, **bar_style(folder.name)) as bar:
        for index, batch in enumerate(batches(done), done):
            torch.manual_seed(step_seed(args.seed, index))
            set_lr(optimizer, lr_factor(index))
            optimizer.zero_grad(set_to_none=True)
            terms = step(to_device(batch, device))
            scaler.scale(terms['loss']).backward()
            scaler.step(optimizer)
            scaler.update()
            means.add(terms)
            done, finished = index + 1, index + 1 == total_steps
            bar.update(args.batch_size)
            if due(done, args.log_every) or due(done, args.save_every) or finished:
                values = means.take(done, batch)
                bar.set_postfix({key: f'{value:.3f}' for key, value in values.items()})
                record.scalars(done, {**values, 'lr': optimizer.param_groups[0]['lr']})
            if pictures and (due(done, args.picture_every) or finished and args.picture_every):
                record.pictures(done, pictures())
            if due(done, args.save_every) or finished:
                save_checkpoint(last, {'step': done, 'settings': settings(args), 'network': network.state_dict(),
                                       'optimizer': optimizer.state_dict(), 'scaler': scaler.state_dict()})
            if finished:
                break
    record.close(f'finished {total_steps} steps')


def restore(path: Path, made_with: dict, network: nn.Module, optimizer: torch.optim.Optimizer,
            scaler: torch.amp.GradScaler) -> int:
    """Put a checkpoint's state in place; the number of steps it has behind it, 0 where there is none."""
    state = load_checkpoint(path, made_with)
    if state is None:
        return 0
    try:
        network.load_state_dict(state['network'])
        optimizer.load_state_dict(state['optimizer'])
        scaler.load_state_dict(state['scaler'])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f'{path} is of another network: have the classes of the data set changed? '
                         'Give --fresh to start over, or --run NAME to keep both') from error
    print(f'resuming {path} after step {state["step"]}')
    return state['step']


class RunningMeans:
    """Means of loss terms between two records, kept on the device so that no step waits for it."""

    def __init__(self):
        self.sums, self.count = {}, 0

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Take in the terms of one step."""
        for key, value in terms.items():
            value = value.detach().float()
            self.sums[key] = self.sums[key] + value if self.count else value
        self.count += 1

    def take(self, step: int, batch: Mapping) -> dict[str, float]:
        """The means since the last call.

        Raises:
            ValueError: if one is not finite.
        """
        values = dict(zip(self.sums, (torch.stack(list(self.sums.values())) / self.count).tolist()))
        for key, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f'loss term {key} is {value} within the last {self.count} steps before step {step} '
                                 f'(last batch: {", ".join(batch.get("name", []))}); lower --lr or use --amp none; '
                                 'earlier checkpoints are kept')
        self.sums, self.count = {}, 0
        return values


def due(done: int, every: int) -> bool:
    """Whether something that happens every so many steps happens now; 0 is never."""
    return every > 0 and done % every == 0


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's random state: distinct for all steps of all seeds in use."""
    return seed * 1_000_003 + step


def to_device(batch: Mapping, device: torch.device) -> dict:
    """The batch with its tensors on the device."""
    return {key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()}
