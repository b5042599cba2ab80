import os

import pytest

from tool.parallel import CHUNK, WAITING, map_files


def square(number):
    if number < 0:
        raise ValueError(f'{number} is negative')
    return number ** 2, os.getpid()


@pytest.mark.parametrize('workers', [0, 2])
def test_results_come_in_order(workers):
    results = list(map_files(square, range(200), workers, 'squares'))
    assert [value for value, _ in results] == [number ** 2 for number in range(200)]
    assert (os.getpid() in {process for _, process in results}) == (workers == 0)


@pytest.mark.parametrize('workers', [0, 1])
def test_items_are_taken_only_as_they_are_needed(workers):
    taken = []
    results = map_files(square, (taken.append(number) or number for number in range(10_000)), workers, 'squares')
    next(results)
    assert len(taken) <= max(1, CHUNK * WAITING * workers)
    results.close()


def test_an_error_in_a_process_reaches_the_caller():
    with pytest.raises(ValueError, match='-1 is negative'):
        list(map_files(square, [3, -1], 1, 'squares'))


def test_no_items_give_no_results():
    assert list(map_files(square, [], 2, 'squares')) == []
