"""What a run writes about itself: settings, environment, log, loss terms, TensorBoard, scores."""
import argparse
import json
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lib.files.fileio import replacing
from lib.files.jsonfile import read_json, read_json_lines, write_json
from lib.process import ranks
from lib.run.options import plain_args

ARITHMETIC = {'none': 'float32', 'bf16': 'bfloat16', 'fp16': 'float16'}     # by value of --amp, resolved
CPU_FLAGS = ('avx2', 'fma', 'avx512f', 'avx512_bf16', 'avx512_fp16', 'amx_bf16', 'amx_tile', 'asimd', 'sve', 'bf16')
METRICS = {'step': int, str: float}         # a line of metrics.jsonl
PERCENT = (float, None)                     # None: a class left out of the mean
MEANS = {'miou': PERCENT, 'contour_f': PERCENT}
RESULT = {**MEANS, 'iou': [PERCENT], 'f': [PERCENT], 'threshold?': float, 'alpha?': float, 'strict?': MEANS,
          'best?': ('curve', 'published', True)}        # True: published, by earlier versions
SCORE = {'what': ('cam', 'cam-crf', 'cam-pred', 'walk', 'seg'), 'protocol': ('reference', 'strict'), 'dataset': str,
         'split': str, 'images': int, 'classes': [str], 'time': str, 'results': [RESULT], 'left_out?': [str],
         'absent?': [str], 'curve?': {'thresholds': [float], 'miou': [PERCENT]}}      # an evaluation in scores.json


class Record:
    """The record of one training stage in its folder.

    args.json holds the resolved settings; env.json the command, the machine and the digests of the inputs; log.txt
    start, end and warnings; metrics.jsonl every loss term by step; TensorBoard events the same with visualisations.
    A run resumed after `step` appends; records of later steps are dropped, as those steps are repeated.
    """

    def __init__(self, folder: Path, args: argparse.Namespace, device, step: int, origin: Mapping | None = None):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / 'args.json', plain_args(args))
        write_json(folder / 'env.json', {**environment(device, args.amp), **(origin or {})})
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


def environment(device=None, amp: str = 'none') -> dict:
    """Command, code version, library versions and machine; with a torch.device also what PyTorch runs on.

    `amp` is --amp, resolved: it decides the arithmetic of the convolutions.
    """
    cpu, flags = processor()
    facts = {'command': [sys.executable, *sys.argv], 'time': time.strftime('%Y-%m-%dT%H:%M:%S%z'), 'git': git_state(),
             'python': platform.python_version(), 'numpy': np.__version__, 'machine': platform.platform(),
             'host': socket.gethostname(), 'cpu': cpu, 'cpu_flags': flags, 'processes': ranks.place().world}
    if device is None:
        return facts
    import torch  # slow to import, and evaluation needs none
    return {**facts, 'torch': torch.__version__, 'threads': torch.get_num_threads(), 'device': str(device),
            'gpu': torch.cuda.get_device_name(device) if device.type == 'cuda' else None, 'arithmetic': ARITHMETIC[amp]}


def processor() -> tuple[str, list[str]]:
    """Name of the CPU, and which of CPU_FLAGS it has: results and speed depend on them."""
    file = Path('/proc/cpuinfo')
    facts = dict(re.findall(r'^(.+?)\s*: (.*)$', file.read_text() if file.exists() else '', re.M))
    flags = facts.get('flags', facts.get('Features', '')).split()       # Features on ARM
    return facts.get('model name', platform.machine()), [flag for flag in CPU_FLAGS if flag in flags]


def git_state() -> str | None:
    """Commit of the code, with `-dirty` if files differ from it; None outside a checkout."""
    command = ['git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty', '--abbrev=12']
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_made_by(folder: Path, args: argparse.Namespace, device, origin: Mapping) -> None:
    """Write made_by.json in an output folder: what last wrote its files. A user's own file of that name is kept.

    `origin` is the part that all of them share, see lib/run/origin.py.
    """
    path = folder / 'made_by.json'
    if not path.exists() or '"command"' in path.read_text(errors='replace'):
        write_json(path, {**environment(device, args.amp), 'args': plain_args(args), **origin})


def add_score(path: Path, record: dict) -> None:
    """Append an evaluation to a run's scores.json; other processes that do so wait."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps([*read_scores(path), record], indent=1, ensure_ascii=False) + '\n', 'utf-8')


def read_scores(path: Path) -> list[dict]:
    """All evaluations of a run so far, oldest first. Raises ValueError if the file is corrupt."""
    return read_json(path, [SCORE], 'move it away') if path.exists() else []
