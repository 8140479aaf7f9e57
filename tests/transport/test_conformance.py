"""Every study that can be run between hospitals gives the same files in process, over Unix sockets and over FLARE."""

from contextlib import ExitStack

import pytest
from tests.transport.consortium import ALONE, MASKED, NAMES

from wardround.coordinator.observer import Silent
from wardround.coordinator.run import coordinate
from wardround.federation.messages import Failure
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.signatures import CoordinatorKeys
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.hospital.desk import Desk
from wardround.simulation.run import run_study

pytestmark = pytest.mark.thorough

STEPS = {"local_steps": 2}
STUDIES = {
    "masked": (MASKED, {"rounds": 3}),
    "masked, counted": ({**MASKED, "num_patients": None}, {"rounds": 2}),
    "alone": (ALONE, {"strategy": "alone", "rounds": 2}),
    "ensemble": (ALONE, {"strategy": "ensemble", "rounds": 2}),
    "fedavg": (ALONE, {"strategy": "fedavg", "rounds": 2, **STEPS}),
    "fedprox": (ALONE, {"strategy": "fedprox", "rounds": 2, "proximal": 0.1, **STEPS}),
    "scaffold": (ALONE, {"strategy": "scaffold", "rounds": 2, **STEPS}),
    "selective": (ALONE, {"strategy": "selective", "rounds": 2, **STEPS}),
    "asynchronous": (ALONE, {"strategy": "asynchronous", "rounds": 3, **STEPS}),
    "round-robin": (ALONE, {"strategy": "round-robin", "rounds": 4, **STEPS}),
    "random-order": (ALONE, {"strategy": "random-order", "rounds": 4, **STEPS}),
    "single-pass": (ALONE, {"strategy": "single-pass", **STEPS}),
    "stochastic": (ALONE, {"strategy": "stochastic", "rounds": 4, **STEPS}),
}


class InProcess:
    """A channel to desks of this process, by their bytes."""

    def __init__(self, desks, keys):
        self._desks, self._keys, self.hospitals = desks, keys, tuple(desks)
        self._exchange = 0

    def ask(self, requests, deadline_s):
        self._exchange += 1
        replies = {}
        for name, request in requests.items():
            [signed] = self._keys.sign(encode_request(request), [name], self._exchange)
            answer = self._desks[name].answer(signed.content)
            replies[name] = decode_reply(self._keys.open(answer, signed), Limits())
        failures = {name: reply for name, reply in replies.items() if isinstance(reply, Failure)}
        return {name: reply for name, reply in replies.items() if name not in failures}, failures


def models(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def in_process(between):
    with ExitStack() as stack:
        desks = {name: stack.enter_context(Desk(between.home(name))) for name in NAMES}
        channel = InProcess(desks, CoordinatorKeys(between.coordinator, between.keys))
        coordinate(between.study, channel, between.keys, between.coordinator, between.folder / "run", Silent())


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_gives_the_same_models_over_each_channel(consortium, flare, without_charts, name):
    found, receipts = {}, {}
    for channel in ("in process", "sockets", "flare"):
        between = consortium(*STUDIES[name], folder=channel.replace(" ", "-"))
        between.accept()
        if channel == "in process":
            in_process(between)
        else:
            between.start()
            flare.lead_to(between.home)
            between.run(over=flare.socket_of if channel == "flare" else None)
            between.stop()
        found[channel] = models(between.folder / "run")
        receipts[channel] = {hospital: one["releases"] for hospital, one in between.receipts().items()}
    assert found["in process"]
    assert found["sockets"] == found["in process"]
    assert found["flare"] == found["in process"], "identical"
    assert receipts["flare"] == receipts["sockets"] == receipts["in process"]
    if name.startswith("masked"):
        run_study(between.study, between.folder / "simulated", Silent())
        assert models(between.folder / "simulated") == found["flare"]
