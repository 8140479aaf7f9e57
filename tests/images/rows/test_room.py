"""Memory that threads share while files are read: never more than its limit, unless one file alone is larger."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wardround.images.rows.pixels import _in_turn, _Room, _shares


def test_threads_together_hold_no_more_than_the_limit_and_all_get_through():
    room, lock, held, most = _Room(100), threading.Lock(), [0], [0]

    def work(size):
        with room.of(size):
            with lock:
                held[0] += size
                most[0] = max(most[0], held[0] if size <= 100 else 0)
                alone = held[0] == size
            threading.Event().wait(0.001)
            with lock:
                held[0] -= size
        return size <= 100 or alone

    sizes = [30, 60, 250, 10, 90, 1, 100, 45] * 8
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, sizes))
    assert 0 < most[0] <= 100


def test_room_is_given_back_when_a_file_fails():
    room = _Room(10)
    for _ in range(5):
        try:
            with room.of(10):
                raise OSError
        except OSError:
            pass
    with room.of(10):
        pass


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ([50_000_000] * 40, [1] * 40),
        ([1_000] * 40, [16, 16, 8]),
        ([375_000] * 7, [3, 3, 1]),
        ([1_000, 9_000_000, 1_000, 1_000], [2, 2]),
        ([], []),
    ],
)
def test_threads_take_small_files_together_and_large_ones_alone(sizes, shares):
    files = [(str(place),) for place in range(len(sizes))]
    found = _shares(files, sizes)
    assert [len(share) for share in found] == shares
    assert [names for share in found for names in share] == files


def test_results_come_in_order_and_no_more_are_made_than_may_wait():
    started, lock = [], threading.Lock()

    def work(number):
        with lock:
            started.append(number)
        threading.Event().wait(0.002 * (number % 3))
        return -number

    with ThreadPoolExecutor(4) as pool:
        for taken, result in enumerate(_in_turn(pool, work, iter(range(30)), 5)):
            assert result == -taken
            assert len(started) <= taken + 5
    assert sorted(started) == list(range(30))


def test_work_that_nobody_waits_for_is_not_begun():
    gate, begun = threading.Event(), []

    def work(number):
        begun.append(number)
        if number == 1:
            gate.wait(60)
        return number

    with ThreadPoolExecutor(1) as pool:
        results = _in_turn(pool, work, range(9), 8)
        assert next(results) == 0
        results.close()
        gate.set()
    assert set(begun) <= {0, 1}
