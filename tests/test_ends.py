"""Whatever ends a program: one line that says what to do, a status, no process left, and the same command resumes.

Signals, killed workers, no memory, no file handles, no shared memory, output that cannot be printed.
"""
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import infer_cam
import train_aff
from lib.process import launch
from lib.process.ending import Stopped, run_script
from tests.fault import contents, members
from tests.running import NETWORK, SCALES, TRAINING, place

ROOT = Path(__file__).parent.parent
REMEDY = 'then run the same command again: it resumes'
HEAD = ('import os, sys, time\nfrom pathlib import Path\nfrom lib.process.ending import run_script, Signals, Stopped\n'
        'from lib.process.workers import Pool, map_in_workers\nready = Path(sys.argv[1])\n')


def started(*words, **settings):
    """A process in a group of its own."""
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, text=True, start_new_session=True,
                            preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),    # under nohup, too
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)


def ended(process):
    """(exit status, output, lines on stderr without progress bars) of a process; none of its group outlives it."""
    began = time.monotonic()
    try:
        out, err = process.communicate(timeout=40)
    finally:
        while (left := members(process.pid)) and time.monotonic() - began < 30:
            time.sleep(0.05)
        if left:
            os.killpg(process.pid, signal.SIGKILL)
    assert not left and time.monotonic() - began < 30
    return process.returncode, out, [line for line in err.splitlines() if line.strip() and '%|' not in line]


def wait_for(path, process):
    for _ in range(1500):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.02)
    raise AssertionError(f'{path} does not come')


MOMENTS = {
    'a check': 'def main():\n    ready.touch()\n    time.sleep(60)\n',
    'workers start': 'def main():\n    ready.touch()\n    while True:\n        Pool(abs, 4).close()\n',
    'workers read': 'def main():\n    for _ in map_in_workers(time.sleep, [0.1] * 300, 2):\n        ready.touch()\n',
    'a call in a worker': 'def main():\n    calls = (ready.touch() or 0.3 for _ in range(99))\n'
                          '    list(map_in_workers(time.sleep, calls, 2))\n',
    'a noted signal': 'def main():\n    with Signals() as signals:\n'
                      '        for _ in map_in_workers(time.sleep, [0.1] * 300, 2):\n            ready.touch()\n'
                      '            if signals.caught:\n                raise Stopped("stopped by " + signals.caught)\n',
}


@pytest.mark.parametrize('moment, number, to_all', [
    ('a check', 'SIGTERM', False), ('workers start', 'SIGINT', True), ('workers read', 'SIGUSR1', True),
    ('a call in a worker', 'SIGHUP', False), ('a noted signal', 'SIGINT', True), ('a noted signal', 'SIGTERM', False)])
def test_a_signal_at_any_moment_is_one_line_and_status_75(tmp_path, moment, number, to_all):
    process = started('-c', HEAD + MOMENTS[moment] + 'run_script(main)', tmp_path / 'ready')
    wait_for(tmp_path / 'ready', process)
    (os.killpg if to_all else os.kill)(process.pid, getattr(signal, number))
    code, _, lines = ended(process)
    assert code == 75 and len(lines) == 1 and lines[0].startswith(f'stopped by {number}'), lines


def test_a_second_interrupt_ends_at_once_and_an_ignored_hangup_stays_ignored(tmp_path):
    code = ('import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n' + HEAD + 'def main():\n'
            '    with Signals():\n        ready.touch()\n        time.sleep(60)\nrun_script(main)')
    process = started('-c', code, tmp_path / 'ready')
    wait_for(tmp_path / 'ready', process)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.2)
    assert ended(process)[::2] == (130, ['interrupted; the same command resumes'])


TRAPPED = "trap '{}' TERM; touch ready; while :; do sleep 0.02; done"


def signalled(monkeypatch, folder, command, *numbers):
    """What a driver's command ends with if signals come while it runs: its status, or what is raised."""
    monkeypatch.chdir(folder)
    Path('ready').unlink(missing_ok=True)

    def send():
        while not Path('ready').exists():
            time.sleep(0.01)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    if numbers:
        threading.Thread(target=send, daemon=True).start()
    try:
        return launch.run(['bash', '-c', command], 'a stage')
    except (Stopped, KeyboardInterrupt) as end:
        return end


