"""Downloads from a server on this machine that breaks off, is busy, sends something else, or is missing."""
import hashlib
import io
import zipfile

import pytest

from lib.setup import archives as download
from lib.setup.archives import fetch
from tests.serving import serving

CONTENT = bytes(range(256)) * 20_000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(download, 'BLOCK', 1 << 16)
    (tmp_path / 'served').mkdir()
    (tmp_path / 'served/a.tar').write_bytes(CONTENT)
    with serving(tmp_path / 'served') as state:
        yield state


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'here/a.tar'


def test_a_file_is_downloaded_once(server, path):
    for _ in range(2):
        fetch(path, [f'{server.url}/a.tar'], MD5)
        assert path.read_bytes() == CONTENT
    assert server.asked['a.tar'] == 1 and [path.name for path in path.parent.iterdir()] == ['a.tar']


def test_an_existing_file_is_taken_without_a_server(tmp_path):
    (tmp_path / 'a.tar').write_bytes(CONTENT)
    fetch(tmp_path / 'a.tar', [], MD5)


def test_a_lost_connection_is_resumed(server, path):
    server.break_at['a.tar'] = [1_000_000, 500_000]
    fetch(path, [f'{server.url}/a.tar'], MD5)
    assert server.starts == [0, 1_000_000, 1_500_000] and path.read_bytes() == CONTENT


def test_a_later_call_resumes_an_earlier_one(server, path):
    server.break_at['a.tar'] = [1_000_000, 0]
    with pytest.raises(ConnectionError, match='/a.tar: connection lost at byte 1000000 of 5120000'):
        fetch(path, [f'{server.url}/a.tar'], MD5, tries=1)
    assert path.with_name('a.tar.part').stat().st_size == 1_000_000 and not path.exists()
    fetch(path, [f'{server.url}/a.tar'], MD5, tries=2)
    assert server.starts == [0, 1_000_000, 1_000_000] and path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server, path):
    server.ranges = False
    server.break_at['a.tar'] = [1_000_000]
    fetch(path, [f'{server.url}/a.tar'], MD5)
    assert path.read_bytes() == CONTENT


def test_a_complete_part_is_not_downloaded_again(server, path):
    path.parent.mkdir()
    path.with_name('a.tar.part').write_bytes(CONTENT)
    fetch(path, [f'{server.url}/a.tar'], MD5)
    assert server.starts == [len(CONTENT)] and path.read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, path):
    server.busy = 3
    fetch(path, [f'{server.url}/a.tar'], MD5, tries=4)
    assert path.read_bytes() == CONTENT
    server.busy = 9
    path.unlink()
    with pytest.raises(ConnectionError, match='HTTP Error 503'):
        fetch(path, [f'{server.url}/a.tar'], MD5, tries=4)
    assert server.busy == 9 - 4


def test_the_next_server_is_asked_if_the_first_has_no_such_file(server, path):
    fetch(path, [f'{server.url}/none.tar', f'{server.url}/a.tar'], MD5)
    assert path.read_bytes() == CONTENT and server.asked['none.tar'] == 1
    with pytest.raises(ConnectionError, match='none.tar: HTTP Error 404'):
        fetch(path.with_name('b.tar'), [f'{server.url}/none.tar'])


def test_no_server_is_an_error_with_the_reason(tmp_path):
    with pytest.raises(ConnectionError, match='http://127.0.0.1:9/a.tar: .*refused'):
        fetch(tmp_path / 'a.tar', ['http://127.0.0.1:9/a.tar'], tries=1)
    with pytest.raises(ConnectionError, match='no server is known'):
        fetch(tmp_path / 'a.tar', [])


@pytest.mark.parametrize('length', [len(CONTENT), len(CONTENT) + 4])
def test_a_wrong_checksum_removes_the_download_and_the_next_call_repeats_it(server, path, length):
    path.parent.mkdir()
    path.with_name('a.tar.part').write_bytes(b'x' * length)
    with pytest.raises(ValueError, match='has MD5 .*, expected .*; it was removed: run the same command again'):
        fetch(path, [f'{server.url}/a.tar'], MD5)
    assert not list(path.parent.iterdir())
    fetch(path, [f'{server.url}/a.tar'], MD5)
    assert path.read_bytes() == CONTENT


def test_an_existing_file_with_a_wrong_checksum_is_kept_and_named(tmp_path):
    (tmp_path / 'a.tar').write_bytes(b'other')
    with pytest.raises(ValueError, match='a.tar has MD5 .*; move it away'):
        fetch(tmp_path / 'a.tar', [], MD5)
    assert (tmp_path / 'a.tar').exists()


def test_a_web_page_instead_of_a_zip_is_refused(server, path):
    path = path.with_suffix('.zip')
    (server.folder / 'a.zip').write_bytes(b'<html>please log in</html>')
    with pytest.raises(ValueError, match='is not a complete .zip archive; it was removed'):
        fetch(path, [f'{server.url}/a.zip'])
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as content:
        content.writestr('a', 'b')
    (server.folder / 'a.zip').write_bytes(file.getvalue())
    fetch(path, [f'{server.url}/a.zip'])
    assert path.read_bytes() == file.getvalue()
