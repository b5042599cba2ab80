"""The training loop of all stages. It knows no loss, network or data set; a step knows no logging or checkpoint."""
import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from lib.process import ranks
from lib.process.batchpart import batch_part
from lib.process.ending import Signals, Stopped
from lib.process.progress import bar_style
from lib.run.checkpoint import AGAIN, is_trained, load_checkpoint, previous, remove_training, save_checkpoint
from lib.run.lock import Lock
from lib.run.record import Record
from lib.run.terms import Terms
from tool.torchutils import set_lr

Step = Callable[[Mapping], Mapping[str, torch.Tensor]]


def train(args: argparse.Namespace, folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer,
          step: Step, batches: Callable[[int], Iterable[Mapping]], lr_factor: Callable[[int], float], total_steps: int,
          device: torch.device, pictures: Callable[[], Mapping[str, np.ndarray]] | None = None, *,
          origin: Mapping, save: Callable[[Path, Mapping], None] | None = None,
          counts: Callable[[Mapping], torch.Tensor] | None = None) -> None:
    """Train to the last step, resuming from folder/last.pth where there is one, and write folder/model.pth.

    Every step starts from a random state made of (seed, step), so an interrupted run ends as an uninterrupted one. At
    SIGTERM, SIGINT or SIGUSR1 a checkpoint is written after the running step.

    Args:
        args: the script's settings.
        folder: the stage's folder; takes last.pth, model.pth and the record. It is locked meanwhile.
        network: what is trained; its state goes into the checkpoint.
        optimizer: groups hold `base_lr`.
        step: batch -> loss terms by name, among them 'loss', which is minimised. Where the batch is shared by processes
            or passes, it gets a part, and the mean over the parts is the loss of the batch.
        batches: first step -> this process's part of the batches from that step on; tensors go to the device here.
        lr_factor: step -> factor on every group's `base_lr`.
        total_steps: where training ends.
        device: where it runs.
        pictures: makes pictures (uint8 [H, W, 3]) by name, for TensorBoard.
        origin: what the network is trained on, see lib/run/origin.py. A model.pth of this origin is finished, and
            nothing is done; one of another, or such a checkpoint, is refused without --fresh.
        save: (path, origin) -> writes the trained network; None for a training that is a part of another.
        counts: batch -> numbers that losses are divided by; step finds their mean over the parts in batch['counts'].

    Raises:
        ValueError: if a loss term or a weight stops being finite (last.pth keeps an earlier, sound state), if another
            run is in the folder, or if settings or inputs are not those of last.pth or model.pth.
        Stopped: after a signal.
    """
    last, model = folder / 'last.pth', folder / 'model.pth'
    run = _Run(args, network, optimizer, Terms(device), step, counts, pictures, device)
    with Lock(folder), Signals() as signals:
        if args.fresh and not ranks.was_restarted():
            ranks.by_the_first(lambda: remove_training(model, last))
        if is_trained(model, origin):
            ranks.print_rank0(f'{model} is trained: nothing left to do (--fresh starts over)')
            return
        done = run.restore(last, origin)
        if done < total_steps:
            _steps(run, folder, origin, done, batches, lr_factor, total_steps, signals)
        if save:
            ranks.by_the_first(lambda: save(model, origin))


def _steps(run: '_Run', folder: Path, origin: Mapping, done: int, batches: Callable, lr_factor: Callable,
           total_steps: int, signals: Signals) -> None:
    """Take the steps that are left, with records and checkpoints."""
    args, last = run.args, folder / 'last.pth'
    record = Record(folder, args, run.device, done, origin) if ranks.is_first() else None
    with tqdm(total=total_steps * args.batch_size, initial=done * args.batch_size, disable=record is None,
              **bar_style(folder.name)) as bar:
        for index, batch in enumerate(batches(done), done):
            set_lr(run.optimizer, lr_factor(index))
            run.update(index, batch)
            bar.update(args.batch_size)
            done, finished = index + 1, index + 1 == total_steps
            save, stop = run.checkpoint_due(done, finished, bool(signals.caught))
            run.record(record, bar, done, finished)
            if save or stop:
                run.save(last, done, origin)
            if stop and not finished:
                _stop(record, signals.caught, f'after step {done} of {total_steps}, saved in {last}')
            if finished:
                break
    if record:
        previous(last).unlink(missing_ok=True)
        record.close(f'finished {total_steps} steps; corrupt images skipped: {len(run.skipped)}')


