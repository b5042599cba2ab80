"""Digests of files: by content, with what the file system says of a file only as a shortcut to a digest once read."""
import json
import os
import shutil

import pytest

from lib.run import origin as module
from lib.run.origin import Digests, text_digest

PAST = 1_700_000_000


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three files old enough to be remembered, and a list of what is read."""
    paths = [tmp_path / 'set' / name for name in 'abc']
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text(f'content {path.name}')
    monkeypatch.setattr(module, 'RECENT', -1e9)
    return paths


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that are read, as they are."""
    names = []

    def note(path, *words):
        names.append(os.path.basename(path))
        return open(path, *words)

    monkeypatch.setattr(module, 'open', note, raising=False)
    return names


def test_equal_content_has_an_equal_digest_and_an_absent_file_none(files, tmp_path):
    shutil.copy(files[0], tmp_path / 'copy')
    one, two, other, absent = Digests().of([files[0], tmp_path / 'copy', files[1], tmp_path / 'absent'])
    assert one == two != other and len(one) == module.LENGTH and absent == ''
    assert Digests()(str(files[0])) == one and Digests()(files[0] / 'below a file') == ''


def test_an_unchanged_file_is_read_once_even_by_later_commands(files, opened, tmp_path):
    memory = tmp_path / '.digests.json'
    first = Digests(memory)
    found = first.of(files)
    assert first.of(files) == found and sorted(opened) == ['a', 'b', 'c']
    first.save()
    assert Digests(memory).of(files) == found and len(opened) == 3
    os.utime(files[1])
    assert Digests(memory).of(files) == found and opened[3:] == ['b']


@pytest.mark.parametrize('in_place', [True, False])
def test_another_content_of_equal_size_and_time_is_noticed(files, tmp_path, in_place):
    memory = tmp_path / '.digests.json'
    for path in files:
        os.utime(path, (PAST, PAST))
    digests = Digests(memory)
    before = digests.of(files)
    digests.save()
    target = files[1] if in_place else tmp_path / 'new'
    target.write_text('CONTENT b')
    os.utime(target, (PAST, PAST))
    os.replace(target, files[1])
    after = Digests(memory).of(files)
    assert after[1] == digests(files[1]) not in before and after[::2] == before[::2]


def test_files_that_change_places_change_digests(files, tmp_path):
    memory = tmp_path / '.digests.json'
    digests = Digests(memory)
    one, other, _ = digests.of(files)
    digests.save()
    os.rename(files[0], tmp_path / 'aside')
    os.rename(files[1], files[0])
    os.rename(tmp_path / 'aside', files[1])
    assert Digests(memory).of(files[:2]) == [other, one]


def test_a_file_of_the_last_seconds_is_read_each_time(files, opened, monkeypatch):
    """It may change again within the file system's tick, and nothing but its content would tell."""
    monkeypatch.setattr(module, 'RECENT', 1e9)
    digests = Digests()
    assert digests.of(files) == digests.of(files) and len(opened) == 6


def test_a_moved_folder_is_not_read_again(files, opened, tmp_path):
    memory = tmp_path / '.digests.json'
    digests = Digests(memory)
    before = digests.of(files)
    digests.save()
    os.rename(tmp_path / 'set', tmp_path / 'moved')
    assert Digests(memory).of(tmp_path / 'moved' / path.name for path in files) == before and len(opened) == 3


@pytest.mark.parametrize('spoil', [
    lambda path: path.unlink(), lambda path: path.write_text(''), lambda path: path.write_text('{"a": 1}'),
    lambda path: path.write_text('[]'), lambda path: path.write_bytes(b'\xff\xfe'),
    lambda path: path.write_text(path.read_text()[:-3])])
def test_a_lost_or_spoilt_memory_costs_reading_and_nothing_else(files, opened, tmp_path, spoil):
    memory = tmp_path / '.digests.json'
    first = Digests(memory)
    before = first.of(files)
    first.save()
    spoil(memory)
    again = Digests(memory)
    assert again.of(files) == before and len(opened) == 6
    again.save()
    assert Digests(memory).of(files) == before and len(opened) == 6


def test_a_memory_that_cannot_be_written_is_done_without(files, tmp_path):
    digests = Digests(files[0] / 'below a file' / '.digests.json')
    before = digests.of(files)
    digests.save()
    assert digests.of(files) == before


def test_no_memory_is_written_for_nothing_new(files, tmp_path):
    Digests(tmp_path / 'exp/.digests.json').save()
    assert not (tmp_path / 'exp').exists()


def test_the_memory_is_bounded_and_keeps_the_newest(files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'MOST', 2)
    digests = Digests(tmp_path / '.digests.json')
    found = digests.of(files)
    digests.save()
    assert list(json.loads((tmp_path / '.digests.json').read_text()).values()) == found[1:]


def test_a_text_digest_knows_order_and_bounds_of_its_parts():
    parts = [['ab', 'c'], ['a', 'bc'], ['c', 'ab'], ['abc'], [['ab', 'c']], ['ab', 'c', ''], [1, 2], ['1', '2']]
    assert len({text_digest(part) for part in parts}) == len(parts)
    assert text_digest(('ab', 'c')) == text_digest(['ab', 'c'])
