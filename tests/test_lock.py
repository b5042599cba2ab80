"""The lock of a folder: one run at a time, shared by its processes, free at once when they are gone."""
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from lib.files.fileio import CannotWrite, host_code
from lib.process import ranks
from lib.run.lock import InUse, Lock
from tests.running import APART, another_run

LAUNCH = {'WORLD_SIZE': '2', 'LOCAL_RANK': '0', 'TORCHELASTIC_RUN_ID': 'one', 'MASTER_ADDR': 'localhost',
          'MASTER_PORT': '1'}


def rank(number, **changes):
    return {**LAUNCH, 'RANK': str(number), **changes}


def test_the_folder_is_made_and_left_without_a_trace(tmp_path):
    with Lock(tmp_path / 'new/stage'):
        assert [path.name for path in (tmp_path / 'new/stage').iterdir()] == ['.lock']
    assert not list(tmp_path.iterdir())
    with Lock(tmp_path / 'new/stage'):
        (tmp_path / 'new/stage/a').touch()
    assert [path.name for path in (tmp_path / 'new/stage').iterdir()] == ['a']


def test_a_second_run_is_refused_while_the_first_lives_and_a_killed_one_holds_nothing(tmp_path):
    with another_run(tmp_path) as (process, _):
        with pytest.raises(InUse, match=rf'{tmp_path} is in use by process {process.pid} on {socket.gethostname()}: '
                                        'wait until that run has ended, or give --run another name'):
            Lock(tmp_path, patience=0).__enter__()
        process.kill()
        process.join()
        began = time.monotonic()
        with Lock(tmp_path, patience=0):
            assert time.monotonic() - began < 1
    assert not list(tmp_path.iterdir())


def test_containers_that_share_host_name_and_process_number_exclude_one_another(tmp_path, monkeypatch):
    with Lock(tmp_path):
        monkeypatch.setattr(ranks, '_started', ranks._started + 1)
        with pytest.raises(InUse, match=f'in use by process {os.getpid()} on {socket.gethostname()}'):
            Lock(tmp_path, patience=0).__enter__()


def test_the_processes_of_one_run_share_the_lock(tmp_path, monkeypatch):
    with another_run(tmp_path, **rank(0)) as (first, _), another_run(tmp_path, **rank(1)) as (second, _):
        with pytest.raises(InUse):
            Lock(tmp_path, patience=0).__enter__()
        first.kill()
        first.join()
        with pytest.raises(InUse):              # the other one lives
            Lock(tmp_path, patience=0).__enter__()
        for name, value in rank(0, TORCHELASTIC_RESTART_COUNT='1').items():
            monkeypatch.setenv(name, value)     # a process that torchrun starts again
        with Lock(tmp_path, patience=0):
            pass
        second.kill()
        second.join()
    monkeypatch.undo()
    with Lock(tmp_path, patience=0):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('other', [
    {}, rank(1, WORLD_SIZE='3', TORCHELASTIC_RUN_ID='two'), rank(1, MASTER_PORT='2'),
    {'SLURM_PROCID': '1', 'SLURM_STEP_NUM_TASKS': '2', 'SLURM_JOB_ID': '7', 'SLURM_STEP_ID': '0'}])
def test_a_run_of_another_number_of_processes_is_refused(tmp_path, monkeypatch, other):
    with another_run(tmp_path, **rank(0)):
        for name, value in other.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InUse):
            Lock(tmp_path, patience=0).__enter__()


def test_the_lock_outlives_processes_that_leave_before_the_last(tmp_path):
    with another_run(tmp_path, **rank(0)) as (first, end_first):
        with another_run(tmp_path, **rank(1)) as (second, end_second):
            end_second()
            assert second.exitcode == 0 and (tmp_path / '.lock').exists()
        with pytest.raises(InUse):
            Lock(tmp_path, patience=0).__enter__()
        end_first()
        assert first.exitcode == 0
    assert not list(tmp_path.iterdir())


def test_a_run_waits_for_one_that_just_ends(tmp_path):
    with another_run(tmp_path) as (process, _):
        threading.Timer(0.5, process.kill).start()
        with Lock(tmp_path, patience=20):
            process.join(10)
            assert process.exitcode == -signal.SIGKILL


def take_turns(folder):
    for _ in range(8):
        with Lock(folder, patience=60):
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


@pytest.mark.parametrize('content', ['', '{"run": ', '[]', json.dumps({'run': 'another', 'host': 'h', 'process': 1})])
def test_a_lock_file_that_nobody_holds_says_nothing(tmp_path, content):
    (tmp_path / '.lock').write_text(content)
    with Lock(tmp_path, patience=0):
        assert json.loads((tmp_path / '.lock').read_text())['process'] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(CannotWrite, match=r'\.lock cannot be made \(.*\); choose another place with --exp'):
        Lock(tmp_path / 'file/stage').__enter__()


def test_the_temporary_files_of_killed_processes_are_removed_and_those_of_others_kept(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    stay = [f'.last.{host_code()}-{os.getpid()}.pth', f'.last.00000000-{dead.pid}.pth', '.other', 'last.pth']
    for name in (*stay, f'.last.{host_code()}-{dead.pid}.pth'):
        (tmp_path / name).write_text('')
    with Lock(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)
