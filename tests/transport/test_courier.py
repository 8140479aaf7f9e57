"""A message in parts over an engine that loses requests and replies: whole, once, bounded and cancelled cleanly."""

import random
import socket
import struct
import threading
import time
import tracemalloc
from contextlib import contextmanager, suppress

import pytest
from tests.transport.consortium import NAMES
from tests.transport.sockets import connected, frame_from, serving

from wardround.transport import server
from wardround.transport.frames import Kind, framed
from wardround_flare import exchange
from wardround_flare.exchange import FrameError, Hand, Line, read_frame


class Quick:
    """The time, in which nothing sleeps for long."""

    def monotonic(self):
        return time.monotonic()

    def sleep(self, seconds):
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    for name, value in {"PART_BYTES": 100, "FAST_S": 0.0, "WAIT_S": 0.05, "AWAY_S": 0.1, "IDLE_S": 3600.0}.items():
        monkeypatch.setattr(exchange, name, value)
    monkeypatch.setattr(exchange, "time", Quick())


class Engine:
    """Asks a hand, and loses requests and replies as `lost` says; `hands` are the processes at the site in turn."""

    def __init__(self, path, lost=lambda: False):
        self.path, self.lost = path, lost
        self.hand, self.asked = Hand(str(path)), []

    def restart(self):
        self.hand = Hand(str(self.path))

    def ask(self, request, parts, timeout):
        part = as_one(parts)
        if request["id"]:
            self.asked.append(request | {"part": part})
        if self.lost():
            return None
        fields, answered = self.hand.answer(request, part)
        return None if self.lost() else (fields, as_one(answered))


def as_one(parts):
    """Parts as an engine delivers them; one part is not copied."""
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def carried(tmp_path, answer, lost=lambda: False):
    """An agent, an engine, and the socket of a line to the agent."""
    with serving(tmp_path / "agent", answer) as _:
        engine = Engine(tmp_path / "agent", lost)
        line = Line("north", tmp_path / "north", engine.ask)
        line.listen()
        try:
            yield engine, tmp_path / "north"
        finally:
            line.close()


def asked(path, message):
    with connected(path) as link:
        link.sendall(framed(message))
        return frame_from(link)


@pytest.mark.parametrize("size", [0, 1, 91, 92, 1000])
@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_a_message_and_its_answer_arrive_whole(tmp_path, size, lost):
    dice = random.Random(size)
    message = dice.randbytes(size)
    with carried(tmp_path, lambda got: got[::-1] + b"!" * 150, lambda: dice.random() < lost) as (engine, path):
        assert asked(path, message) == (Kind.MESSAGE, message[::-1] + b"!" * 150)
    assert max(len(request["part"]) for request in engine.asked) <= exchange.PART_BYTES


@pytest.mark.parametrize(
    ("fast_s", "lost", "parts"),
    [(60.0, (), [1, 2, 4, 4, 4, 4, 1]), (0.0, (), [1] * 20), (60.0, {3}, [1, 2, 4, 4, 1, 2, 4, 4, 2])],
)
def test_parts_grow_on_a_fast_line_and_are_small_again_after_a_loss(tmp_path, monkeypatch, fast_s, lost, parts):
    monkeypatch.setattr(exchange, "FAST_S", fast_s)
    message = framed(random.Random(1).randbytes(1991))
    with serving(tmp_path / "agent", lambda got: got * 2):
        engine, asks = Engine(tmp_path / "agent"), []

        def ask(request, sent, timeout):
            if sent:
                asks.append(len(sent))
                if len(asks) - 1 in lost:
                    return None
            return engine.ask(request, sent, timeout)

        line = Line("north", tmp_path / "north", ask)
        line.listen()
        assert asked(tmp_path / "north", message[9:]) == (Kind.MESSAGE, message[9:] * 2)
        line.close()
    assert asks == parts


def test_one_message_reaches_the_agent_once_where_nothing_but_replies_is_lost(tmp_path, monkeypatch):
    """A part that is sent again is taken once, and an agent that works is not asked again."""
    monkeypatch.setattr(exchange, "WAIT_S", 0.01)
    got, dice = [], random.Random(2)

    def answer(message):
        got.append(message)
        threading.Event().wait(0.1)
        return b"done"

    replies = iter(range(10**6))
    with carried(tmp_path, answer, lambda: next(replies) % 2 == 1 and dice.random() < 0.4) as (_, path):
        assert asked(path, b"x" * 950) == (Kind.MESSAGE, b"done")
    assert got == [b"x" * 950]


