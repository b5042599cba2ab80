"""What a run writes about itself: settings, environment, log, loss terms, TensorBoard, scores."""
import argparse
import json
import math
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from lib.files.fileio import replacing
from lib.files.jsonfile import read_json, read_json_lines, write_json
from lib.process import ranks
from lib.run.lock import Lock

METRICS = {'step': int, str: float}         # a line of metrics.jsonl
PERCENT = (float, None)                     # None: a class left out of the mean
RESULT = {'miou': PERCENT, 'contour_f': PERCENT, 'iou': [PERCENT], 'f': [PERCENT], 'threshold?': float,
          'alpha?': float, 'best?': bool}
SCORE = {'what': ('cam', 'cam-crf', 'cam-pred', 'walk', 'seg'), 'protocol': ('reference', 'strict'), 'dataset': str,
         'split': str, 'images': int, 'classes': [str], 'time': str, 'results': [RESULT], 'left_out?': [str],
         'curve?': {'thresholds': [float], 'miou': [PERCENT]}}      # an evaluation in scores.json


class Record:
    """The record of one training stage in its folder.

    args.json holds the resolved settings, env.json the command, the machine and the digests of the inputs, log.txt
    start, end and warnings, metrics.jsonl every loss term by step, and TensorBoard events the same with visualisations.
    A run resumed after `step` appends; records of later steps are dropped, as those steps are done again.
    """

    def __init__(self, folder: Path, args: argparse.Namespace, device: torch.device, step: int,
                 origin: Mapping | None = None):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / 'args.json', plain_args(args))
        write_json(folder / 'env.json', {**environment(device), **(origin or {})})
        self.metrics = folder / 'metrics.jsonl'
        keep = [row for row in read_json_lines(self.metrics, METRICS) if row['step'] <= step] if step else []
        with replacing(self.metrics) as temporary:
            temporary.write_text(''.join(json.dumps(row) + '\n' for row in keep))
        if not step:
            for old in folder.glob('events.out.tfevents.*'):
                old.unlink()
        self.log_file = folder / 'log.txt'
        self.board = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self.log(' '.join(['started' if not step else f'resumed after step {step}:', *sys.argv]))

    def log(self, text: str) -> None:
        """Add a line to log.txt, with the time."""
        with open(self.log_file, 'a') as file:
            file.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")} {text}\n')

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers by name after a step."""
        with open(self.metrics, 'a') as file:
            file.write(json.dumps({'step': step, **{key: round(value, 7) for key, value in values.items()}}) + '\n')
        for key, value in values.items():
            self.board.add_scalar(key, value, step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Record visualisations (uint8 [H, W, 3]) by name after a step."""
        for key, picture in pictures.items():
            self.board.add_image(key, picture, step, dataformats='HWC')
        self.board.flush()

    def close(self, text: str) -> None:
        """Log how the run ended and close the files."""
        self.log(text)
        self.board.close()


def environment(device: torch.device | None = None) -> dict:
    """Command, code version, library versions and device."""
    return {'command': [sys.executable, *sys.argv], 'time': time.strftime('%Y-%m-%dT%H:%M:%S%z'), 'git': git_state(),
            'python': platform.python_version(), 'torch': torch.__version__, 'numpy': np.__version__,
            'machine': platform.platform(), 'threads': torch.get_num_threads(),
            'host': socket.gethostname(), 'processes': ranks.place().world, 'device': str(device) if device else None,
            'gpu': torch.cuda.get_device_name(device) if device and device.type == 'cuda' else None}


def git_state() -> str | None:
    """Commit of the code, with `-dirty` if files differ from it; None outside a checkout."""
    command = ['git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty', '--abbrev=12']
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_made_by(folder: Path, args: argparse.Namespace, device: torch.device, inputs: Mapping) -> None:
    """Write made_by.json in an output folder: what made its files last. A user's own file of that name stays."""
    path = folder / 'made_by.json'
    if not path.exists() or '"command"' in path.read_text(errors='replace'):
        write_json(path, {**environment(device), 'args': plain_args(args), 'inputs': dict(inputs)})


def add_score(path: Path, record: dict, patience: float = 60) -> None:
    """Append an evaluation to a run's scores.json; waits up to `patience` seconds for others that do so."""
    with Lock(path.parent, '.scores-lock', patience):
        write_json(path, [*read_scores(path), record])


def read_scores(path: Path) -> list[dict]:
    """All evaluations of a run so far, oldest first. Raises ValueError if the file is corrupt."""
    return read_json(path, [SCORE], 'move it away') if path.exists() else []


def plain_args(args: argparse.Namespace) -> dict:
    """All settings of a script as JSON values."""
    return {key: _plain(value) for key, value in vars(args).items() if key != 'affects'}


def _plain(value):
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)


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
