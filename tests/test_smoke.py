"""The drivers for real, in a copy of the code: short runs of all stages, and what becomes of a run that is stopped."""
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.data.toy import write_set
from tests.running import CAM_TRAINING

ROOT = Path(__file__).parent.parent
STOPPED = 75


@pytest.fixture(scope='module')
def clone(tmp_path_factory) -> Path:
    """The code and the backbone of the demo, without data, runs and tests."""
    folder = tmp_path_factory.mktemp('clone')
    for path in [*ROOT.glob('*.py'), *ROOT.glob('*.sh')]:
        shutil.copy(path, folder)
    for name in ('lib', 'tool', 'voc12', 'coco', 'examples', 'pretrained'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    return folder


def start(*words, **environment) -> subprocess.Popen:
    """A command that is running."""
    return subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={
        **os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', **environment})


def living(mark: Path) -> list[str]:
    """The command lines of the processes that were started with some path in it."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            line = path.read_bytes().replace(b'\0', b' ').decode()
        except OSError:         # it has just ended
            continue
        if str(mark) in line and path.parent.name != str(os.getpid()):
            found.append(f'{path.parent.name} {line}')
    return found


def wait_until(condition, seconds: float, what: str) -> None:
    """Wait for something.

    Raises:
        AssertionError: if it takes longer.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def wait_for_lines(path: Path, count: int, process: subprocess.Popen) -> None:
    """Wait until a file has so many lines, or the process that writes them has ended."""
    wait_until(lambda: path.exists() and path.read_text().count('\n') >= count or process.poll() is not None, 60,
               f'{path} has no {count} lines')


def scores(exp: Path) -> dict:
    """Results of a run by what was scored."""
    return {(record['what'], record['split']): record['results']
            for record in json.loads((exp / 'toy-0-smoke/scores.json').read_text())}


def cpu_seconds() -> float:
    """CPU time of all processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_smoke_run_takes_every_stage_in_90_seconds_and_two_processes_score_as_one(clone, tmp_path):
    before = cpu_seconds()
    subprocess.run([sys.executable, '-c', 'import torch'], check=True)
    start_of_torch, before = cpu_seconds() - before, cpu_seconds()
    one = start(clone / 'run_demo.sh', '--smoke', '--exp', tmp_path / 'one')
    text, _ = one.communicate(timeout=400)
    assert one.returncode == 0, text
    assert cpu_seconds() - before < max(90, 40 * start_of_torch)        # slow machines are slow in both
    assert (tmp_path / 'one/toy-0-smoke/report.html').is_file()
    two = start(clone / 'run_demo.sh', '--smoke', '--gpus', 2, '--device', 'cpu', '--exp', tmp_path / 'two', '--stages',
                'draw,train_cam,infer_cam,train_aff,infer_aff,train_seg,infer_seg')
    text_of_two, _ = two.communicate(timeout=400)
    assert two.returncode == 0, text_of_two
    assert json.loads((tmp_path / 'two/toy-0-smoke/cam/env.json').read_text())['processes'] == 2
    assert (clone / 'data/toy-smoke').is_dir() and not (clone / 'exp').exists()
    first, second = scores(tmp_path / 'one'), scores(tmp_path / 'two')
    assert set(first) == set(second) == {(what, 'val') for what in ('cam', 'walk', 'seg')}
    for key in first:
        for mine, other in zip(first[key], second[key], strict=True):
            assert mine['miou'] == pytest.approx(other['miou'], abs=0.1), key
            assert mine['contour_f'] == pytest.approx(other['contour_f'], abs=0.1), key
    assert not living(tmp_path)


@pytest.mark.parametrize('processes, signals', [(1, ('SIGINT', 'SIGKILL', 'SIGTERM')),
                                                (2, ('SIGUSR1', 'launcher', 'SIGKILL'))])
def test_a_stopped_driver_leaves_nothing_behind_and_the_same_command_resumes(clone, tmp_path, processes, signals):
    write_set(tmp_path / 'data', train=12, val=6)
    command = [clone / 'run_own.sh', tmp_path / 'data/dataset.json', '--stages', 'train_cam', *CAM_TRAINING,
               '--exp', tmp_path / 'exp', '--max-steps', 5000, '--min-steps', 5000, '--weights', 'none',
               '--picture-every', 0, '--workers', 1, '--empty-classes', 'allow']
    command += ['--gpus', processes] if processes > 1 else []
    metrics, done = tmp_path / 'exp/data/cam/metrics.jsonl', 0
    for number, name in enumerate(signals):
        driver = start(*command)
        wait_for_lines(metrics, done + 2, driver)
        if name == 'launcher':
            launcher = next(line for line in living(tmp_path) if 'lib.process.launch' in line)
            os.kill(int(launcher.split()[0]), signal.SIGKILL)
        else:
            driver.send_signal(getattr(signal, name))
        text, _ = driver.communicate(timeout=30)
        wait_until(lambda: not living(tmp_path), 30, 'processes survive')
        assert 'Traceback' not in text, text
        assert ('resuming' in text) == (number > 0), text
        if name == 'SIGKILL':
            assert driver.returncode == -signal.SIGKILL
        elif name == 'launcher':
            assert driver.returncode == 128 + signal.SIGKILL and 'train_cam was killed by SIGKILL' in text
        else:
            assert driver.returncode == STOPPED, text
            assert text.splitlines()[-1] == f'stopped by {name} at train_cam; the same command resumes'
        done = metrics.read_text().count('\n')
        assert (tmp_path / 'exp/data/cam/last.pth').is_file() and not (tmp_path / 'exp/data/cam/model.pth').exists()


SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
words = [word for word in sys.argv[1:] if word != '--kill-on-bad-exit=1']
nodes = [subprocess.Popen(words, env={{**os.environ, 'SLURM_PROCID': str(node), 'SLURM_NODEID': str(node),
         'SLURM_STEP_NUM_TASKS': '2', 'SLURM_LOCALID': '0'}}) for node in range(2)]
signal.signal(signal.SIGTERM, lambda *_: [node.send_signal(signal.SIGTERM) for node in nodes])
sys.exit(max(node.wait() for node in nodes))
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo localhost; echo otherhost; else echo "$@" >> "$REQUEUED"; fi
"""


def test_the_example_for_several_nodes_trains_on_two_and_queues_again_when_it_is_stopped(clone, voc_tree, tmp_path):
    """Slurm's two commands are stand-ins that start both nodes' processes here; everything else is real."""
    (tmp_path / 'bin').mkdir()
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        (tmp_path / f'bin/{name}').write_text(text)
        (tmp_path / f'bin/{name}').chmod(0o755)
    with socket.socket() as probe:
        port = next(port for port in range(20000 + os.getpid() % 9000, 40000) if probe.connect_ex(('', port)))
    environment = {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}', 'SLURM_JOB_ID': str(port - 20000),
                   'SLURM_NNODES': '2', 'SLURM_JOB_NODELIST': 'localhost,otherhost', 'GPUS_PER_NODE': '1',
                   'REQUEUED': str(tmp_path / 'requeued')}
    command = ['bash', '-c', f'cd {clone} && exec examples/slurm/run_voc_nodes.sh "$@"', 'job', '--stages', 'train_cam',
               '--data-root', voc_tree, '--lists', tmp_path / 'lists', '--exp', tmp_path / 'exp', *CAM_TRAINING,
               '--batch-size', 2, '--max-steps', 60, '--min-steps', 60, '--weights', 'none', '--workers', 0,
               '--picture-every', 0, '--empty-classes', 'allow']
    metrics = tmp_path / 'exp/voc12/cam/metrics.jsonl'
    job = start(*command, **environment)
    wait_for_lines(metrics, 2, job)
    job.send_signal(signal.SIGUSR1)
    text, _ = job.communicate(timeout=60)
    assert job.returncode == STOPPED, text
    assert (tmp_path / 'requeued').read_text() == f'requeue {port - 20000}\n' and not living(tmp_path)
    job = start(*command, **environment)
    text, _ = job.communicate(timeout=120)
    assert job.returncode == 0 and 'resuming' in text, text
    assert json.loads((metrics.parent / 'env.json').read_text())['processes'] == 2
    assert (metrics.parent / 'model.pth').is_file() and metrics.read_text().count('\n') == 60
