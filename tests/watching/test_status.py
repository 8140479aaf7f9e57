"""The live view: states and codes as they happen, served to this machine alone, and nothing of a patient in it."""

import json
import logging
import socket
import threading
from base64 import b64encode
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
from tests.errors import raises_code
from tests.hospital.deployed import COORDINATOR, make_folders, study_of
from tests.transport.signing import KEYS
from tests.transport.sockets import serving
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.config.site import read_policy, read_site
from wardround.errors import RecordError, StudyError
from wardround.federation.messages import Failure, FailureCode, Received, Request, Stage
from wardround.federation.wire.signatures import Arrived, CoordinatorKeys, HospitalKeys
from wardround.federation.wire.tables import encode_reply, encode_request
from wardround.hospital.accepted import accept
from wardround.hospital.desk import Desk
from wardround.hospital.own_log import log_to
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.transport import server
from wardround.transport.unix import SocketChannel
from wardround.types import HospitalName
from wardround.watching.live import LOG, STATUS, Live, live_folder
from wardround.watching.markup import html_of
from wardround.watching.page import StatusServer, metrics_of
from wardround.watching.views import SLOW_S, CoordinatorView, HospitalView, json_of, view_of
from wardround.watching.words import lines_of
from wardround.work import GradientSum, SayHello

NORTH, SOUTH = HospitalName("north"), HospitalName("south")
ALONE = {"plan": "dp-sgd", "noise_multiplier": 40.0, "delta": 1e-3, "trust": "nobody", "num_patients": 30}
ASKED = Request("study", 3, 1, SayHello())


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path):
    live_folder(tmp_path / "run").write_text("no folder")
    Live(tmp_path / "run", "study", "digest", 3, (NORTH,)).close()


@pytest.fixture
def live(tmp_path):
    return Live(tmp_path / "run", "three", "ab" * 32, 20, (NORTH, SOUTH))


def test_signs_of_life_are_written_once_a_second(live, monkeypatch):
    """A courier may send any number of them."""
    written, times = (
        [],
        iter(f"2030-01-01T00:00:{number // 100:02}.{number % 100:03}+00:00" for number in range(300)),
    )
    monkeypatch.setattr("wardround.watching.live._now", lambda: next(times))
    live.asked(NORTH, ASKED, 100)
    live.working(NORTH)
    monkeypatch.setattr(live, "_write_status", lambda: written.append(1))
    for _ in range(250):
        live.working(NORTH)
    assert len(written) == 2


def view(tmp_path) -> Any:
    return view_of(tmp_path / "run")


def seen(tmp_path):
    return {each.name: (each.state, each.code) for each in view(tmp_path).hospitals}


def test_each_hospitals_state_is_the_last_thing_that_happened(tmp_path, live):
    assert seen(tmp_path) == {"north": ("waiting", ""), "south": ("waiting", "")}
    live.stage("training")
    live.asked(NORTH, ASKED, 100)
    live.away(SOUTH)
    assert seen(tmp_path) == {"north": ("asked", ""), "south": ("away", "gone")}
    live.ended(NORTH, Received(), 40, 0.5)
    live.ended(SOUTH, Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION), 30, 0.25)
    live.exchanged("hello", 0.5)
    live.progress(3, 20)
    assert seen(tmp_path) == {"north": ("answered", ""), "south": ("failed", "refused-budget")}
    found = view(tmp_path)
    assert (found.round, found.rounds, found.stage, found.seconds_by_work) == (3, 20, "training", {"hello": 0.5})
    north = found.hospitals[0]
    assert (north.work, north.round, north.seconds) == ("hello", 3, 0.5)
    assert (north.bytes_sent, north.bytes_received) == (100, 40)
    events = [json.loads(line)["event"] for line in (live_folder(tmp_path / "run") / LOG).read_text().splitlines()]
    assert events == ["begun", "stage", "asked", "away", "answered", "failed", "round"]
    assert not (tmp_path / "run").exists(), "seconds are in no record"
    assert (live_folder(tmp_path / "run") / STATUS).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("asked_ago", "seen_ago", "state"),
    [
        (SLOW_S - 5, None, "asked"),
        (SLOW_S + 5, None, "slow"),
        (600, SLOW_S - 5, "computing"),
        (600, SLOW_S + 5, "slow"),
    ],
)
def test_a_hospital_that_gives_no_sign_is_slow_within_a_minute(tmp_path, live, asked_ago, seen_ago, state):
    """However long it computes: `computing` is a hospital that was heard a moment ago."""
    assert SLOW_S <= 60
    live.asked(NORTH, ASKED, 100)
    if seen_ago is not None:
        live.working(NORTH)
    path = live_folder(tmp_path / "run") / STATUS
    content = json.loads(path.read_text())
    north = content["hospitals"]["north"]
    for name, ago in {"since": asked_ago, "seen": seen_ago}.items():
        if ago is not None:
            north[name] = (datetime.fromisoformat(north[name]) - timedelta(seconds=ago)).isoformat()
    path.write_text(json.dumps(content))
    assert seen(tmp_path)["north"] == (state, "slow" if state == "slow" else "")
    up = 'wardround_hospital_up{hospital="north"} ' + str(int(state != "slow"))
    assert up in metrics_of(view(tmp_path)).splitlines()
    assert ("last seen" in "".join(lines_of(view(tmp_path)))) == (seen_ago is not None)


