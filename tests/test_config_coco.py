"""config_coco.sh on a synthetic set in COCO's layout, from a server on this machine, through all that can go wrong."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coco import config
from coco.config import ARCHIVES, main
from lib.process.ending import run_script
from lib.setup import archives as download
from tests.coco_toy import write_archives
from tests.serving import serving

ROOT = Path(__file__).parent.parent
TRAIN, VAL = 8, 4


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """A folder with the four archives. Not to be changed."""
    folder = tmp_path_factory.mktemp('served')
    write_archives(folder, TRAIN, VAL)
    return folder


@pytest.fixture
def server(served, tmp_path, monkeypatch):
    """A server of a copy of the archives; nobody else is asked."""
    monkeypatch.setattr(download.time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(config, 'ARCHIVES', [item._replace(urls=()) for item in ARCHIVES])
    shutil.copytree(served, tmp_path / 'served')
    with serving(tmp_path / 'served') as state:
        yield state


def words(tmp_path, server, *more):
    places = ['--data-root', tmp_path / 'data', '--lists', tmp_path / 'lists', '--archives', tmp_path / 'archives']
    return [str(word) for word in (*places, '--mirror', server.url, '--part', '--workers', '0', *more)]


def attempt(capsys, arguments):
    """(exit status, output, lines on stderr that are no progress bars)."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: main(arguments))
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith(('error', 'interrupted'))]
    return stop.value.code or 0, printed.out, errors


def finished(capsys, arguments):
    """Whether a call goes through to the end, and the next one does nothing."""
    code, text, errors = attempt(capsys, arguments)
    assert code == 0 and not errors and f'verified: {TRAIN + VAL} images and {TRAIN + VAL} masks' in text, errors
    code, text, _ = attempt(capsys, arguments)
    return code == 0 and len(text.splitlines()) == 1 and 'nothing to do (--verify checks it again)' in text


def test_the_command_sets_everything_up_and_the_second_call_does_nothing(served, tmp_path):
    with serving(served) as server:
        command = [ROOT / 'config_coco.sh', *words(tmp_path, server)]
        environment = {**os.environ, 'PYTHON': sys.executable}
        first, second = (subprocess.run(command, capture_output=True, text=True, env=environment, cwd='/')
                         for _ in range(2))
        asked = sum(server.asked.values())
    assert first.returncode == 0 and f'verified: {TRAIN + VAL} images' in first.stdout, first.stderr
    assert second.returncode == 0 and 'nothing to do' in second.stdout and not second.stderr
    assert asked == len(ARCHIVES)


def test_archives_that_lie_in_the_folder_are_taken_and_not_needed_afterwards(server, served, tmp_path, capsys):
    shutil.copytree(served, tmp_path / 'archives')
    assert finished(capsys, words(tmp_path, server)) and not server.asked
    shutil.rmtree(tmp_path / 'archives')
    (tmp_path / 'lists/labels.txt').unlink()
    assert finished(capsys, words(tmp_path, server)) and not server.asked


def test_a_broken_connection_leaves_a_part_and_the_same_command_goes_on(server, tmp_path, capsys):
    server.break_at['train2017.zip'] = [1000]
    code, _, errors = attempt(capsys, words(tmp_path, server, '--tries', '1'))
    assert code == 2 and 'train2017.zip cannot be downloaded' in errors[0] and 'lost at byte 1000' in errors[0]
    assert (tmp_path / 'archives/train2017.zip.part').stat().st_size == 1000
    assert finished(capsys, words(tmp_path, server, '--tries', '1')) and server.starts[-1] == 1000
    assert server.asked['val2017.zip'] == 1