def test_a_driver_passes_a_signal_on_and_waits_for_its_command(tmp_path, monkeypatch, capsys):
    stopped = signalled(monkeypatch, tmp_path, TRAPPED.format('sleep 0.2; exit 75'), signal.SIGUSR1)
    assert str(stopped) == 'stopped by SIGUSR1 at a stage; the same command resumes'
    assert signalled(monkeypatch, tmp_path, TRAPPED.format('exit 3'), signal.SIGTERM) == 3
    twice = signalled(monkeypatch, tmp_path, TRAPPED.format(''), signal.SIGINT, signal.SIGINT)
    assert isinstance(twice, KeyboardInterrupt) and not capsys.readouterr().err
    assert signalled(monkeypatch, tmp_path, 'kill -KILL $$') == 137
    assert 'error: a stage was killed by SIGKILL (SIGKILL is often lack of memory)' in capsys.readouterr().err


def stages(run_folder, toy, exp, workers):
    """(script, main, words, its folder, the same of an unbroken run) of a training and an inference stage."""
    common = [*place(toy, exp), '--workers', workers]
    return {'train': ('train_aff.py', train_aff.main, [
                *common, *TRAINING, '--weights', run_folder / 'backbone/model.pth', '--seed-dir',
                run_folder / 'labels/train/seeds', '--save-every', '1'], 'aff'),
            'infer': ('infer_cam.py', infer_cam.main, [
                *common, *NETWORK, *SCALES, '--split', 'train', '--checkpoint', run_folder / 'cam/model.pth'],
                'labels/train/cam')}


def await_workers(process, folder):
    """Numbers of the workers of a stage that has begun its work."""
    for _ in range(1500):
        workers = [member for member in members(process.pid) if member != process.pid]
        if len(workers) > 1 and any(folder.rglob('*')) or process.poll() is not None:     # one may be git
            return workers
        time.sleep(0.02)
    raise AssertionError('no worker comes')


@pytest.mark.parametrize('stage', ['train', 'infer'])
@pytest.mark.parametrize('what', ['worker', 'group'])
def test_a_stage_broken_off_says_why_and_the_same_command_ends_as_an_unbroken_one(run_folder, toy, tmp_path, stage,
                                                                                  what):
    for attempt in range(5):            # until it is hit before it has finished
        exp = tmp_path / str(attempt)
        script, main, words, place_of_files = stages(run_folder, toy, exp, '2')[stage]
        process = started(script, *words)
        workers = await_workers(process, exp)
        if what == 'group':
            os.killpg(process.pid, signal.SIGTERM)
        for worker in workers if what == 'worker' else ():
            os.kill(worker, signal.SIGKILL)
        code, _, lines = ended(process)
        if code:
            break
    assert code == (2 if what == 'worker' else 75) and len(lines) == 1, lines
    assert ('was killed, probably because memory ran out' if what == 'worker' else
            'stopped by SIGTERM') in lines[0]
    main([*map(str, words), '--workers', '0'])
    assert contents(exp / 'toy' / place_of_files) == contents(run_folder / place_of_files)


EXHAUSTED = {
    'memory': ('import torch\ndef main():\n    torch.empty(1 << 50)\n', 'out of memory; free some'),
    'memory of Python': ('def main():\n    bytearray(1 << 60)\n', 'out of memory; free some'),
    'memory of a worker': ('import resource\ndef hungry(size):\n'
                           '    resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))\n    bytearray(1 << 32)\n'
                           'def main():\n    list(map_in_workers(hungry, [1], 1))\n', 'out of memory; free some'),
    'file handles': ('import resource\ndef main():\n    resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))\n'
                     '    Pool(abs, 8)\n', 'too many open files; raise the limit'),
    'processes': ('import os, errno\ndef fork():\n    raise OSError(errno.EAGAIN, "no")\nos.fork = fork\n'
                  'def main():\n    Pool(abs, 2)\n', 'no more processes can be started; use fewer --workers'),
    'a full device': ('def main():\n    sys.stdout = open("/dev/full", "w")\n    print("a")\n',
                      'no space is left for the output'),
}


@pytest.mark.parametrize('kind', EXHAUSTED)
def test_what_runs_out_is_one_line_with_the_remedy(tmp_path, kind):
    body, message = EXHAUSTED[kind]
    code, _, lines = ended(started('-c', HEAD + body + 'run_script(main)', tmp_path / 'ready'))
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f'error: {message}') and REMEDY in lines[0], lines


SHARED = '''
import sys, torch
from pathlib import Path
from tests.running import NETWORK, place
from lib.data.datasets import CamTrainSet, training_batches
from lib.data.registry import get_spec
import infer_cam
toy, exp, network = sys.argv[1:]
if __name__ == '__main__':
    batches = training_batches(CamTrainSet(get_spec(toy, None, None), 'train', crop=448), 8, 3, 1, workers=4)(0)
    assert [tuple(batch['image'].shape) for batch in batches] == [(8, 3, 448, 448)] * 3
    infer_cam.main([*place(Path(toy), Path(exp)), *NETWORK, '--split', 'val', '--checkpoint', network, '--scales',
                    '0.5', '1', '1.5', '2', '--workers', '4', '--no-seeds'])
'''


