"""The training loop of all stages, independent of losses, networks and data sets; a step does no logging or saving."""
import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from lib.files.torchfile import write_torch
from lib.process import ranks
from lib.process.cli import bar_style
from lib.process.ending import Signals, Stopped
from lib.process.ranks import batch_part
from lib.run.checkpoint import AGAIN, is_trained, load_checkpoint, remove_training
from lib.run.device import any_of, by_the_first, mean_of_all, texts_of_all
from lib.run.lock import lock_folder
from lib.run.record import Record
from tool.torchutils import all_finite, due, part_of, set_lr, step_seed, to_device

PATIENCE = 25           # steps within which some batch must have labels
PARTS = 'network', 'optimizer', 'scaler'        # of a run that are in a checkpoint


class Terms:
    """Sums of the loss terms since the last record, and their values since the last check."""

    def __init__(self, device: torch.device):
        self.device, self.names, self.sums, self.count = device, [], None, 0
        self.unchecked = []             # (step, values, names of the samples)

    def add(self, step: int, terms: Mapping[str, torch.Tensor], samples: Sequence[str]) -> None:
        """Add the terms of one step, counted from 1."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        self.names, self.count = list(terms), self.count + 1
        self.sums = values if self.sums is None else self.sums + values
        self.unchecked.append((step, values, samples))

    def problem(self) -> str:
        """Which term is no longer finite, when and on which samples; '' if all are. Synchronises with the device."""
        unchecked, self.unchecked = self.unchecked, []
        finite = torch.stack([values for _, values, _ in unchecked]).isfinite().tolist() if unchecked else []
        for (step, _, samples), flags in zip(unchecked, finite):
            if not all(flags):
                names = ', '.join(name for name, flag in zip(self.names, flags) if not flag)
                return f'loss term {names} is not finite at step {step} (samples {", ".join(samples)})'
        return ''

    def take(self) -> dict[str, float]:
        """The means since the last call, over all processes."""
        means = dict(zip(self.names, mean_of_all(self.sums / self.count).tolist()))
        self.sums, self.count = None, 0
        return means

    def state(self) -> dict:
        """What a checkpoint must hold so that the next means are those of an uninterrupted run."""
        sums = [] if self.sums is None else mean_of_all(self.sums).tolist()
        return {'names': self.names, 'sums': sums, 'count': self.count}

    def load(self, state: Mapping) -> None:
        """Restore a state."""
        self.names, self.count = state['names'], state['count']
        self.sums = torch.tensor(state['sums'], device=self.device) if state['sums'] else None


@dataclass
class Run:
    """A training run, which train() continues from its last checkpoint to its last step.

    Args:
        args: the script's settings.
        folder: the stage's folder, for last.pth, model.pth and the record. It is locked during training.
        network: what is trained, on the device; its state goes into the checkpoint.
        optimizer: its groups hold `base_lr`.
        steps: number of steps.
        device: of this process.
        origin: what the network is trained on, see lib/run/origin.py. A model.pth of this origin is finished, and
            nothing is done; one of another, or such a checkpoint, is refused without --fresh.
        finish: is called in all processes after the last step, and may change the network.
        save: (path, origin) -> writes the trained network; None for a training that is a part of another.
        counts: batch -> numbers that losses are divided by; the step finds their mean over the parts in
            batch['counts']. If all are 0 in the first batches, training stops with the message `no_labels`.
        pictures: makes images (uint8 [H, W, 3]) by name, for TensorBoard; None for none.
    """

    args: argparse.Namespace
    folder: Path
    network: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    device: torch.device
    origin: Mapping
    finish: Callable[[], None] | None = None
    save: Callable[[Path, Mapping], None] | None = None
    counts: Callable[[Mapping], torch.Tensor] | None = None
    no_labels: str = ''
    pictures: Callable[[], Mapping[str, np.ndarray]] | None = None

    def __post_init__(self):
        self.last, self.model = self.folder / 'last.pth', self.folder / 'model.pth'
        self.terms = Terms(self.device)
        self.scaler = torch.amp.GradScaler(enabled=self.args.amp == 'fp16')
        self.unlabelled = 0                 # batches without labels; None after one with labels
        self.saved = time.monotonic()       # of the last checkpoint, or the start

    def update(self, step: Callable, index: int, batch: Mapping) -> None:
        """One optimizer step, in args.accumulate passes over equal parts of this process's part of the batch."""
        process, passes = ranks.place(), self.args.accumulate
        names, batch = batch.get('name', []), to_device(batch, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        if self.counts:
            batch['counts'] = self.checked(mean_of_all(self.counts(batch).float())) / passes
        total = {}
        for part in range(passes):
            torch.manual_seed(step_seed(self.args.seed, index))
            with batch_part(process.rank * passes + part, process.world * passes, part == passes - 1):
                terms = step(part_of(batch, part, passes))
            self.scaler.scale(terms['loss'] / passes).backward()
            for key, value in terms.items():
                total[key] = total.get(key, 0) + value.detach() / passes
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.terms.add(index + 1, total, names)

    def checked(self, counts: torch.Tensor) -> torch.Tensor:
        """The counts of a batch; ValueError if all of the first batches were without labels."""
        if self.unlabelled is not None:         # later batches do not synchronise with the device
            self.unlabelled = None if counts.any() else self.unlabelled + 1
            if self.unlabelled == min(PATIENCE, self.steps):
                raise ValueError(self.no_labels)
        return counts

    def checkpoint_due(self, done: int, stop: bool) -> tuple[bool, bool]:
        """Whether to save and whether to stop after a step, agreed on by all processes.

        Losses are checked only when they are recorded or the network is saved, as this synchronises with the GPU.

        Raises:
            ValueError: if a loss term or, when the network is saved, a weight is not finite.
        """
        save = (done == self.steps or due(done, self.args.save_every)
                or time.monotonic() - self.saved >= 60 * self.args.save_minutes)
        save, stop = any_of([save, stop])
        if save or stop or due(done, self.args.log_every):
            problem = self.terms.problem()
            if not problem and (save or stop) and not all_finite(self.network):
                problem = f'a weight is not finite after step {done}'
            if problems := texts_of_all(problem):
                raise ValueError(f'{"; ".join(problems)}: lower --lr or use --amp none; earlier checkpoints are kept')
        return save, stop

    def log(self, record: Record | None, bar: tqdm, done: int) -> None:
        """Record losses and pictures where they are due; `record` is that of rank 0."""
        if (last := done == self.steps) or due(done, self.args.log_every):
            values = self.terms.take()
            bar.set_postfix({key: f'{value:.3f}' for key, value in values.items()})
            if record:
                record.scalars(done, {**values, 'lr': self.optimizer.param_groups[0]['lr']})
        if record and self.pictures and (last or due(done, self.args.picture_every)):
            record.pictures(done, self.pictures())

    def save_state(self, done: int) -> None:
        """Write the checkpoint, on rank 0."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        state = {'step': done, 'origin': self.origin, **parts, 'terms': self.terms.state()}
        if ranks.is_first():
            write_torch(self.last, state)
        self.saved = time.monotonic()

    def restore(self) -> int:
        """Load the checkpoint; returns its number of finished steps, 0 without one."""
        state = load_checkpoint(self.last, self.origin)
        done = state['step'] if state else 0
        if len(steps := set(texts_of_all(f'step {done}'))) > 1:
            raise ValueError(f'the processes of this run see {self.last} at different steps ({", ".join(sorted(steps))}'
                             '); all nodes need the same --exp on a shared file system')
        if state is None:
            return 0
        try:
            for name in PARTS:
                getattr(self, name).load_state_dict(state[name])
            self.terms.load(state['terms'])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f'{self.last} belongs to a different network; {AGAIN}') from error
        ranks.print_rank0(f'resuming from {self.last} after step {done}')
        return done


def train(run: Run, *, step: Callable[[Mapping], Mapping[str, torch.Tensor]],
          batches: Callable[[int], Iterable[Mapping]], lr_factor: Callable[[int], float]) -> None:
    """Train to the last step, resuming from last.pth where there is one, and write model.pth.

    Every step is seeded from (seed, step), so an interrupted run ends exactly like an uninterrupted one. At SIGTERM,
    SIGINT or SIGUSR1 a checkpoint is written after the current step.

    Args:
        run: what is trained.
        step: batch -> loss terms by name, among them 'loss', which is minimised. Where the batch is shared by processes
            or passes, it gets a part, and the mean over the parts is the loss of the batch.
        batches: first step -> this process's part of the batches from that step on; tensors go to the device here.
        lr_factor: step -> factor on every group's `base_lr`.

    Raises:
        ValueError: if a loss term or a weight stops being finite (last.pth keeps an earlier, sound state), if another
            run is in the folder, or if settings or inputs are not those of last.pth or model.pth.
        Stopped: after a signal.
    """
    with lock_folder(run.folder), Signals() as signals:
        if run.args.fresh and not ranks.was_restarted():
            by_the_first(lambda: remove_training(run.model, run.last))
        if is_trained(run.model, run.origin):
            ranks.print_rank0(f'{run.model} is already trained: nothing to do (--fresh starts over)')
            return
        done = run.restore()
        if done < run.steps:
            _take_steps(run, done, step, batches(done), lr_factor, signals)
        if run.finish:
            run.finish()
        if run.save:
            by_the_first(lambda: run.save(run.model, run.origin))


def _take_steps(run: Run, done: int, step: Callable, batches: Iterable[Mapping], lr_factor: Callable[[int], float],
                signals: Signals) -> None:
    """Take the remaining steps, with records and checkpoints."""
    images = run.args.batch_size
    record = Record(run.folder, run.args, run.device, done, run.origin) if ranks.is_first() else None
    with tqdm(total=run.steps * images, initial=done * images, disable=record is None,
              **bar_style(run.folder.name)) as bar:
        for index, batch in zip(range(done, run.steps), batches):
            set_lr(run.optimizer, lr_factor(index))
            run.update(step, index, batch)
            bar.update(images)
            done = index + 1
            save, stop = run.checkpoint_due(done, bool(signals.caught))
            run.log(record, bar, done)
            if save or stop:
                run.save_state(done)
            if stop and done < run.steps:
                cause = signals.caught or 'a signal to another process'
                text = f'stopped by {cause} after step {done} of {run.steps}, saved in {run.last}'
                if record:
                    record.close(text)
                raise Stopped(f'{text}; the same command resumes')
    if record:
        record.close(f'finished {run.steps} steps')
