import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.variants import calibrated, not_private, with_noise

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent, NonPrivateEvent, PoissonSampledEvent, SelfComposedEvent
from wardround.accounting.terms import Trust
from wardround.errors import PrivacyError
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.plans.wording import insiders_of, statement_of
from wardround.randomness import Randomness

PLAN = PrivacyPlan(
    noise_multiplier=2.0, clipping_norm=0.5, sampling_prob=0.1, releases=50, delta=1e-5,
    trust=Trust.SECURE_AGGREGATION, hospitals=5, colluders=1, dropouts=1, num_patients=1000,
)  # fmt: skip
RANDOMNESS = Randomness(11, "plan")
SIZE = 30_000


def zeros(sensitivity=0.5):
    return ClippedSum(torch.zeros(SIZE, dtype=torch.float64), sensitivity)


def shares(plan, names):
    return [plan.hospital_release(zeros(), RANDOMNESS.stream(name, "noise", 1)) for name in names]


def is_normal(values, std):
    return stats.kstest(values / std, "norm").pvalue > 1e-4


def test_the_sum_of_the_honest_shares_has_the_promised_noise_and_no_other():
    # Five hospitals; one colludes and one is missing: three shares are left, and they carry the whole promise.
    left = np.sum(shares(PLAN, ["a", "b", "c"]), axis=0)
    promised = PLAN.noise_multiplier * PLAN.clipping_norm
    assert is_normal(left, promised)
    assert not is_normal(left, promised * 2 / 3)
    assert not is_normal(left, promised * 3 / 2)


def test_noise_shares_over_hospitals_are_distributed_as_the_coordinators_noise():
    shared = np.sum(shares(replace(PLAN, colluders=0, dropouts=0), ["a", "b", "c", "d", "e"]), axis=0)
    central = replace(PLAN, trust=Trust.COORDINATOR).coordinator_noise(SIZE, RANDOMNESS.stream("coordinator"))
    assert stats.ks_2samp(shared, central).pvalue > 1e-4
    assert is_normal(central, 1.0)


def test_each_trust_puts_the_noise_where_it_says():
    for trust, hospital, coordinator in (
        (Trust.COORDINATOR, 0.0, 1.0),
        (Trust.NOBODY, 1.0, 0.0),
        (Trust.SECURE_AGGREGATION, 1.0 / math.sqrt(3), 0.0),
    ):
        plan = replace(PLAN, trust=trust)
        noise = plan.hospital_release(zeros(), RANDOMNESS.stream("x")).std()
        assert noise == pytest.approx(hospital, rel=0.02)
        assert plan.coordinator_noise(SIZE, RANDOMNESS.stream("y")).std() == pytest.approx(coordinator, rel=0.02)


def test_an_empty_sample_is_noised_like_any_other():
    [share] = shares(PLAN, ["empty"])
    assert share.std() > 0.5


def test_a_sum_with_a_larger_sensitivity_than_the_plan_noises_for_is_refused():
    with pytest.raises(PrivacyError, match=r"sensitivity <= 0\.5"):
        PLAN.hospital_release(zeros(0.6), RANDOMNESS.stream("x"))


def test_sampler_and_event_come_from_the_same_field():
    assert PLAN.release_event == PoissonSampledEvent(0.1, GaussianEvent(2.0))
    sizes = [len(PLAN.sample(1000, RANDOMNESS.stream("s", i))) for i in range(200)]
    assert np.mean(sizes) == pytest.approx(100, rel=0.05)


def test_epsilon_is_the_accountants_word_on_all_releases():
    assert PLAN.epsilon == epsilon_of(SelfComposedEvent(PLAN.release_event, 50), 1e-5)
    assert PLAN.epsilon_after(10) < PLAN.epsilon
    assert PLAN.epsilon_after(0) == 0


def test_calibration_lands_on_the_private_side_with_and_without_a_count():
    for num_patients in (1000, None):
        plan = calibrated(replace(PLAN, num_patients=num_patients), 3.0)
        assert 2.99 < plan.epsilon <= 3.0
    assert plan.count_noise_multiplier > plan.noise_multiplier


def test_the_private_count_is_charged_and_noised():
    counted = with_noise(replace(PLAN, num_patients=None), 2.0)
    assert counted.epsilon > PLAN.epsilon
    assert counted.epsilon_after(0) > 0
    draws = np.array([counted.hospital_count(40, RANDOMNESS.stream("count", i))[0] for i in range(400)])
    share = counted.count_noise_multiplier / math.sqrt(3)
    assert draws.std() == pytest.approx(share, rel=0.15)
    assert draws.mean() == pytest.approx(40, abs=5 * share / 20)


def test_a_plan_without_privacy_has_infinite_epsilon_and_adds_nothing():
    plan = not_private(PLAN)
    assert plan.epsilon == math.inf
    assert plan.release_event == NonPrivateEvent()
    assert plan.clipping_norm == math.inf
    assert not shares(plan, ["a"])[0].any()
    assert not plan.coordinator_noise(5, RANDOMNESS.stream("x")).any()
    assert not_private(PLAN, clipped=True).clipping_norm == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling_prob": 0.0}, "sampling_prob"),
        ({"sampling_prob": 1.5}, "sampling_prob"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"clipping_norm": math.inf}, "must clip"),
        ({"colluders": 4}, "hospitals"),
        ({"releases": 0}, "at least one release"),
    ],
)
def test_a_plan_that_promises_nothing_is_refused(change, message):
    with pytest.raises(PrivacyError, match=message):
        replace(PLAN, **change)


def test_the_statement_says_all_that_the_promise_rests_on():
    sentence = statement_of(PLAN, simulated=True, seeded=True).sentence()
    for part in (
        "epsilon", "delta = 1e-05", "patient", "add-or-remove-one", "probability 0.1", "Gaussian",
        "50 releases", "1000 patients, is a public constant", "simulated", "reproducible, not private",
        "8 images", "floating-point",
    ):  # fmt: skip
        assert part in sentence, part


def test_the_statement_of_a_plan_without_privacy_promises_nothing():
    sentence = statement_of(not_private(PLAN), simulated=True, seeded=False).sentence()
    assert "no privacy guarantee" in sentence
    assert "infinity" in sentence


def test_against_the_foreseen_colluders_and_dropouts_the_table_says_the_promise():
    plan = calibrated(replace(PLAN, num_patients=None), 3.0)
    rows = {(row.colluders, row.missing): row.epsilon for row in insiders_of(plan)}
    assert rows[1, 1] == pytest.approx(plan.epsilon, rel=1e-6)
    assert rows[0, 0] < rows[1, 0] < rows[1, 1] < rows[2, 1]