@dataclass
class _Run:
    """What takes part in every step of a training run."""

    args: argparse.Namespace
    network: nn.Module
    optimizer: torch.optim.Optimizer
    terms: Terms
    step: Step
    counts: Callable | None
    pictures: Callable | None
    device: torch.device
    scaler: torch.amp.GradScaler = field(init=False)
    skipped: list[str] = field(default_factory=list)        # problems of corrupt pictures, once for each time
    saved: float = field(default_factory=time.monotonic)    # when there was a checkpoint last, or the run began

    def __post_init__(self):
        self.scaler = torch.amp.GradScaler(enabled=self.args.amp == 'fp16')

    def update(self, index: int, batch: Mapping) -> None:
        """One step of the optimiser, in args.accumulate passes over equal parts of this process's part of the batch."""
        place, passes = ranks.place(), self.args.accumulate
        names, batch = batch.get('name', []), to_device(batch, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        if self.counts:
            batch['counts'] = ranks.mean(self.counts(batch).float()) / passes
        total = {}
        for part in range(passes):
            torch.manual_seed(step_seed(self.args.seed, index))
            with batch_part(place.rank * passes + part, place.world * passes, part == passes - 1):
                terms = self.step(part_of(batch, part, passes))
            self.scaler.scale(terms['loss'] / passes).backward()
            for key, value in terms.items():
                total[key] = total.get(key, 0) + value.detach() / passes
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.terms.add(index + 1, total, names)
        for problem in filter(None, batch.get('skipped', [])):
            print(f'warning: skipped at step {index + 1}: {problem}', flush=True)
            self.skipped.append(problem)

    def checkpoint_due(self, done: int, finished: bool, stop: bool) -> tuple[bool, bool]:
        """Whether to save and whether to stop after a step, agreed on by all processes; then the losses are sound.

        On a GPU looking at the losses makes the host wait: it happens when they are recorded or the network is saved.
        """
        problem = self.terms.problem() if self.device.type == 'cpu' else ''
        save = (finished or due(done, self.args.save_every)
                or time.monotonic() - self.saved >= 60 * self.args.save_minutes)
        save, stop, broken = ranks.any_of([save, stop, bool(problem)])
        if save or stop or broken or due(done, self.args.log_every):
            problem = problem or self.terms.problem()
            if not problem and (save or stop) and not all_finite(self.network):
                problem = f'a weight is not finite after step {done}'
            if problems := ranks.texts_of_all(problem):
                raise ValueError(f'{"; ".join(problems)}: lower --lr or use --amp none; earlier checkpoints are kept')
        return save, stop

    def record(self, record: Record | None, bar: tqdm, done: int, finished: bool) -> None:
        """Write numbers and pictures where they are due; the first process does."""
        if due(done, self.args.log_every) or finished:
            values = self.terms.take()
            bar.set_postfix({key: f'{value:.3f}' for key, value in values.items()})
            if record:
                record.scalars(done, {**values, 'lr': self.optimizer.param_groups[0]['lr']})
        every = self.args.picture_every
        if record and self.pictures and (due(done, every) or finished and every):
            record.pictures(done, self.pictures())

    def save(self, path: Path, step: int, origin: Mapping) -> None:
        """Write the checkpoint; the first process does."""
        state = {'step': step, 'origin': origin, 'network': self.network.state_dict(),
                 'optimizer': self.optimizer.state_dict(), 'scaler': self.scaler.state_dict(),
                 'terms': self.terms.state()}
        if ranks.is_first():
            save_checkpoint(path, state)
        self.saved = time.monotonic()

    def restore(self, path: Path, origin: Mapping) -> int:
        """Put a checkpoint's state in place; the number of steps it has behind it, 0 where there is none."""
        state = load_checkpoint(path, origin)
        done = state['step'] if state else 0
        if len(steps := set(ranks.texts_of_all(f'step {done}'))) > 1:
            raise ValueError(f'the processes of this run find {path} at {" and ".join(sorted(steps))}; all need the '
                             'same --exp, on a file system that all nodes share')
        if state is None:
            return 0
        try:
            self.network.load_state_dict(state['network'])
            self.optimizer.load_state_dict(state['optimizer'])
            self.scaler.load_state_dict(state['scaler'])
            self.terms.load(state['terms'])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f'{path} belongs to a different network; {AGAIN}') from error
        ranks.print_rank0(f'resuming {path} after step {done}')
        return done


def _stop(record: Record | None, signal: str | None, where: str) -> None:
    text = f'stopped by {signal or "a signal to another process"} {where}'
    if record:
        record.close(text)
    raise Stopped(f'{text}; the same command continues')


def due(done: int, every: int) -> bool:
    """Whether something that happens every so many steps happens now; 0 is never."""
    return every > 0 and done % every == 0


def all_finite(network: nn.Module) -> bool:
    """Whether no weight of a network is infinite or NaN."""
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's random state: distinct for all steps of all seeds in use."""
    return seed * 1_000_003 + step


def to_device(batch: Mapping, device: torch.device) -> dict:
    """The batch with its tensors on the device."""
    return {key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()}


def part_of(batch: Mapping, part: int, parts: int) -> Mapping:
    """One of so many equal parts of a batch; its 'counts' are those of each part."""
    if parts == 1:
        return batch

    def rows(value):
        size = len(value) // parts
        return value[part * size:(part + 1) * size]
    return {key: value if key == 'counts' else rows(value) for key, value in batch.items()}
