"""Processes that compute beside this one give what it would compute itself, and leave nothing behind."""

import gc
import os
import signal
import time
import warnings
from typing import Any

import numpy as np
import pytest

from wardround.errors import PrivacyError
from wardround.randomness import Randomness
from wardround.training import processes
from wardround.training.processes import Processes, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="this system does not fork")

CONTEXT = np.arange(5.0)
ROOM = 1 << 12


def added(context, item):
    return context + item, os.getpid()


def refused(context, item):
    warnings.warn(f"item {item} is odd", UserWarning, stacklevel=1)
    raise PrivacyError("It is odd.", code="privacy-keys")


class Local(Exception):
    def __init__(self, one, other):
        super().__init__(one + other)


def raised_locally(context, item):
    raise Local("of no ", "other process")


def killed(context, item):
    if os.getpid() != context:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def drawn(context, stream):
    return normal(stream, 3), stream.words(3), stream


def normal(stream, count):
    values = np.zeros(count)
    stream.add_normal(values, 1.0)
    return values


def open_files(context, item):
    print("nobody reads this")
    return [number for number in range(64) if _is_open(number)]


def is_open(context, item):
    return _is_open(item)


def nested(context, item):
    return os.getpid(), [found for _, found in context.each(own_pid, [1, 2], context)]


def own_pid(context, item):
    return os.getpid()


def slow_at_first(context, item):
    time.sleep(0.2 if item == 0 else 0)
    return item


def asleep(context, item):
    time.sleep(600)


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def mapped(made, function, items, context):
    found = dict(made.each(function, items, context))
    return [found[place] for place in range(len(items))]


@pytest.fixture
def two():
    made: Processes[Any] = Processes(2, ROOM)
    yield made
    made.close()


@pytest.mark.parametrize("size", [0, 1, 100, ROOM])
def test_results_come_in_the_order_of_the_items_however_large_they_are(two, size):
    items = [np.full((size, 5), float(number)) for number in range(7)]
    found = mapped(two, added, items, CONTEXT)
    for (result, _), item in zip(found, items, strict=True):
        np.testing.assert_array_equal(result, CONTEXT + item)
    assert os.getpid() not in {pid for _, pid in found}
    assert len({pid for _, pid in found}) <= 2


def test_in_order_a_result_waits_for_those_before_it(two):
    assert list(two.in_order(slow_at_first, list(range(9)), None)) == list(range(9))


def test_a_process_computes_everything_itself(two):
    for own, others in mapped(two, nested, [1, 2], two):
        assert others == [own, own]
        assert own != os.getpid()


def test_no_result_is_overwritten_by_the_next_call(two):
    first = mapped(two, added, [1.0, 2.0], CONTEXT)
    mapped(two, added, [3.0, 4.0], CONTEXT)
    np.testing.assert_array_equal(first[0][0], CONTEXT + 1)


def test_there_are_no_more_processes_than_items(two):
    mapped(two, added, [1.0], CONTEXT)
    assert len(two._all) == 1


def test_an_error_is_raised_here_with_its_code_and_its_warning_given(two):
    with pytest.warns(UserWarning, match="item 1 is odd"), pytest.raises(PrivacyError) as caught:
        mapped(two, refused, [1, 3], CONTEXT)
    assert caught.value.code == "privacy-keys"
    assert "in refused" in caught.value.__notes__[0]  # the line that raised it, for the log
    assert two._all == []


def test_after_an_error_others_compute_and_end_with_their_object():
    """A hospital whose steps failed may be missing in a round: the rounds after it are shared out again."""
    made: Processes[Any] = Processes(2, ROOM)
    with pytest.warns(UserWarning, match="odd"), pytest.raises(PrivacyError):
        mapped(made, refused, [1, 3], CONTEXT)
    pids = {pid for _, pid in mapped(made, added, [1.0, 2.0], CONTEXT)}
    assert os.getpid() not in pids
    del made
    gc.collect()
    assert not any(_is_running(pid) for pid in pids)


def test_an_error_that_cannot_be_pickled_is_told_in_words(two):
    with pytest.raises(RuntimeError, match=r"Local: of no other process"):
        mapped(two, raised_locally, [1], CONTEXT)


def test_what_a_killed_process_had_is_computed_here(two):
    assert mapped(two, killed, [3, 4, 5, 6, 7], os.getpid()) == [3, 4, 5, 6, 7]
    assert [process for process in two._all if not process.pipe.closed] == []


def test_a_stream_goes_on_where_the_other_process_left_it(two):
    streams = [Randomness(3).stream("noise", number) for number in range(3)]
    for (noise, words, moved), stream, number in zip(
        mapped(two, drawn, streams, CONTEXT), streams, range(3), strict=True
    ):
        same = Randomness(3).stream("noise", number)
        np.testing.assert_array_equal(noise, normal(same, 3))
        np.testing.assert_array_equal(words, same.words(3))
        with pytest.raises(AttributeError):
            normal(stream, 1)
        stream.go_on_as(moved)
        np.testing.assert_array_equal(normal(stream, 2), normal(same, 2))
        np.testing.assert_array_equal(stream.words(2), same.words(2))


