"""A plan whose noise is whole-number shares: what it promises, against whom, in which words, and what it refuses."""

import math
from dataclasses import replace

import pytest
from tests.agent.masked_rounds import counted_plan, masked_plan
from tests.cases import family
from tests.fixtures_federation import private_plan
from wardround.privacy.variants import not_private, with_shares

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.discrete import DiscreteShares, epsilon_of_parts, epsilon_of_shares
from wardround.accounting.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent, leaves
from wardround.accounting.statement import FLOATING_POINT_CAVEAT
from wardround.accounting.terms import Trust
from wardround.agreed.masks import count_mechanism_of, counting, mechanism_of, shares_of_count
from wardround.agreed.plans import plan_of
from wardround.errors import PrivacyError
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.plans.wording import insiders_of, statement_of
from wardround.randomness import largest_sample
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.integers.ring import WIDEST
from wardround.secure_aggregation.round.agreement import Agreement

MASKED = {"sum": "masked", "num_patients": 32}


def steps(plan):
    return lambda one: SelfComposedEvent(PoissonSampledEvent(plan.sampling_prob, one), plan.releases)


def test_epsilon_is_that_of_the_shares():
    plan = masked_plan()
    assert plan.shares is not None
    assert plan.epsilon == epsilon_of_shares(plan.shares, steps(plan), plan.delta)
    assert plan.noise_multiplier == plan.shares.noise_multiplier >= 1.0
    assert plan.epsilon > masked_plan(noise_multiplier=1.01).epsilon


@pytest.mark.parametrize("num_patients", [32, None], ids=["public", "counted"])
@pytest.mark.parametrize("accountant", family(["pld", "rdp"]))
@pytest.mark.parametrize(("epsilon", "sampling_prob"), family([(1.0, 1.0), (8.0, 0.3)], keep=[(8.0, 0.3)]))
def test_a_promised_epsilon_is_kept_and_hardly_undercut(
    tiny_study, accountant, epsilon, sampling_prob, num_patients
):
    own = {"epsilon": epsilon, "sampling_prob": sampling_prob, "accountant": accountant}
    study = tiny_study(privacy={**MASKED, "num_patients": num_patients, **own})
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
        attempt = Agreement("a run", "ab" * 32, mechanism, 5, "0.1.0").mechanism_for(hospitals, 1)
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


# Counted -------------------------------------------------------------------------------------------------------------


def parts_of(plan, shares, count_shares, counts=1):
    return [(shares, steps(plan)), (count_shares, lambda one: SelfComposedEvent(one, counts))]


def test_a_counted_run_costs_its_sums_and_its_count_and_more_than_one_with_a_public_size():
    counted, public = counted_plan(), masked_plan()
    assert counted.shares == public.shares
    assert counted.epsilon == epsilon_of_parts(
        parts_of(counted, counted.shares, counted.count_shares), counted.delta
    )
    assert counted.epsilon > public.epsilon + 0.01
    assert counted.epsilon_after(0) >= epsilon_of(GaussianEvent(counted.count_noise_multiplier), counted.delta) > 0
    assert counted.epsilon_after(0, 2) > counted.epsilon_after(0)
    assert counted.epsilon_after(5, 3) > counted.epsilon_after(5, 2) > counted.epsilon


@pytest.mark.parametrize("noise_multiplier", [0.7, 2.0, math.pi, 12.3, 400.0])
def test_the_count_is_worth_what_its_shares_give_and_no_less_than_was_asked(noise_multiplier):
    plan = counted_plan(count_noise_multiplier=noise_multiplier)
    mechanism, shares = counting(plan), plan.count_shares
    assert count_mechanism_of(plan) == mechanism
    assert noise_multiplier <= plan.count_noise_multiplier == shares.noise_multiplier
    assert plan.count_noise_multiplier < noise_multiplier * (1 + 2 / mechanism.sensitivity)
    assert shares == shares_of_count(mechanism)
    variance = mechanism.honest * mechanism.share_std**2 - shares.smoothing**2
    assert plan.count_noise_multiplier <= math.sqrt(variance) / mechanism.sensitivity * (1 + 1e-15)


