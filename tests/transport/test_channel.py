"""Channels keep one contract, in one process and over sockets; a socket's own failures have reasons."""

import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import pytest
from tests.transport.signing import KEYS, NAMES, body_of, signing
from tests.transport.sockets import serving

from wardround.accounting.events import GaussianEvent
from wardround.federation.channel import InProcessChannel
from wardround.federation.messages import Answer, Failure, FailureCode, Received, Request, Stage
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_request, encode_reply, encode_request
from wardround.transport import unix
from wardround.transport.frames import FrameReader, Kind, framed
from wardround.transport.unix import SocketChannel, _Unwatched
from wardround.work import GradientSum, SayHello

WEIGHTS = np.linspace(-1, 1, 5000, dtype=np.float32)
REFUSED = Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION)
HELLO = Request("study", 0, 1, SayHello())
received, refused = (signing(lambda body, reply=reply: encode_reply(reply)) for reply in (Received(), REFUSED))


def reply_of(name, request):
    """A hospital that adds its position, or refuses even rounds."""
    if request.round % 2 == 0:
        return REFUSED
    return Answer(request.work.weights + np.float32(NAMES.index(name)), GaussianEvent(1.0))


@contextmanager
def in_process(folder):
    yield InProcessChannel(NAMES, lambda asked: {name: reply_of(name, request) for name, request in asked.items()})


@contextmanager
def over_sockets(folder):
    with ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(serving(folder / name, signing(answering(name), name)))
        channel = SocketChannel({name: folder / name for name in NAMES}, KEYS)
        stack.callback(channel.close)
        yield channel


def answering(name):
    return lambda message: encode_reply(reply_of(name, decode_request(message, Limits())))


@pytest.fixture(params=[in_process, over_sockets], ids=["in process", "sockets"])
def channel(request, tmp_path):
    with request.param(tmp_path) as channel:
        yield channel


def test_replies_are_those_of_the_hospitals_in_the_order_of_the_requests(channel):
    asked = [NAMES[2], NAMES[0]]
    for round in (1, 3):
        replies, failures = channel.ask(dict.fromkeys(asked, Request("s", round, 1, GradientSum(WEIGHTS))), 60)
        assert list(replies) == asked
        assert not failures
        for name, reply in replies.items():
            assert np.array_equal(reply.update, WEIGHTS + np.float32(NAMES.index(name)))


def test_each_hospital_is_a_reply_or_a_failure(channel):
    requests = {
        name: Request("s", round, 1, GradientSum(WEIGHTS)) for name, round in zip(NAMES, (1, 2, 1), strict=True)
    }
    replies, failures = channel.ask(requests, 60)
    assert (list(replies), failures) == ([NAMES[0], NAMES[2]], {NAMES[1]: REFUSED})


def test_hospitals_are_in_their_order(channel):
    assert channel.hospitals == NAMES


@contextmanager
def raw(path, conduct):
    """A socket whose connections are conducted one after the other: each is told its number."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        ended = threading.Event()

        def serve():
            for number in range(100):
                connected, _ = listener.accept()
                if ended.is_set():
                    connected.close()
                    return
                with connected, suppress(OSError):
                    conduct(number, connected)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join()


def message_from(connected):
    reader = FrameReader(1 << 20)
    while (frame := reader.take()) is None:
        reader.feed(connected.recv(1 << 16))
    return frame[1]


def asked(path, *, deadline_s=30.0, patience_s=20.0):
    channel = SocketChannel({NAMES[0]: path}, KEYS, patience_s=patience_s)
    try:
        return channel.ask({NAMES[0]: HELLO}, deadline_s)
    finally:
        channel.close()


def failed(code):
    return {}, {NAMES[0]: Failure(code, Stage.TRANSPORT)}


def test_the_same_bytes_are_sent_again_over_a_new_connection(tmp_path):
    seen = []

    def conduct(number, connected):
        seen.append(message_from(connected))
        if number == 2:
            connected.sendall(framed(received(seen[-1])))
            connected.recv(1)

    with raw(tmp_path / "s", conduct):
        assert asked(tmp_path / "s") == ({NAMES[0]: Received()}, {})
    assert seen == [seen[0]] * 3
    assert body_of(seen[0]) == encode_request(HELLO)


def test_a_hospital_that_ends_at_every_message_is_gone(tmp_path):
    with raw(tmp_path / "s", lambda number, connected: message_from(connected)):
        assert asked(tmp_path / "s") == failed(FailureCode.GONE)


def test_a_hospital_that_comes_back_in_time_is_waited_for(tmp_path):
    """It is started while it is asked: the others' answers are kept."""
    with ExitStack() as stack:
        found = []
        thread = threading.Thread(target=lambda: found.append(asked(tmp_path / "s")))
        thread.start()
        time.sleep(0.05)
        stack.enter_context(serving(tmp_path / "s", received))
        thread.join()
    assert found == [({NAMES[0]: Received()}, {})]


def test_a_hospital_that_is_not_there_is_gone(tmp_path):
    assert asked(tmp_path / "s", patience_s=0.0) == failed(FailureCode.GONE)
    assert asked(tmp_path / "s", deadline_s=0.0) == failed(FailureCode.GONE)


def test_a_hospital_that_says_nothing_has_timed_out(tmp_path):
    def silent(number, connected):
        while connected.recv(1 << 16):
            pass

    with raw(tmp_path / "s", silent):
        assert asked(tmp_path / "s", deadline_s=1.0) == failed(FailureCode.TIMEOUT)


