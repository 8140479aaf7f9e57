"""A run between agents while it goes on: a hospital that ends is seen at the coordinator, and the run goes on."""

import json
import signal
import time

import pytest
from tests.transport.consortium import ALONE, NAMES, Forked

from wardround.errors import RecordError
from wardround.hospital.hospital import Hospital
from wardround.secure_aggregation.keys.pins import Pins
from wardround.watching.live import LOG, live_folder
from wardround.watching.views import CoordinatorView, HospitalView, view_of


def coordinating(between):
    """The coordinator's program, and its run."""
    (between.folder / "study.toml").write_text(between.study.to_toml())
    home = between.folder / "consortium"
    home.mkdir()
    between.coordinator.write(home / "identity.pem")
    Pins(between.keys).write(home / "pins.toml")
    sockets = [f"--hospital={name}={between.home(name) / 'agent.sock'}" for name in NAMES]
    run = between.folder / "run"
    begun = Forked(
        ["coordinate", str(between.folder / "study.toml"), *sockets, "--home", str(home), "--out", str(run)]
    )
    return begun, run


def state_of(run, name):
    [found] = [each for each in run_of(run).hospitals if each.name == name]
    return found.state, found.code


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("number", "state"), [(signal.SIGKILL, ("away", "gone")), (signal.SIGSTOP, ("slow", "slow"))]
)
def test_an_agent_that_ends_or_hangs_while_it_computes_is_seen_within_a_minute(
    consortium, without_charts, number, state
):
    between = consortium(ALONE, {"rounds": 1})
    between.accept()

    def computes():
        Hospital.reply = lambda *_: time.sleep(3600)  # type: ignore[method-assign,assignment]  # in the agent's process

    between.start(NAMES[0], NAMES[2])
    between.start(NAMES[1], first=computes)
    victim = between.agents[NAMES[1]]
    coordinator, run = coordinating(between)
    try:
        wait_until(lambda: state_of(run, NAMES[1]) == ("computing", ""))
        victim.send_signal(number)
        struck = time.monotonic()
        wait_until(lambda: state_of(run, NAMES[1]) == state)
        assert time.monotonic() - struck < 60
        assert state_of(run, NAMES[0]) == ("answered", "")
    finally:
        coordinator.send_signal(signal.SIGTERM)
        coordinator.wait(60)
        coordinator.stdout.close()


@pytest.mark.thorough
def test_a_killed_agent_is_seen_within_a_minute_and_the_run_completes(consortium, without_charts):
    between = consortium(
        ALONE | {"noise_multiplier": 30.0, "spare_attempts": 3},
        {"rounds": 400},
        evaluation={"level": "noised", "epsilon": 3.0},
    )
    for name in NAMES:
        with (between.home(name) / "policy.toml").open("a") as file:
            file.write('metrics = "noised"\n')
    between.accept()
    between.start()
    coordinator, run = coordinating(between)
    try:
        wait_until(lambda: run_of(run).round >= 3)
        between.kill(NAMES[1])
        killed = time.monotonic()
        wait_until(lambda: {each.name: each.code for each in run_of(run).hospitals}[NAMES[1]] == "gone")
        assert time.monotonic() - killed < 60
        assert not seen_of(between, NAMES[1]).is_running
        between.start(NAMES[1])
        assert coordinator.wait(300) == 0
    finally:
        coordinator.stdout.close()
    assert {(each.state, each.code) for each in run_of(run).hospitals} == {("answered", "")}
    assert run_of(run).is_over
    assert seen_of(between, NAMES[0]).is_running
    assert all(study.has_own_figures for study in seen_of(between, NAMES[0]).studies)
    events = [json.loads(line) for line in (live_folder(run) / LOG).read_text().splitlines()]
    assert any(event["event"] == "away" and event["hospital"] == NAMES[1] for event in events)
    texts = [path.read_text() for path in run.glob("*.json*")]
    assert not any("seconds" in text for text in texts), "timings stay out of the record"
    between.stop()


def seen_of(between, name) -> HospitalView:
    found = view_of(between.home(name))
    assert isinstance(found, HospitalView)
    return found


def run_of(path) -> CoordinatorView:
    found = view_of(path)
    assert isinstance(found, CoordinatorView)
    return found


def wait_until(holds, patience_s=60.0):
    """Asks again until it holds; files that are not there yet count as no."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            if holds():
                return
        except RecordError as error:
            if error.code != "record-no-status":
                raise
        time.sleep(0.05)
    raise AssertionError("it never held")
