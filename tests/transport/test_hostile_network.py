"""A hostile courier: a run completes or stops with a reason, every release is charged, and none is charged twice."""

from contextlib import contextmanager, suppress

import pytest
from tests.charges import charges_in
from tests.transport.consortium import ALONE, MASKED, NAMES
from tests.transport.hostile_network import CUT, HARMFUL, HARMLESS, Hostile
from tests.transport.test_killed import simulated

from wardround.errors import FederationError
from wardround.federation.messages import Answer, Uploaded
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, decode_request
from wardround.transport import server, unix
from wardround.work import LocalUpdate, Upload

pytestmark = pytest.mark.thorough

STUDIES = {
    "masked": (MASKED, {"rounds": 8}),
    "nobody": (ALONE, {"strategy": "fedavg", "rounds": 24, "local_steps": 2}),
}


@contextmanager
def hostile(between, ills, seed, yesterday=None):
    """A hostile courier for each hospital, by name."""
    made = {}
    try:
        for number, name in enumerate(NAMES):
            made[name] = Hostile(
                between.folder / f"{name}.ill",
                between.home(name) / "agent.sock",
                seed=10 * seed + number,
                ills=ills,
                yesterday=[] if yesterday is None else yesterday[name],
            )
        yield made
    finally:
        for one in made.values():
            one.close()


def run(between, couriers):
    return between.run(over=lambda name: couriers[name].path)


@pytest.fixture
def yesterday(consortium, without_charts, request):
    """The messages of another run of the same study, with other keys."""
    name = request.node.callspec.params.get("name", "masked")
    between = consortium(*STUDIES[name], folder="yesterday")
    between.accept()
    between.start()
    with hostile(between, (), 0) as couriers:
        run(between, couriers)
    between.stop()
    return {name: one.exchanged for name, one in couriers.items()}


def charges_of(between, name):
    [found] = charges_in(between.home(name) / "ledger.sqlite").values()
    return len(found)


def decoded(decode, message):
    """The body behind a signature as a value, or None where it is none."""
    start = message.find(b"wardround\0")
    try:
        return decode(message[start:], Limits()) if start >= 0 else None
    except FederationError:
        return None


def check_ledgers(between, couriers):
    """Every release that left an agent is charged, and no more was charged than was asked for with other bytes."""
    for name, one in couriers.items():
        released = {
            reply for _, reply in one.exchanged if isinstance(decoded(decode_reply, reply), Answer | Uploaded)
        }
        asked = {
            message
            for message, _ in one.exchanged
            if (request := decoded(decode_request, message)) and isinstance(request.work, Upload | LocalUpdate)
        }
        assert len(released) <= charges_of(between, name) <= len(asked), "never short, never twice"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Parties, which are processes forked from this one, soon ask again for what was cut."""
    monkeypatch.setattr(unix, "_STALLED_S", 0.5)
    monkeypatch.setattr(server, "_STALLED_S", 0.5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", STUDIES)
def test_a_run_survives_what_a_network_may_do(consortium, without_charts, yesterday, name, seed):
    between = consortium(*STUDIES[name])
    between.accept()
    between.start()
    with hostile(between, HARMLESS, seed, yesterday) as couriers:
        record = run(between, couriers)
    assert sum(len(one.done) for one in couriers.values()) >= 3
    assert record.certificate["stopped"] is None
    assert (between.folder / "run" / "model.safetensors").read_bytes() == simulated(between), "identical"
    assert {charges_of(between, hospital) for hospital in NAMES} == {between.study.rounds}, (
        "each round is charged once"
    )
    check_ledgers(between, couriers)
    between.stop()


def test_a_run_survives_cut_messages(consortium, without_charts):
    """Over connections that stay open, so that nothing but the silence tells that the rest will not come."""
    between = consortium(*STUDIES["masked"])
    between.accept()
    between.start()
    with hostile(between, CUT, 0) as couriers:
        record = run(between, couriers)
    assert {ill for one in couriers.values() for ill in one.done} == set(CUT)
    assert record.certificate["stopped"] is None
    check_ledgers(between, couriers)
    between.stop()


@pytest.mark.parametrize("seed", range(6))
def test_a_run_completes_or_stops_with_a_reason(consortium, without_charts, yesterday, seed):
    """Without a seed each further attempt is a release of its own, which the study pays for or refuses."""
    between = consortium({**MASKED, "spare_attempts": 2}, STUDIES["masked"][1], seed=None)
    between.accept()
    between.start()
    with hostile(between, HARMLESS + HARMFUL, seed, yesterday) as couriers, suppress(FederationError):
        run(between, couriers)  # the error is the reason; any other fails
    check_ledgers(between, couriers)
    assert all(charges_of(between, hospital) <= between.study.rounds + 2 for hospital in NAMES)
    between.stop()
