"""How tests run the scripts: in this process, on a drawn set of twelve and six images, with a very narrow network."""
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.process.ending import CAUGHT, run_script
from lib.run.lock import lock_folder

NETWORK = ('--width', '0.03125', '--device', 'cpu', '--amp', 'none')
HEAD = ('--fov-channels', '8')
TRAINING = (*NETWORK, '--crop-size', '64', '--batch-size', '4', '--max-steps', '4', '--log-every', '1')
CAM_TRAINING = (*TRAINING, '--long-side', '64', '96')
SCALES = ('--scales', '0.5', '1')
LOADED_HERE = ('--workers', '0')
APART = multiprocessing.get_context('forkserver')       # for processes that share nothing with this one
APART.set_forkserver_preload(['tests.running'])


def place(data: Path, exp: Path, run: str = 'toy') -> tuple[str, ...]:
    """Flags that name the data set (its dataset.json) and the run."""
    return '--dataset', str(data), '--exp', str(exp), '--run', run


def error_line(main: Callable, words: tuple, capsys: pytest.CaptureFixture) -> str:
    """The one line on stderr with which a script, run as from the shell, gives up on a wrong input (exit status 2)."""
    lines = error_lines(main, words, capsys)
    assert len(lines) == 1, lines
    return lines[0]


def error_lines(main: Callable, words: tuple, capsys: pytest.CaptureFixture) -> list[str]:
    """As error_line, where lists of problems or progress bars come before the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: main([str(word) for word in words]))
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and lines[-1].startswith('error: '), lines
    return lines


def outcome(main: Callable, words: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """What a script prints that argparse ends: --help, or a refused value."""
    monkeypatch.setattr(sys, 'argv', ['script.py'])
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    printed = capsys.readouterr()
    return f'{stop.value.code}\n{printed.out}{printed.err}'


def score_record(**changes) -> dict:
    """One evaluation as eval.py writes it, of two classes and background."""
    result = {'miou': 50.0, 'iou': [90.0, 10.0, 50.0], 'contour_f': 30.5, 'f': [None, 30.5]}
    return {'what': 'seg', 'protocol': 'strict', 'dataset': 'toy', 'split': 'val', 'images': 3, 'results': [result],
            'classes': ['background', 'a', 'b'], 'time': '2026-01-01T10:00:00+0000', **changes}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model.pth."""
    return torch.load(path, weights_only=True)['state_dict']


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two model.pth hold the same tensors, bit for bit."""
    one, other = tensors(first), tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def same_maps(first: Path, second: Path) -> bool:
    """Whether two .npz files hold the same arrays."""
    with np.load(first) as one, np.load(second) as other:
        return one.files == other.files and all(np.array_equal(one[key], other[key]) for key in one.files)


@contextmanager
def another_run(folder: Path, **variables: str) -> Iterator[tuple]:
    """(a process that holds the lock of a folder, a function that has it end); `variables` say to which run it belongs.
    """
    here, there = APART.Pipe()
    process = APART.Process(target=_hold, args=(there, folder, variables), daemon=True)
    process.start()
    there.close()
    try:
        assert here.recv() == 'held'
        yield process, lambda: (here.send('end'), process.join(30))
    finally:
        process.kill()
        process.join()


def _hold(pipe, folder: Path, variables: dict) -> None:
    os.environ.update(variables)
    with lock_folder(folder):
        pipe.send('held')
        pipe.recv()


@contextmanager
def no_signal_gets_out() -> Iterator[None]:
    """While the context lasts, a signal that the code under test does not catch fails the test, not the whole run."""
    def fail(number: int, frame) -> None:
        raise AssertionError(f'{signal.Signals(number).name} was not caught')

    former = {number: signal.signal(number, fail) for number in CAUGHT}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
