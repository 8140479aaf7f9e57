"""The hospital's end: hostile frames reach nobody, and delay no honest one."""

import os
import signal
import stat
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from tests.errors import raises_code
from tests.transport.sockets import MOST, connected, frame_from, serving

from wardround.errors import FederationError
from wardround.transport import server
from wardround.transport.frames import Kind, framed
from wardround.transport.server import Server

HOSTILE = {
    "garbage": b"\x00" * 64,
    "too long": framed(b"")[:5] + (MOST + 1).to_bytes(4, "big"),
    "a refusal": framed(b"", Kind.REFUSED),
}


@pytest.fixture
def answered(tmp_path):
    """A server on a socket, and the messages that reached it."""
    reached: list[bytes] = []

    def answer(message):
        reached.append(message)
        return b"reply to " + message

    with serving(tmp_path / "s", answer, patience_s=0.3):
        yield tmp_path / "s", reached


def honest(path):
    with connected(path) as client:
        client.sendall(framed(b"honest"))
        assert frame_from(client) == (Kind.MESSAGE, b"reply to honest")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_frame_is_refused_and_the_next_is_answered(answered, name):
    path, reached = answered
    with connected(path) as client:
        client.sendall(HOSTILE[name])
        assert frame_from(client) == (Kind.REFUSED, b"federation-frame")
        assert frame_from(client) is None, "the connection is closed"
    assert not reached
    honest(path)


def test_a_cut_frame_reaches_nobody(answered):
    path, reached = answered
    with connected(path) as client:
        client.sendall(framed(b"honest")[:-1])
    honest(path)
    assert reached == [b"honest"]


def test_a_slow_frame_delays_nobody_and_is_refused(answered):
    path, reached = answered
    with connected(path) as slow:
        slow.sendall(framed(b"slow")[:-1])
        honest(path)
        assert frame_from(slow) is None, "the connection is closed"
    assert reached == [b"honest"]


def test_a_frame_that_stalls_is_refused_before_its_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_STALLED_S", 0.2)
    with serving(tmp_path / "s", bytes, patience_s=3600.0), connected(tmp_path / "s") as cut:
        cut.sendall(framed(b"cut")[:-1])
        assert frame_from(cut) is None, "the connection is closed"


def test_the_time_of_a_frame_does_not_run_while_another_is_answered(tmp_path):
    """Nothing is read meanwhile: what has arrived of it must not be held against it."""
    begun, other = threading.Event(), framed(b"other")

    def answer(message):
        if message == b"long":
            begun.set()
            time.sleep(1.0)
        return message

    with serving(tmp_path / "s", answer, patience_s=0.5), ExitStack() as stack:
        first, second = (stack.enter_context(connected(tmp_path / "s")) for _ in range(2))
        second.sendall(other[:-1])
        time.sleep(0.1)
        first.sendall(framed(b"long"))
        begun.wait()
        second.sendall(other[-1:])
        assert frame_from(second) == (Kind.MESSAGE, b"other")


def test_the_time_of_a_frame_behind_another_does_not_run_while_the_reply_to_that_is_taken(tmp_path, monkeypatch):
    """Nothing of it is read meanwhile: a receiver that is slow has not stalled as a sender."""
    monkeypatch.setattr(server, "_STALLED_S", 0.5)
    reply, other = bytes(MOST), framed(b"other")
    with (
        serving(tmp_path / "s", lambda message: reply if message == b"long" else message),
        connected(tmp_path / "s") as slow,
    ):
        slow.sendall(framed(b"long") + other[:-1])
        time.sleep(1.0)
        assert frame_from(slow) == (Kind.MESSAGE, reply)
        time.sleep(0.1)
        slow.sendall(other[-1:])
        assert frame_from(slow) == (Kind.MESSAGE, b"other")


def test_many_idle_connections_keep_nobody_out(answered):
    path, _ = answered
    idle = [connected(path) for _ in range(40)]
    for one in idle:
        one.__enter__()
    honest(path)
    for one in idle:
        one.__exit__(None, None, None)


@pytest.fixture
def small_reads(monkeypatch):
    monkeypatch.setattr(server, "_READ_BYTES", 1 << 16)


def begun(stack, path, frame):
    """A connection that has sent as much of a frame as is taken at once, and the rest."""
    client = stack.enter_context(connected(path))
    client.setblocking(False)
    sent = client.send(frame)
    client.settimeout(60)
    return client, frame[sent:]


