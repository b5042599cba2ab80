"""The lock of a folder: one run at a time, whose processes do not exclude each other; free once they are gone."""
import os
import signal
import socket
import threading
import time

import pytest

from lib.files.fileio import CannotWrite
from lib.run.lock import lock_folder
from tests.running import APART, another_run


def rank(number, world=2):
    return {'RANK': str(number), 'WORLD_SIZE': str(world)}


def test_the_folder_is_made_and_the_lock_file_goes(tmp_path):
    with lock_folder(tmp_path / 'new/stage'):
        assert [path.name for path in (tmp_path / 'new/stage').iterdir()] == ['.lock-0']
    assert not (tmp_path / 'new').exists()


def test_a_second_run_is_refused_while_the_first_lives_and_a_killed_one_holds_nothing(tmp_path):
    with another_run(tmp_path) as (process, _):
        with pytest.raises(ValueError, match=rf'{tmp_path} is in use by process {process.pid} on '
                                             rf'{socket.gethostname()}: wait until that run has ended, or choose'):
            lock_folder(tmp_path, patience=0).__enter__()
        process.kill()
        process.join()
        began = time.monotonic()
        with lock_folder(tmp_path, patience=0):
            assert time.monotonic() - began < 1
    assert not list(tmp_path.iterdir())


def test_a_second_run_is_refused_in_the_same_process(tmp_path):
    with lock_folder(tmp_path):
        with pytest.raises(ValueError, match=f'in use by process {os.getpid()} on {socket.gethostname()}'):
            lock_folder(tmp_path, patience=0).__enter__()


def test_a_forked_worker_does_not_hold_the_lock(tmp_path):
    lock = lock_folder(tmp_path)
    file = lock.__enter__()
    worker = os.fork()
    if not worker:
        time.sleep(60)
        os._exit(0)
    try:
        os.close(file.fileno())                 # as the kernel does when this process is killed
        with lock_folder(tmp_path, patience=1):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        with pytest.raises(OSError, match='Bad file descriptor'):
            lock.__exit__(None, None, None)


def test_the_processes_of_one_run_do_not_exclude_each_other(tmp_path, monkeypatch):
    with another_run(tmp_path, **rank(0)) as (first, end_first), another_run(tmp_path, **rank(1)) as (second, _):
        second.kill()
        second.join()
        for name, value in rank(1).items():
            monkeypatch.setenv(name, value)     # a process that torchrun starts again
        with lock_folder(tmp_path, patience=0):
            pass
        end_first()
        assert first.exitcode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('other', [{}, rank(0, 3), {'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '2'}])
def test_a_run_of_any_number_of_processes_is_refused(tmp_path, monkeypatch, other):
    with another_run(tmp_path, **rank(0)), another_run(tmp_path, **rank(1)):
        for name, value in other.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match='is in use by'):
            lock_folder(tmp_path, patience=0).__enter__()


def test_a_run_waits_for_one_that_just_ends(tmp_path):
    with another_run(tmp_path) as (process, _):
        threading.Timer(0.5, process.kill).start()
        with lock_folder(tmp_path, patience=20):
            process.join(10)
            assert process.exitcode == -signal.SIGKILL


def take_turns(folder):
    for _ in range(8):
        with lock_folder(folder, patience=60):
            (folder / 'held').touch(exist_ok=False)
            time.sleep(0.002)
            (folder / 'held').unlink()


def test_many_runs_at_once_hold_the_lock_one_by_one(tmp_path):
    started = [APART.Process(target=take_turns, args=(tmp_path,), daemon=True) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * 4 and not list(tmp_path.iterdir())


def test_a_lock_file_that_nobody_holds_says_nothing(tmp_path):
    (tmp_path / '.lock-0').write_text('process 1 on another host')
    with lock_folder(tmp_path, patience=0):
        assert (tmp_path / '.lock-0').read_text().startswith(f'process {os.getpid()} on ')
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(CannotWrite, match=r'file/stage/.lock-0 cannot be locked \(.*\); choose another folder'):
        lock_folder(tmp_path / 'file/stage').__enter__()
