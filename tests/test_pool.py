"""Work in other processes, forked here, since starting them afresh loads torch again; test_scripts.py does that."""
import multiprocessing
import os
import time

import pytest

from lib.run.pool import Background, map_chunks


@pytest.fixture
def forked(monkeypatch):
    real = multiprocessing.get_context
    monkeypatch.setattr('lib.run.pool.multiprocessing.get_context', lambda kind: real('fork'))


def write(path, text):
    path.write_text(f'{text} {os.getpid()}')


def fail(path):
    raise ValueError(f'{path} is broken')


def linger(path):
    time.sleep(0.1)
    path.write_text('done')


def double(items):
    return [2 * item for item in items], os.getpid()


def refuse(items):
    raise ValueError(f'{items[0]} is broken')


@pytest.mark.parametrize('workers', [0, 2])
def test_all_calls_are_finished_when_the_context_is_left(forked, tmp_path, workers):
    with Background(workers) as background:
        for number in range(20):
            background.submit(write, tmp_path / str(number), 'text')
    assert len(list(tmp_path.iterdir())) == 20
    mine = {int(path.read_text().split()[1]) == os.getpid() for path in tmp_path.iterdir()}
    assert mine == {workers == 0}


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_in_a_call_is_raised_with_its_own_message(forked, tmp_path, workers):
    with pytest.raises(ValueError, match='^a is broken$'):
        with Background(workers) as background:
            background.submit(fail, 'a')


def test_an_error_stops_later_calls(forked, tmp_path):
    started = []
    with pytest.raises(ValueError, match='^a is broken$'):
        with Background(1) as background:
            background.submit(fail, 'a')
            for number in range(100):
                background.submit(linger, tmp_path / str(number))
                started.append(number)
    assert len(started) < 10


def test_few_calls_wait_at_a_time(forked, tmp_path):
    with Background(1) as background:
        for number in range(8):
            background.submit(linger, tmp_path / str(number))
            assert len(background.waiting) <= 4
            assert len(list(tmp_path.iterdir())) >= number - 4


def test_an_error_outside_is_not_hidden_by_the_calls(forked):
    with pytest.raises(KeyError, match='outside'):
        with Background(1) as background:
            background.submit(fail, 'a')
            raise KeyError('outside')


@pytest.mark.parametrize('workers', [0, 2])
def test_chunks_come_back_in_order_and_hold_everything_once(forked, workers):
    results = list(map_chunks(double, list(range(35)), workers, size=16))
    assert [len(values) for values, _ in results] == [16, 16, 3]
    assert [value for values, _ in results for value in values] == list(range(0, 70, 2))
    assert all((process == os.getpid()) == (workers == 0) for _, process in results)


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_in_a_chunk_is_raised_with_its_own_message(forked, workers):
    with pytest.raises(ValueError, match='^a is broken$'):
        list(map_chunks(refuse, ['a'] * 17, workers, size=16))


@pytest.mark.parametrize('workers', [0, 2])
def test_no_items_give_no_chunks(forked, workers):
    assert list(map_chunks(double, [], workers)) == []
