"""Safe writing, also on a full disk and in a read-only folder (small tmpfs; skipped where mounting is not allowed)."""
import errno
import fcntl
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import infer_seg
import train_aff
from lib.data.labelio import read_maps, write_maps
from lib.files import fileio
from lib.files.fileio import CannotWrite, replacing, write_text
from lib.files.torchfile import read_torch, write_torch
from lib.run.lock import lock_folder
from tests.running import HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, error_line, error_lines, place


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    try:
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip('mounting needs rights that this user has not')
    yield folder
    subprocess.run(['umount', folder], check=True)


def fill(folder, leave=0):
    """Leave so many bytes of room."""
    room = os.statvfs(folder)
    (folder / 'filler').write_bytes(bytes(room.f_bavail * room.f_frsize - leave))


def test_a_full_disk_leaves_the_former_file_and_says_what_is_needed(small_disk):
    tensors = {'a': torch.arange(50_000)}
    write_torch(small_disk / 'last.pth', tensors)
    write_maps(small_disk / 'a.npz', [1], np.ones((1, 8, 8), np.float32))
    fill(small_disk, 8192)
    with pytest.raises(CannotWrite, match=r'last\.pth cannot be written \(No space left on device\); free disk space'):
        write_torch(small_disk / 'last.pth', tensors)
    with pytest.raises(CannotWrite, match=r'a\.npz cannot be written \(No space left'):
        write_maps(small_disk / 'a.npz', [1], np.random.default_rng(0).random((1, 400, 400), np.float32))
    assert torch.equal(read_torch(small_disk / 'last.pth', '')['a'], tensors['a'])
    assert read_maps(small_disk / 'a.npz')[1].shape == (1, 8, 8)
    assert sorted(path.name for path in small_disk.iterdir()) == ['a.npz', 'filler', 'last.pth']


def test_training_on_a_full_disk_stops_with_one_line_and_goes_on_with_room(run_folder, toy, small_disk, capsys):
    words = (*place(toy, small_disk), *LOADED_HERE, *TRAINING, '--weights', run_folder / 'backbone/model.pth',
             '--seed-dir', run_folder / 'labels/train/seeds', '--picture-every', '0')
    (small_disk / 'toy').mkdir()
    fill(small_disk, 150_000)
    assert 'cannot be written (No space left on device)' in error_lines(train_aff.main, words, capsys)[-1]
    (small_disk / 'filler').unlink()
    subprocess.run(['mount', '-o', 'remount,size=50m', small_disk], check=True)
    train_aff.main([str(word) for word in words])
    assert (small_disk / 'toy/aff/model.pth').read_bytes() == (run_folder / 'aff/model.pth').read_bytes()


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / 'a').write_text('kept')
    for path in (tmp_path / 'a/b.txt', tmp_path / 'a/b/c.txt'):
        with pytest.raises(CannotWrite, match=r'\.txt cannot be written \((File exists|Not a directory)\)'):
            with replacing(path) as temporary:
                temporary.write_text('new')
    assert (tmp_path / 'a').read_text() == 'kept'


def test_inference_into_a_folder_that_is_not_to_be_written_to(run_folder, toy, small_disk, capsys):
    words = (*place(toy, run_folder.parent), *LOADED_HERE, *NETWORK, *HEAD, *SCALES, '--split', 'val', '--out',
             small_disk / 'masks')
    (small_disk / 'masks').mkdir()
    subprocess.run(['mount', '-o', 'remount,ro', small_disk], check=True)
    line = error_line(infer_seg.main, words, capsys)
    assert f'{small_disk}/masks/' in line and '(Read-only file system)' in line
    subprocess.run(['mount', '-o', 'remount,rw', small_disk], check=True)
    infer_seg.main([str(word) for word in words])
    assert len(list((small_disk / 'masks').glob('*.png'))) == 6


def test_errors_of_the_block_itself_stay_as_they_are(tmp_path):
    with pytest.raises(PermissionError, match='somebody'):
        with replacing(tmp_path / 'a'):
            raise PermissionError(13, 'somebody', str(tmp_path / 'other/file'))
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / 'a') as temporary:
        temporary.write_text('half')
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_temporary_files_are_never_taken_for_others_and_that_of_a_killed_process_is_used_again(tmp_path):
    code = ('import os, sys; from pathlib import Path; from lib.files.fileio import replacing\n'
            'with replacing(Path(sys.argv[1])) as temporary: temporary.write_text("half"); os.kill(os.getpid(), 9)')
    assert subprocess.run([sys.executable, '-c', code, tmp_path / 'a.png']).returncode == -9
    assert {path.name for path in tmp_path.iterdir()} == {'.a.png.hfpl.tmp', '.a.png.hfpl.lock'}
    with replacing(tmp_path / 'a.png') as temporary:
        temporary.write_text('new')
        assert temporary.exists() and not list(tmp_path.glob('*.png'))
    assert [path.name for path in tmp_path.iterdir()] == ['a.png'] and (tmp_path / 'a.png').read_text() == 'new'


def test_writers_of_one_file_never_mix(tmp_path):
    """Two processes write the same file again and again; every content ever met is whole."""
    code = ('import sys; from pathlib import Path; from lib.files.fileio import replacing\n'
            'for _ in range(60):\n'
            '    with replacing(Path(sys.argv[1])) as temporary: temporary.write_text(sys.argv[2] * 50_000)')
    path = tmp_path / 'shared'
    writers = [subprocess.Popen([sys.executable, '-c', code, path, letter]) for letter in 'ab']
    met = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            met.add(path.read_text())
    assert met <= {'a' * 50_000, 'b' * 50_000} and met
    assert [writer.returncode for writer in writers] == [0, 0] and len(list(tmp_path.iterdir())) == 1


def test_a_writer_does_not_wait_for_a_stopped_one_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(fileio, 'WAIT', 0.2)
    with replacing(tmp_path / 'a.txt') as temporary:
        temporary.write_text('first')
        with pytest.raises(CannotWrite, match='a.txt.hfpl.lock is locked by another process'):
            write_text(tmp_path / 'a.txt', 'second')
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt'] and (tmp_path / 'a.txt').read_text() == 'first'


def test_a_file_system_without_locks_takes_files_but_no_runs(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    write_text(tmp_path / 'a.txt', 'text')
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']
    with pytest.raises(CannotWrite, match='cannot be locked .No locks available.*choose another folder'):
        with lock_folder(tmp_path / 'run'):
            pass
