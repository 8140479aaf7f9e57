"""A plan whose noise is whole-number shares: what it promises, against whom, in which words, and what it refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import plans
from tests.cases import family

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.discrete import DiscreteShares, epsilon_of_parts
from wardround.accounting.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent, leaves
from wardround.accounting.statement import FLOATING_POINT_CAVEAT
from wardround.agreed.masks import COUNT_COORDINATES, count_mechanism_of, fitting, mechanism_of, shares_for
from wardround.agreed.plans import plan_of
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.calibrate import not_private, with_shares
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.kinds import PublicSize
from wardround.privacy.plans.releases import noised_counts, noised_sum
from wardround.privacy.plans.wording import statement_of
from wardround.randomness import Randomness
from wardround.randomness.sampling import largest_sample
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.integers.ring import WIDEST
from wardround.secure_aggregation.round.agreement import Agreement

STREAM = Randomness(5, "masked").stream("noise")
MASKED = {"sum": "masked", "num_patients": 32}


def shares_of(plan):
    assert plan.masked is not None
    return plan.masked


def count_of(plan):
    return plans.count_of(plan).noise


def steps(plan):
    return lambda one: SelfComposedEvent(
        PoissonSampledEvent(plans.training_of(plan).sampling_prob, one), plan.releases
    )


def test_epsilon_is_that_of_the_shares():
    plan = plans.masked()
    assert plan.epsilon == epsilon_of_parts([(shares_of(plan), steps(plan))], plan.delta)
    assert shares_of(plan).noise_multiplier >= 1.0
    assert plan.epsilon > plans.masked(noise=GaussianEvent(1.01)).epsilon


@pytest.mark.parametrize("num_patients", family([32, None], keep=[None]), ids=["public", "counted"])
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


def test_the_mechanism_of_a_plan_has_its_sensitivity_and_its_noise():
    plan = plans.masked()
    mechanism, shares = mechanism_of(plan, 34), shares_of(plan)
    assert (mechanism.sensitivity, mechanism.shares.honest) == (shares.sensitivity, shares.shares)
    variance = mechanism.shares.honest * mechanism.share_std**2 - shares.smoothing**2
    assert math.sqrt(variance) / mechanism.sensitivity >= shares.noise_multiplier
    with pytest.raises(PrivacyError, match="the one that epsilon was computed for"):
        mechanism_of(plan, 1 << 31)
    with pytest.raises(PrivacyError, match="discrete shares"):
        mechanism_of(plans.plan(plans.gradients()), 34)


@pytest.mark.parametrize(
    ("num_patients", "sampling_prob", "in_a_round"), [(4684, 0.05, 350), (4684, 1.0, 5173), (20, 0.5, 39)]
)
def test_the_ring_is_the_smallest_that_holds_a_rounds_sums(num_patients, sampling_prob, in_a_round):
    plan = plans.masked(sampling_prob=sampling_prob, size=PublicSize(num_patients))
    widest = mechanism_of(plan, 34)
    mechanism = fitting(widest, plan)
    assert mechanism.largest_total(in_a_round) < 2 ** (mechanism.ring.bits - 1)
    assert mechanism.largest_total(in_a_round) >= 2 ** (mechanism.ring.bits - 2), "one bit less would not do"
    assert replace(widest, ring=mechanism.ring) == mechanism
    assert widest.ring == WIDEST
    for hospitals in (4, 5):  # an attempt without the dropout that was foreseen
        attempt = Agreement("a run", "ab" * 32, mechanism, 5, "0.1.0").mechanism_for(hospitals, 1)
        assert attempt.ring == mechanism.ring
        assert attempt.largest_sample >= in_a_round


def test_where_patients_are_counted_the_ring_stays_the_widest():
    plan = plans.masked_and_counted()
    assert fitting(mechanism_of(plan, 34), plan).ring == WIDEST


@pytest.mark.parametrize(
    ("sampling_prob", "in_a_round", "bits"), [(0.02, 169, 31), (0.05, 350, 32), (1.0, 5173, 35)]
)
def test_the_rings_on_the_page(sampling_prob, in_a_round, bits):
    assert largest_sample(4684, sampling_prob) == in_a_round
    mechanism = IntegerMechanism(1.0, 1.0, 1, NoiseShares(10)).for_patients(in_a_round)
    assert mechanism.ring.bits == bits
    assert mechanism.for_patients(2 * in_a_round).ring.bits <= bits + 1


def test_each_insider_is_left_with_the_shares_that_it_does_not_know():
    plan = plans.masked()
    rows = {(row.colluders, row.missing): row for row in insiders_of(plan)}
    for (colluding, missing), row in rows.items():
        unknown = 5 - colluding - missing
        if unknown == 0:
            assert row.epsilon == math.inf
            continue
        left = DiscreteShares(1 << 20, unknown, shares_of(plan).sensitivity, shares_of(plan).dimension)
        assert row.noise_multiplier == left.noise_multiplier
        assert row.epsilon == epsilon_of_parts([(left, steps(plan))], plan.delta)
    assert rows[1, 1].epsilon == plan.epsilon, "with the colluders and dropouts foreseen, the promise is exact"
    assert rows[0, 0].epsilon < rows[1, 0].epsilon < rows[1, 1].epsilon < rows[2, 1].epsilon


# Counted -------------------------------------------------------------------------------------------------------------


def parts_of(plan, shares, count_shares, counts=1):
    return [(shares, steps(plan)), (count_shares, lambda one: SelfComposedEvent(one, counts))]


def test_a_counted_run_costs_its_sums_and_its_count():
    """And so more than one of a public size."""
    counted, public = plans.masked_and_counted(), plans.masked()
    assert shares_of(counted) == shares_of(public)
    assert counted.epsilon == epsilon_of_parts(
        parts_of(counted, shares_of(counted), count_of(counted)), counted.delta
    )
    assert counted.epsilon > public.epsilon + 0.01
    assert counted.epsilon_after(0) >= epsilon_of(GaussianEvent(count_of(counted).noise_multiplier), 1e-5) > 0
    assert counted.epsilon_after(0, 2) > counted.epsilon_after(0)
    assert counted.epsilon_after(5, 3) > counted.epsilon_after(5, 2) > counted.epsilon


@pytest.mark.parametrize("noise_multiplier", [0.7, 2.0, math.pi, 12.3, 400.0])
def test_the_count_is_worth_what_its_shares_give_and_no_less(noise_multiplier):
    plan = plans.masked_and_counted(noise_multiplier=noise_multiplier)
    mechanism, shares = count_mechanism_of(plan), count_of(plan)
    assert mechanism is not None
    assert (shares.share_std, shares.shares) == (mechanism.share_std, mechanism.shares.honest)
    assert (shares.sensitivity, shares.dimension) == (mechanism.sensitivity, mechanism.dimension)
    assert noise_multiplier <= shares.noise_multiplier < noise_multiplier * (1 + 2 / mechanism.sensitivity)
    variance = mechanism.shares.honest * mechanism.share_std**2 - shares.smoothing**2
    assert shares.noise_multiplier <= math.sqrt(variance) / mechanism.sensitivity * (1 + 1e-15)


@pytest.mark.thorough
def test_each_insider_knows_as_much_of_the_count_as_of_the_sums():
    plan = plans.masked_and_counted()
    for row in insiders_of(plan):
        unknown = 5 - row.colluders - row.missing
        if unknown == 0:
            assert row.epsilon == math.inf
            continue
        left = [replace(shares, shares=unknown) for shares in (shares_of(plan), count_of(plan))]
        assert row.epsilon == epsilon_of_parts(parts_of(plan, *left), plan.delta)
        assert row.noise_multiplier == left[0].noise_multiplier
        sums_alone = epsilon_of_parts([(left[0], steps(plan))], plan.delta)
        count_whole = epsilon_of_parts(parts_of(plan, left[0], count_of(plan)), plan.delta)
        assert row.epsilon > sums_alone
        assert (row.epsilon > count_whole) == (unknown < shares_of(plan).shares)
    [promised] = [row for row in insiders_of(plan) if (row.colluders, row.missing) == (1, 1)]
    assert promised.epsilon == plan.epsilon


@pytest.mark.parametrize("counts", [1, 3])
def test_statement_event_and_epsilon_of_a_counted_run_agree(counts):
    plan = plans.masked_and_counted()
    statement = statement_of(plan, counts=counts, simulated=True, seeded=False)
    event = plan.event_after(plan.releases, counts)
    assert statement.epsilon == plan.epsilon_after(plan.releases, counts)
    assert statement.epsilon == pytest.approx(epsilon_of(event, plan.delta), rel=1e-12)
    assert statement.epsilon >= epsilon_of(event, plan.delta)
    assert statement.releases == sum(count for _, count in leaves(event)) == plan.releases + counts
    assert (release_event(plans.count_of(plan)), counts) in leaves(event)
    assert ("one noised count" if counts == 1 else "3 noised counts") in statement.released_what
    assert "counted with noise" in statement.sentence()


COUNTED = plans.masked_and_counted()
COUNT, SUMS = plans.count_of(COUNTED), plans.training_of(COUNTED)
OTHERS = DiscreteShares(1 << 20, 4, 1 << 19, 1025)
FLOATING = plans.counted(plans.gradients(noiser=NoiseShares(5, 1, 1)))
FLOATING_COUNT, FLOATING_SUMS = plans.count_of(FLOATING), plans.training_of(FLOATING)


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(COUNTED, parts=(FLOATING_COUNT, SUMS)),
        lambda: replace(COUNTED, parts=(COUNT, replace(SUMS, size=PublicSize(20)))),
        lambda: with_shares(plans.counted(FLOATING_SUMS, 2.1), SUMS.noise, COUNT.noise),
        lambda: replace(COUNT, noise=OTHERS),
        lambda: replace(COUNTED, parts=(COUNT, FLOATING_SUMS)),
    ],
    ids=["no shares", "a public size", "more noise than shares", "shares of others", "sums without"],
)
def test_a_count_that_a_plan_cannot_have_is_refused(make):
    with pytest.raises(PrivacyError):
        make()


def test_shares_of_a_count_that_are_worth_less_than_asked_are_refused():
    noiser = NoiseShares(5, 1)
    plan = plans.counted(plans.gradients(noiser=noiser), 2.0)
    shares, less = shares_for(1.0, 0.5, 1 << 30, noiser), shares_for(1.9, 1.0, COUNT_COORDINATES, noiser)
    with pytest.raises(PrivacyError, match=r"worth noise_multiplier 2.0 at least"):
        with_shares(plan, shares, less)


def test_the_statement_says_what_is_there_and_nothing_of_floating_point():
    statement = statement_of(plans.masked(), simulated=True, seeded=False)
    assert statement.mechanism == "discrete Gaussian on a grid"
    assert FLOATING_POINT_CAVEAT not in statement.caveats
    assert "one process holds all of their keys" in statement.sentence()
    assert "AES-256" in statement.sentence()
    assert "simulated: the noise shares" not in statement.sentence()


def test_the_statement_says_what_of_its_sensitivity_is_not_proved():
    assert "beside all possible others" in statement_of(plans.masked(), simulated=True, seeded=False).sentence()


def test_floating_point_noise_on_such_a_plan_is_refused():
    plan = plans.masked_and_counted()
    with pytest.raises(PrivacyError, match="leaves a hospital under masks"):
        noised_sum(plan.training, ClippedSum(torch.zeros(3), 0.5), STREAM)
    with pytest.raises(PrivacyError, match="leaves a hospital under masks"):
        noised_counts(plan.count, np.zeros(1), STREAM)


@pytest.mark.parametrize(
    "make",
    [
        lambda shares: plans.gradients(noise=shares, noiser=ByEachHospital(5)),
        lambda shares: plans.gradients(noise=shares, noiser=ByCoordinator(5)),
        lambda shares: with_shares(plans.counted(plans.gradients(noiser=NoiseShares(5, 1, 1))), shares),
        lambda shares: plans.gradients(noise=shares, noiser=NoiseShares(5, 2, 1)),
        lambda shares: with_shares(
            plans.plan(plans.gradients(noiser=NoiseShares(5, 1, 1), noise=GaussianEvent(1.1))), shares
        ),
    ],
    ids=["nobody", "coordinator", "counted", "colluders", "noise_multiplier"],
)
def test_shares_that_a_plan_cannot_have_are_refused(make):
    with pytest.raises(PrivacyError):
        make(shares_for(1.0, 0.5, 1 << 30, NoiseShares(5, 1, 1)))


def test_the_same_run_without_noise_has_no_shares():
    for plan in (plans.masked(), plans.masked_and_counted()):
        made = not_private(plan, 5)
        assert (made.masked, made.count) == (None, None)