def test_a_page_of_shared_memory_is_enough(run_folder, toy, tmp_path):
    mount = 'mount -t tmpfs -o size=4k none /dev/shm'
    if subprocess.run(['unshare', '-m', 'sh', '-c', mount], capture_output=True).returncode:
        pytest.skip('mounting needs rights that this user has not')
    (tmp_path / 'shared.py').write_text(SHARED)
    done = subprocess.run(['unshare', '-m', 'sh', '-c', f'{mount}; exec "$@"', '-', sys.executable,
                           tmp_path / 'shared.py', toy, tmp_path, run_folder / 'cam/model.pth'], cwd=ROOT, text=True,
                          capture_output=True, timeout=60, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / 'toy/labels/val/cam').glob('*.npz'))) == 6


PRINTED = HEAD + 'def main():\n    ready.touch()\n    for _ in range(9999):\n        print("猫 and Kälte")\n'


def test_output_into_a_closed_pipe_is_one_line(tmp_path):
    process = started('-c', PRINTED + 'run_script(main)', tmp_path / 'ready')
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    code, _, lines = ended(process)
    assert code == 2
    assert lines == ['error: the output stream was closed early; run the same command again to see everything']


def test_letters_that_the_terminal_lacks_are_printed_as_codes(tmp_path):
    process = started('-c', PRINTED + 'run_script(main)', tmp_path / 'ready',
                      env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
    code, out, lines = ended(process)
    assert code == 0 and not lines and set(out.splitlines()) == {r'\u732b and K\xe4lte'}


def test_a_program_without_any_output_runs(tmp_path):
    code = f'{sys.executable} -c "$1" "$2" >&- 2>&-'
    done = subprocess.run(['bash', '-c', code, '-', PRINTED + 'run_script(main)', tmp_path / 'ready'], cwd=ROOT)
    assert done.returncode == 0 and (tmp_path / 'ready').exists()


def end_of(main, capsys):
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    return stop.value.code, capsys.readouterr().err


def failing(error):
    def main():
        raise error
    return main


@pytest.mark.parametrize('error', [ValueError('no such thing'), FileNotFoundError('no such thing'),
                                   ImportError('no such thing'), ValueError('no\n  such\nthing')])
def test_what_the_user_can_fix_is_one_line_and_status_2(error, capsys):
    assert end_of(failing(error), capsys) == (2, 'error: no such thing\n')


def test_a_fault_of_ours_keeps_its_traceback():
    for error in (RuntimeError('a slip'), AssertionError('a slip'), KeyError('a slip')):
        with pytest.raises(type(error)):
            run_script(failing(error))


def test_the_traceback_is_shown_on_demand(monkeypatch):
    monkeypatch.setenv('HFPL_DEBUG', '1')
    with pytest.raises(ValueError, match='no such thing'):
        run_script(failing(ValueError('no such thing')))


def test_each_end_has_its_status(capsys):
    assert end_of(lambda: None, capsys) == (None, '') and end_of(lambda: 2, capsys) == (2, '')
    assert end_of(failing(KeyboardInterrupt()), capsys)[0] == 130
    assert end_of(failing(Stopped('stopped after step 3')), capsys) == (75, 'stopped after step 3\n')
    lost = RuntimeError('[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4')
    code, text = end_of(failing(lost), capsys)
    assert code == 75 and text.startswith('error: another process of this run ended') and text.count('\n') == 1


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'),
                                   RuntimeError('CUDA error: out of memory\nCUDA kernel errors might be reported')])
def test_a_gpu_out_of_memory_names_the_flags_that_help(error, capsys):
    code, text = end_of(failing(error), capsys)
    assert code == 2 and text.count('\n') == 1 and 'in training, --accumulate 2 halves the need' in text


def test_a_file_named_in_an_error_of_the_system_stays_named(capsys):
    text = end_of(failing(OSError(errno.ENOSPC, 'No space left on device', '/data/a')), capsys)[1]
    assert '/data/a' in text


@pytest.mark.parametrize('words, message', [
    (['--lr', 'fast'], "argument --lr: 'fast' is not accepted; expected a number above 0 to 1000"),
    (['--speed', '3'], 'unrecognized arguments: --speed 3')])
def test_a_wrong_flag_is_one_line_without_the_usage(words, message, capsys):
    assert end_of(lambda: train_aff.main(words), capsys) == (2, f'error: {message}\n')