def test_an_agent_that_works_gives_signs_of_life_through_the_courier(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "SIGN_S", 0.02)
    ended = threading.Event()

    def answer(message):
        assert ended.wait(30)
        return b"done"

    with carried(tmp_path, answer) as (_, path), connected(path) as link:
        link.sendall(framed(b"long"))
        assert [frame_from(link) for _ in range(3)] == [(Kind.WORKING, b"")] * 3
        ended.set()
        last = (Kind.WORKING, b"")
        while last == (Kind.WORKING, b""):
            last = frame_from(link)
        assert last == (Kind.MESSAGE, b"done")


def test_a_site_whose_process_is_new_is_sent_the_whole_message_again(tmp_path):
    with carried(tmp_path, lambda got: got) as (engine, _):
        inner = engine.ask
        seen = []

        def ask(request, part, timeout):
            seen.append(request["offset"])
            if len(seen) == 4:
                engine.restart()
            return inner(request, part, timeout)

        line = Line("north", tmp_path / "again", ask)
        line.listen()
        assert asked(tmp_path / "again", bytes(range(250)) * 3) == (Kind.MESSAGE, bytes(range(250)) * 3)
        line.close()
    assert seen.count(0) == 2


def test_a_site_whose_process_ends_while_it_answers_is_asked_again_over_a_new_connection(tmp_path):
    message = bytes(range(250)) * 3
    with carried(tmp_path, lambda got: got) as (engine, _):
        inner = engine.ask
        wanted = []

        def ask(request, part, timeout):
            wanted.append(request["want"])
            if wanted.count(0) and request["want"] == 300 and wanted.count(300) == 1:
                engine.restart()
            return inner(request, part, timeout)

        line = Line("north", tmp_path / "again", ask)
        line.listen()
        assert asked(tmp_path / "again", message) is None
        assert asked(tmp_path / "again", message) == (Kind.MESSAGE, message)
        line.close()


def test_a_message_and_its_answer_are_held_once_on_their_way(tmp_path, monkeypatch):
    """Parts are the memory that they were read into: what both sides hold at most is the message and its answer."""
    monkeypatch.setattr(exchange, "PART_BYTES", 1 << 18)
    message = framed(bytes(1 << 22))
    with socket.socket(socket.AF_UNIX) as agent, socket.socket(socket.AF_UNIX) as link:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        line = Line("north", tmp_path / "north", Engine(tmp_path / "agent").ask)
        line.listen()
        link.connect(str(tmp_path / "north"))
        tracemalloc.start()
        try:
            threading.Thread(target=link.sendall, args=(message,)).start()
            taken, _ = agent.accept()
            received(taken, len(message))
            threading.Thread(target=taken.sendall, args=(message,)).start()
            received(link, len(message))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            taken.close()
            line.close()
    assert most < 2.5 * len(message)


def received(link, count):
    """Reads so many bytes and keeps none of them."""
    free = memoryview(bytearray(1 << 16))
    while count:
        count -= link.recv_into(free[: min(count, len(free))])


def test_an_agent_that_is_away_closes_the_connection(tmp_path):
    engine = Engine(tmp_path / "nobody")
    line = Line("north", tmp_path / "north", engine.ask)
    line.listen()
    assert asked(tmp_path / "north", b"anything") is None
    line.close()


def test_a_coordinator_that_hangs_up_cancels_its_exchange_and_the_next_is_served(tmp_path):
    release = threading.Event()

    def answer(message):
        if message == b"long":
            release.wait(20)
        return message

    with carried(tmp_path, answer) as (engine, path):
        with connected(path) as link:
            link.sendall(framed(b"long"))
            while not engine.asked:
                time.sleep(0.01)

        def asks():
            return len([request for request in engine.asked if request["size"] == 9 + len(b"long")])

        before = -1
        for _ in range(20):  # it is asked once more at most, although the agent works on
            if before == (before := asks()):
                break
            time.sleep(5 * exchange.WAIT_S)
        assert before == asks()
        assert not release.is_set()
        release.set()
        assert asked(path, b"next") == (Kind.MESSAGE, b"next")


@pytest.mark.parametrize("hostile", [b"GET / HTTP/1.1\r\n", struct.pack(">4sBI", b"WRD\x01", 1, (1 << 30) + 4090)])
def test_what_is_no_frame_or_too_long_is_refused_at_its_header(tmp_path, hostile):
    with carried(tmp_path, lambda got: got) as (engine, path):
        with connected(path) as link, suppress(ConnectionResetError):
            link.sendall(hostile)
            assert frame_from(link) is None
        assert not engine.asked


def test_frames_are_those_of_the_transport():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for kind in Kind:
            ours.sendall(framed(b"content", kind) + framed(b""))
            assert read_frame(theirs) == [framed(b"content", kind)]
            assert read_frame(theirs) == [framed(b"")]
        ours.sendall(b"WRD\x02" + bytes(5))
        with pytest.raises(FrameError):
            read_frame(theirs)