def test_an_unreachable_place_is_said_with_what_to_fetch_and_where_to_put_it(server, served, tmp_path, capsys):
    nobody = [word.replace(server.url, 'http://127.0.0.1:9') for word in words(tmp_path, server, '--tries', '1')]
    (tmp_path / 'archives').mkdir()
    shutil.copy(served / 'annotations_trainval2014.zip', tmp_path / 'archives')
    code, _, errors = attempt(capsys, nobody)
    assert code == 2 and len(errors) == 1 and 'refused' in errors[0]
    assert (f'download annotations_trainval2017.zip, val2017.zip, train2017.zip elsewhere, put it into '
            f'{tmp_path}/archives, then run the same command again') in errors[0]
    for name in ('annotations_trainval2017.zip', 'val2017.zip', 'train2017.zip'):
        shutil.copy(served / name, tmp_path / 'archives')
    assert finished(capsys, nobody)


def test_a_cut_archive_is_refused_and_fetched_again(server, served, tmp_path, capsys):
    whole = (served / 'val2017.zip').read_bytes()
    (server.folder / 'val2017.zip').write_bytes(whole[:-30])
    code, _, errors = attempt(capsys, words(tmp_path, server))
    assert code == 2 and 'val2017.zip.part is not a complete .zip archive; it was removed' in errors[0]
    (server.folder / 'val2017.zip').write_bytes(whole)
    assert finished(capsys, words(tmp_path, server))


def test_a_call_that_is_broken_off_while_unpacking_goes_on(server, tmp_path, capsys, monkeypatch):
    replace, calls = os.replace, []

    def stop_at_sixth(*paths):
        calls.append(paths)
        if len(calls) == 6:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, 'replace', stop_at_sixth)
    code, _, errors = attempt(capsys, words(tmp_path, server))
    assert code == 130 and errors == ['interrupted; the same command resumes']
    assert finished(capsys, words(tmp_path, server))


def test_a_corrupt_image_is_found_by_verifying_and_unpacked_again(server, tmp_path, capsys):
    assert finished(capsys, words(tmp_path, server))
    path = next((tmp_path / 'data/Images').iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    code, _, errors = attempt(capsys, words(tmp_path, server, '--verify'))
    assert code == 2 and f'{path} is not a readable image' in errors[0] and 'delete what is faulty' in errors[0]
    path.unlink()
    assert finished(capsys, words(tmp_path, server)) and path.read_bytes() == content


def test_a_deleted_mask_is_painted_again(server, tmp_path, capsys):
    assert finished(capsys, words(tmp_path, server))
    path = next((tmp_path / 'data/Masks').glob('*.png'))
    content = path.read_bytes()
    path.unlink()
    assert finished(capsys, words(tmp_path, server)) and path.read_bytes() == content


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, and a function that gives the disk another size."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = shutil.which('mount') and subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder],
                                                       capture_output=True).returncode == 0
    if not mounted:
        pytest.skip('may not mount a tmpfs')
    yield folder, lambda size: subprocess.run(['mount', '-o', f'remount,size={size}', folder], check=True)
    subprocess.run(['umount', folder], check=True)


@pytest.mark.parametrize('what, size', [('--archives', '64k'), ('--data-root', '40k'), ('--data-root', '120k')])
def test_a_disk_that_fills_up_on_the_way_leaves_a_state_to_go_on_from(server, small_disk, tmp_path, capsys, what,
                                                                      size):
    folder, resize = small_disk
    resize(size)
    arguments = words(tmp_path, server)
    arguments[arguments.index(what) + 1] = str(folder / 'here')
    code, _, errors = attempt(capsys, arguments)
    assert code == 2 and len(errors) == 1 and 'no space' in errors[0].lower()
    assert 'run the same command again' in errors[0]
    assert not [path for path in folder.rglob('.*') if path.is_file()]
    resize('16m')
    assert finished(capsys, arguments)


def test_lists_that_are_not_the_official_ones_need_a_word(server, tmp_path, capsys):
    arguments = [word for word in words(tmp_path, server) if word != '--part']
    code, _, errors = attempt(capsys, arguments)
    assert code == 2 and 'the list train2014 is not the official one' in errors[0] and '--part' in errors[0]
    assert finished(capsys, words(tmp_path, server))
