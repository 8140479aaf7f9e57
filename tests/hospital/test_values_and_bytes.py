"""By values and by bytes, a hospital gives the same replies: whole runs, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from tests.cases import family
from tests.federation.known import state_after
from tests.fixtures_federation import STUDY, noiser_by, private_plan, without_noise
from tests.hospital.bytes_channel import BytesChannel
from tests.hospital.masked_rounds import (
    counted_plan,
    hospitals_of,
    ledgers,
)

from wardround.federation.aggregators import PlainSum
from wardround.federation.channel import InProcessChannel
from wardround.federation.local_training import LocalTraining, Repair
from wardround.federation.strategies.fedavg import FedAvg
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategies.one_shot import OneShot
from wardround.federation.strategy import Call
from wardround.federation.timetable import Order, Timetable
from wardround.noisers import Trust
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.correlated import Correlation
from wardround.privacy.output_perturbation import OutputPerturbation
from wardround.privacy.plans.kinds import NoisedHead
from wardround.privacy.plans.plan import Plan
from wardround.reproduce.mechanisms.selective.strategy import Selective
from wardround.work import (
    HeadFit,
)

CALL = Call(STUDY)
FIT = HeadFit(0.05, 1.0, 4.0)


def by_values(hospitals):
    """The hospitals' own replies as values, one by one."""
    return InProcessChannel(
        tuple(hospitals), lambda requests: {n: hospitals[n].reply(request) for n, request in requests.items()}
    )


def fedsgd(num_patients=12, **changes):
    return replace(FedSGD(CALL, PlainSum(), 0.4, 0.6, 0.5, num_patients), **changes)


def local(**changes):
    return replace(LocalTraining(CALL, 2, 0.4, 0.6, 0.5, 12), **changes)


NORM = AdaptiveNorm()
RUNS = {
    "fedsgd": (private_plan(), fedsgd()),
    "fedsgd after a count": (private_plan(num_patients=None), fedsgd(None)),
    "fedsgd under an adaptive norm": (private_plan(rule=NORM), fedsgd(clipping_norm=0.5, adaptive=NORM)),
    "fedsgd under correlated noise": (private_plan(correlation=Correlation(5, 2, 2, 0.9)), fedsgd()),
    "fedsgd without noise": (without_noise(private_plan(sampling_prob=0.5)), fedsgd()),
    "local steps": (private_plan(), FedAvg(local(keep_velocity=True), PlainSum(), Timetable(3))),
    "local steps by class": (
        private_plan(num_patients=None),
        FedAvg(local(num_patients=None, repair=Repair.WEIGHTED_LOSS), PlainSum(), Timetable(3)),
    ),
    "selective": (
        private_plan(),
        Selective(local(), Timetable(3, Order.FIXED), 0.5, 0.2, False, 0.0, 0.02, 0.9),
    ),
    "a head": (
        Plan((NoisedHead(OutputPerturbation(FIT, 1.0), noiser_by(Trust.NOBODY, 3)),), 1e-5),
        OneShot(CALL, PlainSum(), FIT),
    ),
}


@pytest.mark.parametrize("name", family(RUNS, keep=list(RUNS)[::3]))
def test_by_values_and_by_bytes_a_run_is_the_same_bit_for_bit(make_federation, name):
    plan, strategy = RUNS[name]
    rounds = 1 if name == "a head" else 3
    states, charged = [], []
    for channel_of in (by_values, BytesChannel):
        federation = make_federation(plan=plan)
        federation.channel = channel_of(hospitals_of(federation))
        states.append(state_after(strategy, federation, rounds))
        charged.append(ledgers(federation))
    assert set(states[0]) == set(states[1])
    for key, values in states[0].items():
        np.testing.assert_array_equal(values, states[1][key], strict=True)
    assert charged[0] == charged[1]
    assert all(charged[0].values())

    batched = make_federation(plan=plan)
    for key, values in state_after(strategy, batched, rounds).items():
        # Common batches add in another order: a few roundings of float32.
        np.testing.assert_allclose(values, states[0][key], rtol=1e-4, atol=1e-6)
    assert ledgers(batched) == charged[0]


def masked_run(masked, channel):
    strategy = FedSGD(Call(STUDY, allowed_missing=1), masked.aggregator, 0.4, 0.9, 0.5, None)
    masked.federation.channel = channel
    state = state_after(strategy, masked.federation, 3)
    masked.aggregator.close(channel, 60.0)
    return state


def test_by_values_and_by_bytes_a_masked_run_is_the_same(make_masked):
    """The count before round 1 and three rounds: weights, charges, and what the witnesses showed."""
    values, wire = make_masked("values", plan=counted_plan()), make_masked("bytes", plan=counted_plan())
    states = [masked_run(values, values.channel), masked_run(wire, BytesChannel(wire.hospitals))]
    for key, found in states[0].items():
        np.testing.assert_array_equal(found, states[1][key], strict=True)
    assert not np.array_equal(states[0]["weights"], values.federation.weights)
    assert ledgers(values.federation) == ledgers(wire.federation)
    assert {len(entries) for entries in ledgers(wire.federation).values()} == {4}
    assert values.aggregator.witnesses == wire.aggregator.witnesses
    for name, party in values.parties.items():
        assert party.notes.witness == wire.parties[name].notes.witness
