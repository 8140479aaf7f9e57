"""A courier that loses, doubles, delays, reorders, changes, swaps and replays: the run is the run without it."""

import random

import pytest
from tests.transport.consortium import ALONE, MASKED, NAMES
from tests.transport.hosted import hosted

from wardround.coordinator.observer import Silent
from wardround.simulation.run import run_study

STUDIES = {
    "masked": (MASKED, {"rounds": 3}),
    "nobody": (ALONE, {"strategy": "fedavg", "rounds": 4, "local_steps": 2}),
}


class HostileCourier:
    """Does one of its wrongs to a share of the messages; counts them."""

    def __init__(self, share, seed):
        self.share, self.draws = share, random.Random(seed)
        self.messages: dict[str, list[bytes]] = {name: [] for name in NAMES}
        self.answers: list[bytes] = []
        self.wrongs = 0

    def before(self, name, answer):
        def handed(message):
            wrong = self.draws.random() < self.share
            kind = self.draws.randrange(7) if wrong else None
            self.wrongs += wrong
            earlier, others = self.messages[name], list(self.answers)
            if kind == 0:
                return b""  # lost on the way there
            if kind == 1:
                answer(message)
                return b""  # lost on the way back
            if kind == 2:
                answer(message)  # doubled
            if kind == 3 and earlier:
                answer(self.draws.choice(earlier))  # yesterday's, or one that was delayed
            if kind == 4:
                return answer(self.flipped(message))
            if kind == 5 and others:
                return self.draws.choice(others)  # of another request, or of another hospital
            reply = answer(message)
            earlier.append(message)
            self.answers.append(reply)
            return self.flipped(reply) if kind == 6 else reply

        return handed

    def flipped(self, content):
        changed = bytearray(content)
        changed[self.draws.randrange(len(changed))] ^= 1 << self.draws.randrange(8)
        return bytes(changed)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", STUDIES)
def test_a_hostile_courier_changes_neither_the_weights_nor_the_charges(consortium, without_charts, name, seed):
    between = consortium(*STUDIES[name])
    between.accept()
    courier = HostileCourier(0.2, seed)
    with hosted(between, courier.before):
        record = between.run()
    run_study(between.study, between.folder / "simulated", Silent())
    weights = [(between.folder / out / "model.safetensors").read_bytes() for out in ("run", "simulated")]
    assert courier.wrongs > 0
    assert weights[0] == weights[1]
    assert record.certificate["stopped"] is None
    steps = between.study.local_steps
    assert {receipt["releases"] for receipt in between.receipts().values()} == {between.study.rounds * steps}