BEYOND = {"size": (1 << 30) + 4097, "part": bytes(401), "offset": -1, "want": -1, "most": 5}
REFUSED = [{name: value} for name, value in BEYOND.items()]


@pytest.mark.parametrize("change", [*REFUSED, {"size": 0}, {"most": 0}])
def test_a_hand_refuses_requests_that_no_line_sends(tmp_path, change):
    request = {"id": "a", "size": 10, "offset": 0, "want": 0, "most": 1}
    hand = Hand(str(tmp_path / "agent"))
    assert hand.answer(request, b"x") == ({"state": "held", "held": 1}, ())
    with pytest.raises(ValueError, match="part"):
        hand.answer(request | change, change.get("part", b"x"))


class Clock(Quick):
    """A clock that a test advances."""

    now = 0.0

    def monotonic(self):
        return self.now


def test_a_site_that_says_nothing_is_silent_and_one_that_works_long_is_not(tmp_path, monkeypatch):
    clock, found = Clock(), []
    monkeypatch.setattr(exchange, "time", clock)
    monkeypatch.setattr(exchange, "IDLE_S", 0.0)
    monkeypatch.setattr(exchange, "AWAY_S", 3600.0)
    work = threading.Event()

    def answer(message):
        work.wait(20)
        return message

    with serving(tmp_path / "agent", answer):
        engine = Engine(tmp_path / "agent", lambda: work.is_set())

        def ask(request, part, timeout):
            clock.now += exchange.REPLY_S - 1
            reply = engine.ask(request, part, timeout)
            if len(engine.asked) == 10:
                work.set()  # from now on every reply is lost
            found.append((len(engine.asked), line.is_silent))
            return reply

        line = Line("north", tmp_path / "north", ask)
        line.listen()
        with connected(tmp_path / "north") as link:
            link.sendall(framed(b"long"))
            while not found or found[-1][0] < 15:
                threading.Event().wait(0.001)
        line.close()
    assert not any(silent for asks, silent in found if asks <= 10)
    assert any(silent for asks, silent in found if asks > 10)


@pytest.mark.parametrize(("back_s", "answers"), [(8.4, [1] * 8), (0.5, [1, 2, 4, 1])])
def test_a_line_that_is_slow_on_the_way_back_loses_no_answer(tmp_path, monkeypatch, back_s, answers):
    """Bytes of replies queue on the line; a part takes 0.2 s to the site and `back_s` from it."""
    clock, done, free_at = Clock(), threading.Event(), 0.0
    got: list[int] = []
    lost: list[object] = []
    silent: list[bool] = []
    monkeypatch.setattr(exchange, "time", clock)
    monkeypatch.setattr(exchange, "FAST_S", 1.1)
    monkeypatch.setattr(exchange, "IDLE_S", 10.0)
    message = framed(random.Random(4).randbytes(791))

    def answer(content):
        assert done.wait(30)
        return content

    def ask(request, parts, timeout):
        nonlocal free_at
        fields, part = engine.hand.answer(request, as_one(parts))
        began, begins_at = clock.now, max(clock.now + 0.2 * len(parts), free_at)
        free_at = begins_at + back_s * len(part)
        clock.now = min(began + timeout, free_at)
        silent.append(line.is_silent)
        if fields["state"] == "working":
            done.set()
        if free_at > began + timeout:
            lost.append(request)
            return None
        if part:
            got.append(len(part))
        return fields, as_one(part)

    with serving(tmp_path / "agent", answer):
        engine = Engine(tmp_path / "agent")
        line = Line("north", tmp_path / "north", ask)
        line.listen()
        assert asked(tmp_path / "north", message[9:]) == (Kind.MESSAGE, message[9:])
        line.close()
    assert not any(silent)
    assert not lost
    assert got == answers


def test_a_request_of_an_older_kit_is_answered_in_one_part(tmp_path):
    with serving(tmp_path / "agent", lambda content: content * 2):
        hand = Hand(str(tmp_path / "agent"))
        message = framed(bytes(91))
        request = {"id": "a", "size": len(message), "offset": 0, "want": 0}
        while (reply := hand.answer(request, message))[0]["state"] == "working":
            pass
    assert [len(part) for part in reply[1]] == [100]


@pytest.mark.thorough
def test_long_messages_come_back_whole_over_flare(flare, short_path):
    """Requests and answers of several buffers, in the engine's own messages."""
    flare.wait()
    name = NAMES[0]
    flare.link(name).unlink(missing_ok=True)
    flare.link(name).symlink_to(short_path / "s")
    message = framed(random.Random(3).randbytes(22 << 20))
    with serving(short_path / "s", lambda got: got, most_bytes=1 << 26), connected(flare.socket_of(name)) as link:
        for _ in range(2):
            sending = threading.Thread(target=link.sendall, args=(message,))
            sending.start()
            assert b"".join(read_frame(link)) == message
            sending.join()
