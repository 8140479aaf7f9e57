"""A coordinator whose clock ran ahead is answered after it is corrected, and what was sent before stays refused."""

import time

import pytest
from tests.errors import raises_code
from tests.transport.signing import COORDINATOR, HOSPITALS, KEYS, NAMES, signing
from tests.transport.sockets import serving

from wardround.errors import FederationError
from wardround.federation.messages import Received, Request
from wardround.federation.wire.signatures import Arrived
from wardround.federation.wire.tables import encode_reply
from wardround.hospital.kept.replies import Replies
from wardround.transport.exchanges import Exchanges
from wardround.transport.unix import SocketChannel
from wardround.work import SayHello

NOW, AHEAD = 1_800_000_000 * 10**9, 2_100_000_000 * 10**9
KEY = COORDINATOR.public


@pytest.fixture
def clock(monkeypatch):
    def set_to(now):
        monkeypatch.setattr(time, "time_ns", lambda: now)

    return set_to


def answered(replies, number):
    replies.check_follows(KEY, number, coordinators=[KEY], is_noted=True)


def test_a_clock_that_ran_ahead_and_was_corrected_leaves_no_request_refused(tmp_path, clock):
    replies, path = Replies(tmp_path / "notes"), tmp_path / "exchange"
    clock(AHEAD)
    early = Exchanges(path).next()
    answered(replies, early)
    clock(NOW)
    for process in (Exchanges(path), Exchanges(path)):
        answered(replies, process.next())
    with raises_code(FederationError, "federation-replay"):
        answered(replies, early)


def test_where_the_file_was_lost_the_number_of_the_hospitals_log_lets_the_study_go_on(tmp_path, clock):
    replies, path = Replies(tmp_path / "notes"), tmp_path / "exchange"
    clock(AHEAD)
    early = Exchanges(path).next()
    answered(replies, early)
    path.unlink()
    clock(NOW)
    with raises_code(FederationError, "federation-replay") as raised:
        answered(replies, Exchanges(path).next())
    assert f"write {early} into" in str(raised.value)
    path.write_text(f"{early}\n")
    answered(replies, Exchanges(path).next())
    with raises_code(FederationError, "federation-replay"):
        answered(replies, early)


def test_numbers_ascend_over_processes_at_the_same_nanosecond(tmp_path, clock):
    clock(NOW)
    processes = [Exchanges(tmp_path / "exchange") for _ in range(2)]
    found = [process.next() for _ in range(3) for process in processes]
    assert found == sorted(set(found))


@pytest.mark.parametrize("content", ["", "soon", "-1", "9" * 19, "1" * 21])
def test_a_file_that_is_none_is_a_sentence(tmp_path, content):
    (tmp_path / "exchange").write_text(content)
    with raises_code(FederationError, "federation-exchange-number"):
        Exchanges(tmp_path / "exchange").next()


def test_a_channel_numbers_its_requests_so(tmp_path, clock):
    seen = []

    def note(message):
        seen.append(HOSPITALS[NAMES[0]].open(Arrived.of(message), [KEY]).exchange)
        return signing(lambda body: encode_reply(Received()))(message)

    clock(NOW)
    with serving(tmp_path / "s", note):
        for _ in range(2):
            channel = SocketChannel({NAMES[0]: tmp_path / "s"}, KEYS, exchanges=Exchanges(tmp_path / "exchange"))
            channel.ask({NAMES[0]: Request("s", 0, 1, SayHello())}, 30)
            channel.close()
    assert seen == [NOW, NOW + 1]