def test_each_insider_knows_as_much_of_the_count_as_of_the_sums():
    plan = counted_plan()
    for row in insiders_of(plan):
        unknown = 5 - row.colluders - row.missing
        if unknown == 0:
            assert row.epsilon == math.inf
            continue
        left = [replace(shares, shares=unknown) for shares in (plan.shares, plan.count_shares)]
        assert row.epsilon == epsilon_of_parts(parts_of(plan, *left), plan.delta)
        assert row.noise_multiplier == left[0].noise_multiplier
        sums_alone = epsilon_of_shares(left[0], steps(plan), plan.delta)
        count_whole = epsilon_of_parts(parts_of(plan, left[0], plan.count_shares), plan.delta)
        assert row.epsilon > sums_alone
        assert (row.epsilon > count_whole) == (unknown < plan.shares.shares)
    [promised] = [row for row in insiders_of(plan) if (row.colluders, row.missing) == (1, 1)]
    assert promised.epsilon == plan.epsilon


@pytest.mark.parametrize("counts", [1, 3])
def test_statement_event_and_epsilon_of_a_counted_run_agree(counts):
    plan = counted_plan()
    statement = statement_of(plan, counts=counts, simulated=True, seeded=False)
    event = plan.event_after(plan.releases, counts)
    assert statement.epsilon == plan.epsilon_after(plan.releases, counts)
    assert statement.epsilon == pytest.approx(epsilon_of(event, plan.delta), rel=1e-12)
    assert statement.epsilon >= epsilon_of(event, plan.delta)
    assert statement.releases == sum(count for _, count in leaves(event)) == plan.releases + counts
    assert dict(leaves(event))[plan.count_event] == counts
    assert ("one noised count" if counts == 1 else "3 noised counts") in statement.released_what
    assert "counted privately" in statement.sentence()


@pytest.mark.parametrize(
    "changes",
    [
        {"count_shares": None},
        {"num_patients": 20},
        {"count_noise_multiplier": 2.1},
        {"count_shares": DiscreteShares(1 << 20, 4, 1 << 19, 1025)},
        {"shares": None},
    ],
    ids=["no shares", "a public size", "more noise than shares", "shares of others", "sums without"],
)
def test_a_count_that_a_plan_cannot_have_is_refused(changes):
    with pytest.raises(PrivacyError):
        replace(counted_plan(), **changes)


def test_shares_of_a_count_that_are_worth_less_than_asked_are_refused():
    plan = private_plan(
        trust=Trust.SECURE_AGGREGATION, hospitals=5, colluders=1, num_patients=None, count_noise_multiplier=2.0
    )
    sized = IntegerMechanism(0.5, 1.0, 1, 5, 1)
    shares = DiscreteShares(sized.share_std, sized.honest, sized.sensitivity, 1 << 30)
    less = shares_of_count(counting(replace(plan, count_noise_multiplier=1.9)))
    with pytest.raises(PrivacyError, match=r"worth noise_multiplier 2.0 at least"):
        with_shares(plan, shares, less)


def test_the_statement_says_what_is_there_and_nothing_of_floating_point():
    statement = statement_of(masked_plan(), simulated=True, seeded=False)
    assert statement.mechanism == "discrete Gaussian on a grid"
    assert FLOATING_POINT_CAVEAT not in statement.caveats
    assert "one process holds all of their keys" in statement.sentence()
    assert "AES-256" in statement.sentence()
    assert "simulated: the noise shares" not in statement.sentence()


def test_the_statement_says_what_of_its_sensitivity_is_not_proved():
    assert "whoever else is" in statement_of(masked_plan(), simulated=True, seeded=False).sentence()


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
    assert not_private(counted_plan()).count_shares is None