def test_frames_of_many_connections_hold_memory_of_one_message(tmp_path, small_reads):
    """A short message beside them is answered at once."""
    path, frame = tmp_path / "s", framed(bytes(MOST))[:-1]
    with ExitStack() as stack, serving(path, lambda message: b"reply to " + message) as held:
        many = [begun(stack, path, frame) for _ in range(8)]
        most = 0
        for _ in range(30):
            for place, (client, rest) in enumerate(many):
                client.setblocking(False)
                with suppress(BlockingIOError):
                    many[place] = client, rest[client.send(rest) :] if rest else rest
            honest(path)
            most = max(most, sum(one.num_bytes for one in held._connections))
        assert MOST <= most <= 1.6 * MOST


def test_large_messages_at_once_are_all_answered_at_the_first_try(tmp_path, small_reads):
    path, frame = tmp_path / "s", framed(bytes(MOST))
    with ExitStack() as stack, serving(path, lambda message: b"%d" % len(message)):
        many = [begun(stack, path, frame) for _ in range(4)]
        threads = [threading.Thread(target=client.sendall, args=(rest,)) for client, rest in many]
        for thread in threads:
            thread.start()
        assert [frame_from(client) for client, _ in many] == [(Kind.MESSAGE, b"%d" % MOST)] * 4
        for thread in threads:
            thread.join()


def test_the_first_frame_ends_whatever_begins_behind_it(tmp_path, small_reads):
    path, frame = tmp_path / "s", framed(bytes(MOST))
    with ExitStack() as stack, serving(path, lambda message: b"done"):
        first, rest = begun(stack, path, frame)
        while rest:
            for _ in range(5):
                begun(stack, path, frame)
            first.sendall(rest[: MOST // 4])
            rest = rest[MOST // 4 :]
        assert frame_from(first) == (Kind.MESSAGE, b"done")


def test_a_large_message_waits_until_endless_frames_time_out(tmp_path, small_reads):
    """Its own time does not run while it waits."""
    path, frame = tmp_path / "s", framed(bytes(MOST))
    with ExitStack() as stack, serving(path, lambda message: b"done", patience_s=0.3):
        for _ in range(2):
            begun(stack, path, frame)
        client, rest = begun(stack, path, frame)
        client.sendall(rest)
        assert frame_from(client) == (Kind.MESSAGE, b"done")


def test_messages_behind_each_other_are_answered_in_order(answered):
    path, _ = answered
    with connected(path) as client:
        client.sendall(framed(b"1") + framed(b"2"))
        first = client.recv(1 << 16)
        while len(first) < 2 * len(framed(b"reply to 1")):
            first += client.recv(1 << 16)
    assert first == framed(b"reply to 1") + framed(b"reply to 2")


def test_a_socket_is_for_its_owner_alone_and_goes_with_the_server(answered, tmp_path):
    path, _ = answered
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other = tmp_path / "other"
    with serving(other, bytes):
        honest(path)
    assert not other.exists()


@pytest.mark.parametrize(("name", "group"), [("s" * 120, None), ("s", "no-such-group")])
def test_a_socket_that_cannot_be_made_has_a_code(tmp_path, name, group):
    with raises_code(FederationError, "federation-socket"):
        Server(tmp_path / name, bytes, most_bytes=1, group=group)


def test_a_socket_of_a_killed_agent_is_replaced_and_a_file_is_not(tmp_path):
    path = tmp_path / "s"
    killed = Server(path, bytes, most_bytes=1)
    with serving(path, lambda message: b"reply to " + message):
        honest(path)
    killed.stop()
    killed.serve()
    path.write_text("a person's")
    with raises_code(FederationError, "federation-socket"):
        Server(path, bytes, most_bytes=1)


def test_a_signal_that_does_not_interrupt_the_wait_ends_it(tmp_path):
    """It comes just before the wait begins, or to another thread: Python would run a handler after the next frame."""
    waiting = Server(tmp_path / "s", bytes, most_bytes=MOST)
    rescue = threading.Timer(20, waiting.stop)
    sender = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    for thread in (rescue, sender):
        thread.start()  # they take the signal, which this thread does not
    before = signal.getsignal(signal.SIGUSR1)
    with waiting.ended_by(signal.SIGUSR1):
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            waiting.serve()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
    assert rescue.is_alive(), "the signal ended it"
    rescue.cancel()
    for thread in (rescue, sender):
        thread.join()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1
