"""Hostile courier and forbidden studies, against running agents: a code, no charge, and the next honest run works."""

from contextlib import ExitStack

import pytest
from tests.errors import raises_code
from tests.transport.consortium import ALONE, MASKED, NAMES
from tests.transport.sockets import connected, frame_from

from wardround.errors import FederationError
from wardround.federation.messages import Failure, FailureCode, Stage
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_reply
from wardround.transport.frames import Kind, framed

pytestmark = pytest.mark.thorough


def test_hostile_frames_cost_nothing_and_stop_nothing(consortium, without_charts):
    between = consortium(MASKED, {"rounds": 2})
    between.accept()
    between.start()
    path = between.home(NAMES[0]) / "agent.sock"
    with ExitStack() as stack:
        slow = stack.enter_context(connected(path))
        slow.sendall(framed(bytes(1000))[:-1])
        for hostile in (b"GET / HTTP/1.1\r\n\r\n", framed(b"")[:5] + b"\xff" * 4):
            with connected(path) as client:
                client.sendall(hostile)
                assert frame_from(client) == (Kind.REFUSED, b"federation-frame")
        with connected(path) as client:
            client.sendall(framed(bytes(1000))[:-1])
        with connected(path) as client:
            client.sendall(framed(b"garbage"))
            kind, reply = frame_from(client)
            refused = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
            assert (kind, decode_reply(reply[-len(encode_reply(refused)) :], Limits())) == (Kind.MESSAGE, refused)
        record = between.run()
    assert {receipt["releases"] for receipt in between.receipts().values()} == {2}
    assert record.certificate["rounds"] == 2
    between.stop()


def test_a_study_that_one_hospital_has_not_accepted_charges_nobody(consortium):
    between = consortium(ALONE, {"strategy": "fedavg", "rounds": 2})
    between.accept()
    between.start()
    [accepted] = (between.home(NAMES[2]) / "accepted").iterdir()
    between.kill(NAMES[2])
    content = accepted.read_text()
    accepted.unlink()
    between.agents[NAMES[2]] = between.begin(["agent", "--home", str(between.home(NAMES[2]))])
    assert "no study is accepted, waiting" in between.agents[NAMES[2]].stdout.readline()
    with raises_code(FederationError, "federation-silent-hospital") as caught:
        between.run()
    assert NAMES[2] in str(caught.value)
    assert "refused-study" in str(caught.value)
    assert "log says why" in str(caught.value)
    assert not (between.folder / "run").exists()
    accepted.write_text(content)
    between.run()
    assert {receipt["releases"] for receipt in between.receipts().values()} == {2 * between.study.local_steps}
    between.stop()


def test_two_agents_do_not_serve_one_folder(consortium):
    between = consortium(ALONE, {"strategy": "fedavg", "rounds": 2})
    between.accept()
    between.start()
    between.agents["second"] = between.begin(["agent", "--home", str(between.home(NAMES[0]))])
    assert between.ended("second") == 2
    between.stop()
