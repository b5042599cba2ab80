"""Fetching from a server on this machine that breaks off, is busy, lies, or is not there."""
import hashlib
import io
import zipfile

import pytest

from lib.setup import download
from lib.setup.download import Archive, Unreachable, fetch, size_of
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


def archive(md5=MD5, name='a.tar'):
    return Archive(name, (), len(CONTENT), len(CONTENT), md5)


def test_a_file_is_fetched_once(server, tmp_path):
    for _ in range(2):
        path = fetch(archive(), tmp_path / 'here', [f'{server.url}/a.tar'])
        assert path == tmp_path / 'here/a.tar' and path.read_bytes() == CONTENT
    assert server.asked['a.tar'] == 1 and [path.name for path in (tmp_path / 'here').iterdir()] == ['a.tar']


def test_a_file_that_lies_there_is_taken_and_nobody_asked(tmp_path):
    (tmp_path / 'a.tar').write_bytes(CONTENT)
    assert fetch(archive(), tmp_path, []) == tmp_path / 'a.tar'


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.break_at['a.tar'] = [1_000_000, 500_000]
    assert fetch(archive(), tmp_path, [f'{server.url}/a.tar']).read_bytes() == CONTENT
    assert server.starts == [0, 1_000_000, 1_500_000]


def test_a_later_call_goes_on_from_what_an_earlier_one_got(server, tmp_path):
    server.break_at['a.tar'] = [1_000_000, 0]
    with pytest.raises(Unreachable, match='/a.tar: broke off at byte 1000000 of 5120000'):
        fetch(archive(), tmp_path, [f'{server.url}/a.tar'], tries=1)
    assert (tmp_path / 'a.tar.part').stat().st_size == 1_000_000 and not (tmp_path / 'a.tar').exists()
    assert fetch(archive(), tmp_path, [f'{server.url}/a.tar'], tries=1).read_bytes() == CONTENT
    assert server.starts == [0, 1_000_000, 1_000_000]


def test_a_place_without_ranges_is_asked_from_the_beginning(server, tmp_path):
    server.ranges = False
    server.break_at['a.tar'] = [1_000_000]
    assert fetch(archive(), tmp_path, [f'{server.url}/a.tar']).read_bytes() == CONTENT


def test_what_was_fetched_but_not_renamed_is_not_fetched_again(server, tmp_path):
    (tmp_path / 'a.tar.part').write_bytes(CONTENT)
    assert fetch(archive(), tmp_path, [f'{server.url}/a.tar']).read_bytes() == CONTENT
    assert server.starts == [len(CONTENT)]


def test_a_part_that_is_longer_than_the_file_is_dropped(server, tmp_path):
    (tmp_path / 'a.tar.part').write_bytes(CONTENT + b'more')
    assert fetch(archive(), tmp_path, [f'{server.url}/a.tar']).read_bytes() == CONTENT


def test_a_busy_place_is_tried_again(server, tmp_path):
    server.busy = 3
    assert fetch(archive(), tmp_path, [f'{server.url}/a.tar'], tries=4).read_bytes() == CONTENT
    server.busy = 9
    (tmp_path / 'a.tar').unlink()
    with pytest.raises(Unreachable, match='HTTP 503'):
        fetch(archive(), tmp_path, [f'{server.url}/a.tar'], tries=4)
    assert server.busy == 9 - 4


def test_the_next_place_is_asked_where_the_first_has_no_such_file(server, tmp_path):
    urls = [f'{server.url}/none.tar', f'{server.url}/a.tar']
    assert fetch(archive(), tmp_path, urls).read_bytes() == CONTENT
    with pytest.raises(Unreachable, match='none.tar: HTTP 404'):
        fetch(archive(name='b.tar'), tmp_path, urls[:1])
    assert server.asked['none.tar'] == 2


def test_nobody_there_is_said_with_the_reason(tmp_path):
    with pytest.raises(Unreachable, match='http://127.0.0.1:9/a.tar: .*refused'):
        fetch(archive(), tmp_path, ['http://127.0.0.1:9/a.tar'], tries=1)
    with pytest.raises(Unreachable, match='no place serves it'):
        fetch(archive(), tmp_path, [])


def test_a_wrong_checksum_removes_the_file_and_the_next_call_fetches_it(server, tmp_path):
    (tmp_path / 'served/a.tar').write_bytes(CONTENT[:-1] + b'x')
    with pytest.raises(ValueError, match='has MD5 .*, expected .*; it was removed; run the same command again'):
        fetch(archive(), tmp_path / 'here', [f'{server.url}/a.tar'])
    assert not list((tmp_path / 'here').iterdir())
    (tmp_path / 'served/a.tar').write_bytes(CONTENT)
    assert fetch(archive(), tmp_path / 'here', [f'{server.url}/a.tar']).read_bytes() == CONTENT


def test_a_file_of_the_user_with_a_wrong_checksum_is_kept_and_named(tmp_path):
    (tmp_path / 'a.tar').write_bytes(b'other')
    with pytest.raises(ValueError, match='a.tar has MD5 .*; move it away'):
        fetch(archive(), tmp_path, [])
    assert (tmp_path / 'a.tar').exists()


def test_a_page_in_place_of_a_zip_is_refused(server, tmp_path):
    (tmp_path / 'served/a.zip').write_bytes(b'<html>please log in</html>')
    with pytest.raises(ValueError, match='is no whole .zip archive; it was removed'):
        fetch(archive(None, 'a.zip'), tmp_path / 'here', [f'{server.url}/a.zip'])
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as content:
        content.writestr('a', 'b')
    (tmp_path / 'served/a.zip').write_bytes(file.getvalue())
    assert fetch(archive(None, 'a.zip'), tmp_path / 'here', [f'{server.url}/a.zip']).read_bytes() == file.getvalue()


def test_the_size_is_the_one_that_the_place_tells(server):
    assert size_of(Archive('a.tar', (), 7, 7), [f'{server.url}/none', f'{server.url}/a.tar']) == len(CONTENT)
    server.tell_length = False
    assert size_of(Archive('a.tar', (), 7, 7), [f'{server.url}/a.tar']) == 7