def test_an_agent_that_computes_gives_signs_of_life_until_its_answer(tmp_path, live, monkeypatch):
    """They are seen at the coordinator while it waits, and cost an exchange nothing."""
    monkeypatch.setattr(server, "SIGN_S", 0.01)
    states, keys = [], SigningKey.read(make_folders(tmp_path)[0]["north"] / "identity.pem")
    ended = threading.Event()

    class Watched(Live):
        def working(self, hospital):
            super().working(hospital)
            states.append(seen(tmp_path)["north"])
            if len(states) == 3:
                ended.set()

    def answer(message):
        assert ended.wait(30), "three signs while it computes"
        return HospitalKeys(Identity("north", keys)).sign(Arrived.of(message), encode_reply(Received()))

    watcher = Watched(tmp_path / "run", "three", "ab" * 32, 20, (NORTH,))
    with serving(tmp_path / "n.sock", answer):
        channel = SocketChannel(
            {NORTH: tmp_path / "n.sock"}, CoordinatorKeys(COORDINATOR, {"north": keys.public}), watcher=watcher
        )
        replies = [channel.ask({NORTH: ASKED}, 60.0)[0] for _ in range(2)]
        channel.close()
    assert replies == [{NORTH: Received()}] * 2
    assert states[:3] == [("computing", "")] * 3
    assert seen(tmp_path)["north"] == ("answered", "")


