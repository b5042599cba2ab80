"""Worker processes: order, bounds, errors, and that none outlives what started it."""
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lib.process.workers import AHEAD, map_in_workers


def square(number):
    if number < 0:
        raise ValueError(f'{number} is negative')
    return number ** 2, os.getpid()


def note(path):
    path.write_text(f'worker {os.getpid()}')


def linger(path):
    time.sleep(0.1)
    path.write_text('done')


def arrays(size):
    return {'image': torch.arange(size).float().reshape(-1, 4).T, 'mask': np.arange(size, dtype=np.uint8),
            'empty': np.zeros((0, 3)), 'name': 'a'}


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Kills the process that pickles it."""

    def __reduce__(self):
        die(0)


def die_while_sending(number):
    """Send the beginning of a large result and be killed, as by a system without memory."""
    return np.ones(10_000_000), Deadly()


def read_past_the_end(number):
    raise EOFError('no data left in file')


def exhaust(number):
    torch.empty(1 << 50)


def signals(number):
    """Send this process what a job's end sends to all processes; still here afterwards."""
    for name in ('SIGTERM', 'SIGINT', 'SIGUSR1', 'SIGHUP'):
        os.kill(os.getpid(), getattr(signal, name))
    return number


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('chunk', [1, 32])
def test_results_come_in_order(workers, chunk):
    results = list(map_in_workers(square, range(200), workers, chunk))
    assert [value for value, _ in results] == [number ** 2 for number in range(200)]
    assert (os.getpid() in {process for _, process in results}) == (workers == 0)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize('workers', [0, 1])
def test_items_are_taken_only_as_they_are_needed(workers):
    taken = []
    results = map_in_workers(square, (taken.append(number) or number for number in range(10_000)), workers, 32)
    next(results)
    assert len(taken) <= max(1, 32 * AHEAD * workers)
    results.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize('workers', [0, 2])
def test_no_items_give_no_results(workers):
    assert list(map_in_workers(square, [], workers)) == []


def test_arrays_and_tensors_arrive_as_they_were_and_may_be_written_to():
    here, = map_in_workers(arrays, [24], 0)
    there, = map_in_workers(arrays, [24], 1)
    assert torch.equal(here['image'], there['image']) and there['image'].dtype == torch.float32
    assert all(np.array_equal(here[key], there[key]) for key in ('mask', 'empty', 'name'))
    there['mask'] += 1
    there['image'] += 1


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_is_raised_with_its_own_message(workers):
    with pytest.raises(ValueError, match='^-1 is negative$'):
        list(map_in_workers(square, [3, -1], workers))
    assert not multiprocessing.active_children()


def test_an_end_of_file_in_a_call_is_not_taken_for_a_killed_worker():
    with pytest.raises(EOFError, match='^no data left in file$'):
        list(map_in_workers(read_past_the_end, [1], 1))


@pytest.mark.parametrize('death', [die, die_while_sending])
def test_a_killed_worker_is_one_error_with_the_remedy_and_the_others_end(death):
    with pytest.raises(ChildProcessError, match='a worker process was killed, probably .*--workers.* it resumes'):
        list(map_in_workers(death, range(100), 2))
    assert not multiprocessing.active_children()


def test_memory_that_runs_out_in_a_worker_is_told_here():
    with pytest.raises(RuntimeError, match='DefaultCPUAllocator'):
        list(map_in_workers(exhaust, [0], 1))


def test_an_error_stops_later_calls(tmp_path):
    started = []
    paths = (started.append(number) or tmp_path / f'{number}' for number in range(100))
    with pytest.raises(IsADirectoryError):
        (tmp_path / '0').mkdir()
        list(map_in_workers(linger, paths, 1))
    assert len(started) <= AHEAD and len(list(tmp_path.iterdir())) <= AHEAD


def test_few_calls_wait_at_a_time(tmp_path):
    def paths():
        for number in range(8):
            assert len(list(tmp_path.iterdir())) >= number - AHEAD
            yield tmp_path / str(number)
    assert len(list(map_in_workers(linger, paths(), 1))) == 8


def test_an_error_outside_is_not_hidden_by_the_calls_and_running_ones_finish(tmp_path):
    def paths():
        yield tmp_path / 'a'
        yield tmp_path
        time.sleep(0.05)
        raise KeyError('outside')
    with pytest.raises(KeyError, match='outside'):
        list(map_in_workers(linger, paths(), 1))
    assert (tmp_path / 'a').read_text() == 'done'


def test_signals_to_all_processes_are_left_to_the_main_one():
    assert list(map_in_workers(signals, range(8), 2)) == list(range(8))


def test_the_workers_of_a_killed_process_end_too(tmp_path):
    code = ('import sys, time\nfrom pathlib import Path\nfrom tests.test_workers import note\n'
            'from lib.process.workers import Pool\n'
            'Pool(note, 1).submit([Path(sys.argv[1])])\ntime.sleep(60)')
    process = subprocess.Popen([sys.executable, '-c', code, tmp_path / 'worker'])
    for _ in range(600):
        if (tmp_path / 'worker').exists() and (tmp_path / 'worker').read_text():
            break
        time.sleep(0.1)
    worker = int((tmp_path / 'worker').read_text().split()[1])
    process.kill()
    process.wait()
    for _ in range(100):
        if not os.path.exists(f'/proc/{worker}') or 'Z' in open(f'/proc/{worker}/stat').read().split()[2]:
            return
        time.sleep(0.1)
    raise AssertionError('the worker lives on')