@pytest.mark.parametrize("cut", [1, 8, 9, 40, -1])
def test_an_answer_that_was_cut_is_asked_for_again(tmp_path, monkeypatch, cut):
    """The connection stays open: without a bound the coordinator would wait until the deadline."""
    monkeypatch.setattr(unix, "_STALLED_S", 0.2)
    seen = []

    def conduct(number, connected):
        seen.append(message_from(connected))
        answer = framed(received(seen[-1]))
        connected.sendall(answer[:cut] if number == 0 else answer)
        while connected.recv(1 << 16):
            pass

    with raw(tmp_path / "s", conduct):
        assert asked(tmp_path / "s", deadline_s=20.0) == ({NAMES[0]: Received()}, {})
    assert seen == [seen[0]] * 2


def test_an_answer_that_is_always_cut_has_timed_out(tmp_path, monkeypatch):
    monkeypatch.setattr(unix, "_STALLED_S", 0.02)

    def conduct(number, connected):
        connected.sendall(framed(received(message_from(connected)))[:-1])
        connected.recv(1)

    with raw(tmp_path / "s", conduct):
        assert asked(tmp_path / "s", deadline_s=600.0) == failed(FailureCode.TIMEOUT)


def test_an_answer_that_comes_slowly_is_read_to_its_end(tmp_path, monkeypatch):
    """A hospital that works, and one whose answer drips, are both alive."""
    monkeypatch.setattr(unix, "_STALLED_S", 0.4)
    seen = []

    def conduct(number, connected):
        seen.append(message_from(connected))
        time.sleep(0.5)
        answer = framed(received(seen[-1]))
        for start in range(0, len(answer), 16):
            connected.sendall(answer[start : start + 16])
            time.sleep(0.08)
        connected.recv(1)

    with raw(tmp_path / "s", conduct):
        assert asked(tmp_path / "s") == ({NAMES[0]: Received()}, {})
    assert len(seen) == 1


def test_a_late_reply_belongs_to_no_later_request(tmp_path):
    release = threading.Event()

    def conduct(number, connected):
        message = message_from(connected)
        if number == 0:
            release.wait()
        connected.sendall(framed(refused(message) if number == 0 else received(message)))
        connected.recv(1)

    with raw(tmp_path / "s", conduct):
        channel = SocketChannel({NAMES[0]: tmp_path / "s"}, KEYS)
        assert channel.ask({NAMES[0]: HELLO}, 0.1) == failed(FailureCode.TIMEOUT)
        release.set()
        assert channel.ask({NAMES[0]: HELLO}, 30) == ({NAMES[0]: Received()}, {})
        channel.close()


def test_an_answer_of_another_length_fails_with_a_reason(tmp_path):
    """The request has the model, so the length of a reply is known."""
    longer = encode_reply(Answer(np.append(WEIGHTS, np.float32(0)), GaussianEvent(1.0)))
    with serving(tmp_path / "s", signing(lambda message: longer)):
        channel = SocketChannel({NAMES[0]: tmp_path / "s"}, KEYS)
        found = channel.ask({NAMES[0]: Request("s", 1, 1, GradientSum(WEIGHTS))}, 30)
        channel.close()
    assert found == failed(FailureCode.REFUSED_FRAME)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (lambda message: b"\x00" * 16, FailureCode.REFUSED_FRAME),
        (lambda message: framed(b"no message"), FailureCode.REFUSED_SIGNATURE),
        (
            lambda message: framed(signing(lambda body: b"signed, and no reply")(message)),
            FailureCode.REFUSED_FRAME,
        ),
        (lambda message: framed(b"")[:5] + b"\xff" * 4, FailureCode.REFUSED_FRAME),
    ],
    ids=range(4),
)
def test_a_reply_that_is_none_fails_with_a_reason(tmp_path, reply, code):
    def conduct(number, connected):
        connected.sendall(reply(message_from(connected)))
        connected.recv(1)

    with raw(tmp_path / "s", conduct):
        assert asked(tmp_path / "s") == failed(code)


def test_a_message_that_a_server_refuses_fails_with_a_reason(tmp_path):
    with serving(tmp_path / "s", bytes, most_bytes=8):
        assert asked(tmp_path / "s") == failed(FailureCode.REFUSED_FRAME)


def test_a_flood_of_signs_of_life_is_told_once_a_read_and_keeps_no_other_waiting(tmp_path):
    """Each sign has nine bytes: one that cost a copy of those behind it would hold up every hospital's answer."""
    told = []

    class Watching(_Unwatched):
        def working(self, hospital):
            told.append(hospital)

    def flood(number, connected):
        message = message_from(connected)
        connected.sendall(framed(b"", Kind.WORKING) * 30_000 + framed(received(message)))
        connected.recv(1)

    flooding, honest = NAMES[:2]
    answered = serving(tmp_path / "honest", signing(lambda body: encode_reply(Received()), honest))
    with raw(tmp_path / "flooding", flood), answered:
        sockets = {flooding: tmp_path / "flooding", honest: tmp_path / "honest"}
        channel = SocketChannel(sockets, KEYS, watcher=Watching())
        assert channel.ask(dict.fromkeys(sockets, HELLO), 60) == (dict.fromkeys(sockets, Received()), {})
        channel.close()
    assert set(told) == {flooding}
    assert len(told) < 1000