def test_a_killed_process_draws_nothing_that_is_drawn_again():
    """The item goes on here with the stream that it came with: numbers of the killed process were seen by nobody."""
    made: Processes[Any] = Processes(1, ROOM)
    mapped(made, added, [1.0], CONTEXT)
    os.kill(made._all[0].pid, signal.SIGKILL)
    [(noise, _, _)] = mapped(made, drawn, [Randomness(3).stream("noise")], CONTEXT)
    np.testing.assert_array_equal(noise, normal(Randomness(3).stream("noise"), 3))
    made.close()


def test_no_file_of_this_process_stays_open_in_another(two, tmp_path, capfd):
    with open(tmp_path / "locked", "w") as locked:
        [found] = mapped(two, open_files, [1], CONTEXT)
        assert locked.fileno() not in found
    assert len(found) == 4  # three standard ones, which lead nowhere, and the pipe
    assert capfd.readouterr().out == ""


def test_files_beyond_the_present_limit_are_closed_too(two):
    import resource  # not everywhere

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = os.dup2(1, 200)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, limits[1]))
        assert mapped(two, is_open, [opened], CONTEXT) == [False]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(opened)


def test_a_process_with_an_answer_that_nobody_read_is_asked_nothing(two):
    """A call that was left early must not have its results taken for those of the next: other hospitals' weights."""
    left = two.each(added, [1.0, 2.0, 3.0], CONTEXT)
    next(left)
    for (result, _), item in zip(mapped(two, added, [4.0, 5.0], CONTEXT), [4.0, 5.0], strict=True):
        np.testing.assert_array_equal(result, CONTEXT + item)
    assert sorted(result[0] for _, (result, _) in left) in ([1.0, 3.0], [2.0, 3.0])


def test_they_end_with_their_object():
    made: Processes[Any] = Processes(2, ROOM)
    pids = {pid for _, pid in mapped(made, added, [1.0, 2.0, 3.0], CONTEXT)}
    del made
    gc.collect()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("at_work", [False, True])
def test_they_end_with_their_owner_however_it_ends(at_work):
    read, write = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            made: Processes[Any] = Processes(2, ROOM)
            pids = [pid for _, pid in mapped(made, added, [1.0, 2.0], CONTEXT)]
            os.write(write, " ".join(map(str, pids)).encode())
            if at_work:
                setattr(processes, "wait", lambda _: os.kill(os.getpid(), signal.SIGKILL))  # noqa: B010
                mapped(made, asleep, [1, 2], CONTEXT)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)  # it runs nothing at its end
    os.waitpid(owner, 0)
    os.close(write)
    pids = list(map(int, os.read(read, 100).split()))
    os.close(read)
    assert pids
    _await_end(pids)


def _await_end(pids):
    deadline = time.monotonic() + 30
    while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_is_running(pid) for pid in pids)


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_copy_of_the_owner_ends_no_process_of_it(two):
    pids = {pid for _, pid in mapped(two, added, [1.0, 2.0], CONTEXT)}
    child = os.fork()
    if child == 0:
        two.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert all(_is_running(pid) for pid in pids)
    assert len(mapped(two, added, [1.0, 2.0], CONTEXT)) == 2


def test_without_processes_everything_is_computed_here(two, monkeypatch):
    def full():
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", full)
    assert {pid for _, pid in mapped(two, added, [1.0, 2.0], CONTEXT)} == {os.getpid()}


def test_an_interrupted_call_ends_the_processes(two, monkeypatch):
    def interrupted(pipes):
        raise KeyboardInterrupt

    mapped(two, added, [1.0, 2.0], CONTEXT)
    pids = [process.pid for process in two._all]
    monkeypatch.setattr(processes, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mapped(two, added, [1.0, 2.0], CONTEXT)
    assert not any(_is_running(pid) for pid in pids)


def test_an_interrupt_while_one_is_made_leaves_none(two, monkeypatch):
    """A signal to another thread is dealt with in the main one at any place, before a number is noted as well."""
    pids, fork = [], os.fork

    def interrupted():
        if pid := fork():
            pids.append(pid)
            raise KeyboardInterrupt
        return pid

    monkeypatch.setattr(os, "fork", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        mapped(two, added, [1.0, 2.0], CONTEXT)
    _await_end(pids)
    os.waitpid(pids[0], 0)
    del caught  # its frames have the pipe


def test_signals_that_were_held_back_stay_so(two):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        mapped(two, added, [1.0], CONTEXT)
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
