"""The lock of a folder: one holder, taken over from the dead of this machine and, after a silence, of others."""
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from lib.run import lock as locks
from lib.run.lock import Lock, started


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, 'BEAT', 0.05)
    monkeypatch.setattr(locks, 'SILENCE', 0.5)


def leave(folder, **holder):
    """A lock file as some process left it."""
    content = {'host': 'elsewhere', 'process': 1, 'started': '1', 'token': 'theirs', **holder}
    (folder / '.lock').write_text(json.dumps(content))


def test_the_folder_is_made_and_left_without_a_trace(tmp_path):
    with Lock(tmp_path / 'new/stage'):
        assert [path.name for path in (tmp_path / 'new/stage').iterdir()] == ['.lock']
    assert not list((tmp_path / 'new/stage').iterdir())


def test_a_second_run_is_refused_while_the_first_lives(tmp_path):
    code = ('import sys, time; from pathlib import Path; from lib.run.lock import Lock\n'
            'with Lock(Path(sys.argv[1])): print("held", flush=True); time.sleep(60)')
    process = subprocess.Popen([sys.executable, '-c', code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    with pytest.raises(ValueError, match=rf'{tmp_path} is in use by process {process.pid} on \S+: wait until .*--run'):
        Lock(tmp_path).__enter__()
    process.kill()
    process.wait()
    with Lock(tmp_path) as lock:                                # the lock of a killed process is taken over
        lock.check()
    assert not list(tmp_path.iterdir())


def test_a_later_process_of_the_same_number_is_no_holder(tmp_path):
    leave(tmp_path, host=socket.gethostname(), process=os.getpid(), started='another time')
    assert started(os.getpid())
    with Lock(tmp_path):
        pass


def test_the_silent_lock_of_another_machine_is_taken_over(tmp_path, capsys):
    leave(tmp_path)
    with Lock(tmp_path) as lock:
        lock.check()
    assert 'belongs to process 1 on elsewhere; waiting' in capsys.readouterr().out


def test_a_lock_of_another_machine_that_shows_signs_of_life_is_respected(tmp_path):
    leave(tmp_path)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            os.utime(tmp_path / '.lock')

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ValueError, match='in use by process 1 on elsewhere'):
            Lock(tmp_path).__enter__()
    finally:
        stop.set()
        thread.join()
    assert json.loads((tmp_path / '.lock').read_text())['token'] == 'theirs'


def test_a_holder_touches_its_lock(tmp_path):
    with Lock(tmp_path):
        before = (tmp_path / '.lock').stat().st_mtime_ns
        time.sleep(0.3)
        assert (tmp_path / '.lock').stat().st_mtime_ns > before


def test_a_holder_that_lost_its_lock_writes_no_more(tmp_path):
    with Lock(tmp_path) as lock:
        leave(tmp_path)
        with pytest.raises(ValueError, match='was taken over by another run'):
            lock.check()
    assert json.loads((tmp_path / '.lock').read_text())['token'] == 'theirs'       # and leaves it to the other


def test_a_lock_file_that_was_never_whole_is_taken_over(tmp_path):
    (tmp_path / '.lock').write_text('')
    with Lock(tmp_path):
        pass


def test_the_temporary_files_of_killed_processes_are_removed_and_those_of_others_kept(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    code = locks.remove_leftovers.__globals__['host_code']()
    stay = [f'.last.{code}-{os.getpid()}.pth', f'.last.00000000-{dead.pid}.pth', '.other', 'last.pth']
    for name in (*stay, f'.last.{code}-{dead.pid}.pth'):
        (tmp_path / name).write_text('')
    with Lock(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)