def test_a_hospital_that_ends_is_seen_to_be_away_while_the_coordinator_waits(tmp_path, live):
    """Its connection is lost, or there is none: `gone`, before patience has ended."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "north.sock"))
    listener.listen()
    states = []

    def dies():
        link, _ = listener.accept()
        link.recv(1)
        listener.close()
        link.close()

    class Watched(Live):
        def away(self, hospital):
            super().away(hospital)
            states.append(seen(tmp_path))

    watcher = Watched(tmp_path / "run", "three", "ab" * 32, 20, (NORTH, SOUTH))
    dying = threading.Thread(target=dies)
    dying.start()
    paths = {NORTH: tmp_path / "north.sock", SOUTH: tmp_path / "no.sock"}
    channel = SocketChannel(paths, KEYS, patience_s=0.2, watcher=watcher)
    replies, failures = channel.ask(dict.fromkeys(paths, ASKED), 5.0)
    dying.join()
    assert replies == {}
    assert {failure.code for failure in failures.values()} == {FailureCode.GONE}
    for name in (NORTH, SOUTH):
        assert ("away", "gone") in [each[name] for each in states], "during the exchange"
    assert seen(tmp_path) == {"north": ("failed", "gone"), "south": ("failed", "gone")}


@contextmanager
def served(look):
    with StatusServer(look, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def got(server, path, host="127.0.0.1", method="GET"):
    link = HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    link.request(method, path, headers={"Host": f"{host}:{server.server_port}"})
    answer = link.getresponse()
    body = answer.read().decode()
    link.close()
    return answer.status, body, answer.headers


def test_the_page_is_for_this_machine_and_has_three_addresses(tmp_path, live):
    with served(lambda: view(tmp_path)) as server:
        assert server.server_address[0] == "127.0.0.1"
        status, page, headers = got(server, "/")
        assert (status, "<h1>three</h1>" in page, "of 20" in page) == (200, True, True)
        style = b64encode(sha256(page.partition("<style>")[2].partition("</style>")[0].encode()).digest()).decode()
        assert headers["Content-Security-Policy"] == (
            f"default-src 'none'; frame-ancestors 'none'; style-src 'sha256-{style}'"
        )
        assert 'name="viewport"' in page
        assert json.loads(got(server, "/status.json")[1])["view"] == "coordinator"
        assert "# TYPE wardround_round gauge\nwardround_round{} 0\n" in got(server, "/metrics")[1]
        assert [got(server, path)[0] for path in ("/../etc/passwd", "/status", "/metrics?x")] == [404, 404, 404]
        assert got(server, "/", host="attacker.example")[0] == 403, "another page's script cannot read it"
        assert got(server, "/", method="POST")[0] == 501
        with raises_code(StudyError, "study-status-port"):
            StatusServer(lambda: view(tmp_path), server.server_port)


def test_a_name_cannot_write_markup_or_metrics(tmp_path):
    name = HospitalName('a"} 1\n<script>')
    Live(tmp_path / "run", "three", "ab" * 32, 20, (name,))
    assert "<script>" not in html_of(view(tmp_path))
    for line in metrics_of(view(tmp_path)).splitlines():
        assert line.startswith(("# TYPE wardround_", "wardround_"))


def test_a_hospitals_view_has_its_account_and_its_answers_and_no_patient(tmp_path):
    north = make_folders(tmp_path)[0]["north"]
    study = study_of(ALONE, {"rounds": 2})
    accept(north, read_site(north / "site.toml"), read_policy(north / "policy.toml"), study, by="a person")
    handler, logger = log_to(north / "agent.log"), logging.getLogger("wardround")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    weights = np.zeros(32 * 32 * 2 + 2, dtype=np.float32)
    try:
        with Desk(north) as desk:
            keys = CoordinatorKeys(COORDINATOR, {"north": SigningKey.read(north / "identity.pem").public})
            for round in (1, 5):
                message = encode_request(Request(study.digest, round, 1, GradientSum(weights)))
                desk.answer(keys.sign(message, ["north"], round)[0].content)
            desk.answer(b"no request")
            account = desk.open(study.digest).agent.account
            spent, most = account.spent(), account._part.begun.epsilon
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
    found = view_of(north)
    assert isinstance(found, HospitalView)
    [asked] = found.studies
    assert (asked.epsilon_spent, asked.epsilon_most) == (spent, most)
    assert 0 < spent < most
    assert (found.answers, found.refusals, found.is_running) == (2, 1, False)
    assert found.seconds_by_work.keys() == {"gradient-sum"}
    everything = [json.dumps(json_of(found)), metrics_of(found), html_of(found), *lines_of(found)]
    assert not any("patient-0" in text for text in everything)
    said = CliRunner().invoke(app, ["status", str(north), "--json"])
    assert json.loads(said.stdout) == json.loads(json.dumps(json_of(found)))


def test_a_folder_that_is_neither_is_refused(tmp_path):
    with raises_code(RecordError, "record-no-status"):
        view_of(tmp_path)


@pytest.mark.parametrize("damaged", ["", "[]", "3", "[" * 100_000, '{"study": NaN}'])
def test_damaged_notes_are_said_in_a_sentence(tmp_path, live, damaged):
    (live_folder(tmp_path / "run") / STATUS).write_text(damaged)
    with pytest.raises(RecordError, match="must be readable"):
        view_of(tmp_path / "run")


def test_the_spent_epsilon_is_that_of_the_record(tmp_path, live):
    run = tmp_path / "run"
    run.mkdir()
    study = study_of(ALONE | {"noise_multiplier": None, "epsilon": 2.0}, {"rounds": 2})
    (run / "study.toml").write_text(study.to_toml())
    (run / "rounds.jsonl").write_text('{"round": 1, "epsilon": 0.75}\n{"round": 2}\n')
    found = view(tmp_path)
    assert isinstance(found, CoordinatorView)
    assert (found.spent_round, found.epsilon_spent) == (1, 0.75)
    assert found.epsilon == pytest.approx(2.0, rel=1e-3)
    said = "\n".join(lines_of(found))
    assert "epsilon spent by round 1: 0.750 of 2.00 at delta = 0.001 for one patient" in said
    (run / "rounds.jsonl").write_text('{"round": 1}\n')
    unknown = "\n".join(lines_of(view(tmp_path)))
    assert "epsilon: at most 2.00 at delta = 0.001 for one patient; not computed yet" in unknown
