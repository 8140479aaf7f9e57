"""The hospital's end: hostile frames reach nobody, and delay no honest one."""

import stat
from contextlib import ExitStack, suppress

import pytest
from tests.errors import raises_code
from tests.transport.sockets import MOST, connected, frame_from, serving

from wardround.errors import FederationError
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


def test_many_idle_connections_keep_nobody_out(answered):
    path, _ = answered
    idle = [connected(path) for _ in range(40)]
    for one in idle:
        one.__enter__()
    honest(path)
    for one in idle:
        one.__exit__(None, None, None)


def test_frames_of_many_connections_hold_no_more_than_two_messages_of_memory(tmp_path):
    """The oldest are dropped, the honest message that comes last is answered."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "s", lambda message: b"reply to " + message))
        many = [stack.enter_context(connected(tmp_path / "s")) for _ in range(6)]
        for one in many:
            one.sendall(framed(bytes(MOST))[:-1])
        honest(tmp_path / "s")
        assert sum(one.num_bytes for one in server._connections) <= 2 * MOST
        for one in many[:4]:
            one.settimeout(5)
            with suppress(ConnectionResetError):
                assert one.recv(1) == b"", "it is closed"


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
