"""A plan whose noise is whole-number shares: what it promises, against whom, in which words, and what it refuses."""

import math
from dataclasses import replace

import pytest
from tests.agent.masked_rounds import masked_plan
from tests.fixtures_federation import private_plan

from wardround.accounting.discrete import DiscreteShares, epsilon_of_shares
from wardround.accounting.events import PoissonSampledEvent, SelfComposedEvent
from wardround.accounting.statement import FLOATING_POINT_CAVEAT
from wardround.accounting.terms import Trust
from wardround.agent.masked import mechanism_of
from wardround.errors import PrivacyError
from wardround.privacy.clipping import ClippedSum
from wardround.privacy.promise import insiders_of, statement_of
from wardround.privacy.sampling import largest_sample
from wardround.privacy.variants import not_private, with_shares
from wardround.run.plans import plan_of
from wardround.secure_aggregation.agreement import Agreement
from wardround.secure_aggregation.mechanism import IntegerMechanism
from wardround.secure_aggregation.ring import WIDEST

MASKED = {"sum": "masked", "num_patients": 32}


def steps(plan):
    return lambda one: SelfComposedEvent(PoissonSampledEvent(plan.sampling_prob, one), plan.releases)


def test_epsilon_is_that_of_the_shares():
    plan = masked_plan()
    assert plan.shares is not None
    assert plan.epsilon == epsilon_of_shares(plan.shares, steps(plan), plan.delta)
    assert plan.noise_multiplier == plan.shares.noise_multiplier >= 1.0
    assert plan.epsilon > masked_plan(noise_multiplier=1.01).epsilon


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(("epsilon", "sampling_prob"), [(1.0, 1.0), (8.0, 0.3)])
def test_a_promised_epsilon_is_kept_and_hardly_undercut(tiny_study, accountant, epsilon, sampling_prob):
    study = tiny_study(
        privacy={**MASKED, "epsilon": epsilon, "sampling_prob": sampling_prob, "accountant": accountant}
    )
    plan = plan_of(study)
    assert epsilon * (1 - 2e-3) <= plan.epsilon <= epsilon
    assert statement_of(plan, simulated=True, seeded=False).epsilon == plan.epsilon


def test_the_mechanism_of_a_plan_has_its_sensitivity_and_is_worth_its_noise():
    plan = masked_plan()
    mechanism = mechanism_of(plan, 34, plan.num_patients)
    assert plan.shares is not None
    assert (mechanism.sensitivity, mechanism.honest) == (plan.shares.sensitivity, plan.shares.shares)
    variance = mechanism.honest * mechanism.share_std**2 - plan.shares.smoothing**2
    assert math.sqrt(variance) / mechanism.sensitivity >= plan.noise_multiplier
    with pytest.raises(PrivacyError, match="the one that epsilon was computed for"):
        mechanism_of(plan, 1 << 31, plan.num_patients)
    with pytest.raises(PrivacyError, match="discrete shares"):
        mechanism_of(private_plan(), 34, 20)


@pytest.mark.parametrize(
    ("num_patients", "sampling_prob", "in_a_round"), [(4684, 0.05, 346), (4684, 1.0, 4684), (20, 0.5, 20)]
)
def test_the_ring_is_the_smallest_that_holds_the_sums_of_a_round_s_patients(
    num_patients, sampling_prob, in_a_round
):
    plan = masked_plan(sampling_prob=sampling_prob)
    mechanism = mechanism_of(plan, 34, num_patients)
    assert mechanism.largest_total(in_a_round) < 2 ** (mechanism.ring.bits - 1)
    assert mechanism.largest_total(in_a_round) >= 2 ** (mechanism.ring.bits - 2), "one bit less would not do"
    assert replace(mechanism_of(plan, 34, None), ring=mechanism.ring) == mechanism
    assert mechanism_of(plan, 34, None).ring == WIDEST
    for hospitals in (4, 5):  # an attempt without the dropout that was foreseen
        attempt = Agreement("a run", "ab" * 32, mechanism, 5, "0.1.0").mechanism_for(hospitals)
        assert attempt.ring == mechanism.ring
        assert attempt.largest_sample >= in_a_round


@pytest.mark.parametrize(
    ("sampling_prob", "in_a_round", "bits"), [(0.02, 168, 31), (0.05, 346, 32), (1.0, 4684, 35)]
)
def test_the_rings_on_the_page(sampling_prob, in_a_round, bits):
    assert largest_sample(4684, sampling_prob) == in_a_round
    mechanism = IntegerMechanism(1.0, 1.0, 1, hospitals=10).for_patients(in_a_round)
    assert mechanism.ring.bits == bits
    assert mechanism.for_patients(2 * in_a_round).ring.bits <= bits + 1


def test_each_insider_is_left_with_the_shares_that_it_does_not_know():
    plan = masked_plan()
    rows = {(row.colluders, row.missing): row for row in insiders_of(plan)}
    for (colluding, missing), row in rows.items():
        unknown = 5 - colluding - missing
        if unknown == 0:
            assert row.epsilon == math.inf
            continue
        left = DiscreteShares(1 << 20, unknown, plan.shares.sensitivity, plan.shares.dimension)
        assert row.noise_multiplier == left.noise_multiplier
        assert row.epsilon == epsilon_of_shares(left, steps(plan), plan.delta)
    assert rows[1, 1].epsilon == plan.epsilon, "with the colluders and dropouts foreseen, the promise is exact"
    assert rows[0, 0].epsilon < rows[1, 0].epsilon < rows[1, 1].epsilon < rows[2, 1].epsilon


def test_the_statement_says_what_is_there_and_nothing_of_floating_point():
    statement = statement_of(masked_plan(), simulated=True, seeded=False)
    assert statement.mechanism == "discrete Gaussian on a grid"
    assert FLOATING_POINT_CAVEAT not in statement.caveats
    assert "one process holds all of their keys" in statement.sentence()
    assert "AES-256" in statement.sentence()
    assert "simulated: the noise shares" not in statement.sentence()


def test_floating_point_noise_on_such_a_plan_is_refused():
    import torch

    plan = masked_plan()
    with pytest.raises(PrivacyError, match="leaves a hospital under masks"):
        plan.hospital_release(ClippedSum(torch.zeros(3), plan.clipping_norm), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"trust": Trust.NOBODY, "colluders": 0, "dropouts": 0},
        {"num_patients": None},
        {"colluders": 2},
        {"noise_multiplier": 1.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_shares_that_a_plan_cannot_have_are_refused(changes):
    sized = IntegerMechanism(0.5, 1.0, 1, 5, 1, 1)
    shares = DiscreteShares(sized.share_std, sized.honest, sized.sensitivity, 1 << 30)
    good = {"trust": Trust.SECURE_AGGREGATION, "colluders": 1, "dropouts": 1, "hospitals": 5}
    with pytest.raises(PrivacyError):
        with_shares(private_plan(**(good | changes)), shares)


def test_the_same_run_without_noise_has_no_shares():
    assert not_private(masked_plan()).shares is None
