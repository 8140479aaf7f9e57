"""A plan of noised gradients: its noise, its epsilon, the plans that follow from it, and its statement."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tests import plans
from tests.names import names

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import GaussianEvent, NonPrivateEvent, PoissonSampledEvent, SelfComposedEvent
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.calibrate import alone, calibrated, not_private, with_noise
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.kinds import Clip, NotPrivate, PublicSize
from wardround.privacy.plans.releases import coordinator_noise, noised_counts, noised_sum, sample
from wardround.privacy.plans.wording import statement_of
from wardround.randomness import Randomness

SUMS = plans.gradients(
    noise=GaussianEvent(2.0), sampling_prob=0.1, releases=50, size=PublicSize(1000), noiser=NoiseShares(5, 1, 1)
)
PLAN = plans.plan(SUMS)
COUNTED = plans.counted(SUMS)
COUNT, COUNTED_SUMS = plans.count_of(COUNTED), plans.training_of(COUNTED)
RANDOMNESS = Randomness(11, "plan")
SIZE = 30_000


def zeros(sensitivity=0.5):
    return ClippedSum(torch.zeros(SIZE, dtype=torch.float64), sensitivity)


def shares(part, names):
    return [noised_sum(part, zeros(), RANDOMNESS.stream(name, "noise", 1)) for name in names]


def is_normal(values, std):
    return stats.kstest(values / std, "norm").pvalue > 1e-4


def test_the_sum_of_the_honest_shares_has_the_promised_noise():
    """Five hospitals; one colludes and one is missing: three shares are left, and they carry the whole promise."""
    left = np.sum(shares(SUMS, ["a", "b", "c"]), axis=0)
    promised = SUMS.noise.noise_multiplier * SUMS.clip.norm
    assert is_normal(left, promised)
    assert not is_normal(left, promised * 2 / 3)
    assert not is_normal(left, promised * 3 / 2)


def test_noise_shares_are_distributed_as_the_coordinators_noise():
    shared = np.sum(shares(replace(SUMS, noiser=NoiseShares(5, 0, 0)), ["a", "b", "c", "d", "e"]), axis=0)
    central = coordinator_noise(replace(SUMS, noiser=ByCoordinator(5)), SIZE, RANDOMNESS.stream("coordinator"))
    assert stats.ks_2samp(shared, central).pvalue > 1e-4
    assert is_normal(central, 1.0)


@pytest.mark.parametrize(
    ("noiser", "hospital", "coordinator"),
    [
        (ByCoordinator(5), 0.0, 1.0),
        (ByEachHospital(5), 1.0, 0.0),
        (NoiseShares(5, 1, 1), 1.0 / math.sqrt(3), 0.0),
    ],
    ids=["coordinator", "each hospital", "shares"],
)
def test_each_noiser_puts_the_noise_where_it_says(noiser, hospital, coordinator):
    part = replace(SUMS, noiser=noiser)
    noise = noised_sum(part, zeros(), RANDOMNESS.stream("x")).std()
    assert noise == pytest.approx(hospital, rel=0.02)
    assert coordinator_noise(part, SIZE, RANDOMNESS.stream("y")).std() == pytest.approx(coordinator, rel=0.02)


@pytest.mark.parametrize("hospitals", [2, 5])
def test_the_noise_of_several_hospitals_is_one_draw_of_their_sum(hospitals):
    std = hospitals**0.5 / math.sqrt(3)
    assert is_normal(noised_sum(SUMS, zeros(), RANDOMNESS.stream("all"), hospitals), std)


def test_an_empty_sample_is_noised_like_any_other():
    [share] = shares(SUMS, ["empty"])
    assert share.std() > 0.5


def test_a_sum_of_larger_sensitivity_than_the_noise_is_for_is_refused():
    with pytest.raises(PrivacyError, match=r"sensitivity <= 0\.5"):
        noised_sum(SUMS, zeros(0.6), RANDOMNESS.stream("x"))


def test_sampler_and_event_come_from_the_same_field():
    assert release_event(SUMS) == PoissonSampledEvent(0.1, GaussianEvent(2.0))
    sizes = [len(sample(SUMS, names(1000), RANDOMNESS.stream("s", i))) for i in range(200)]
    assert np.mean(sizes) == pytest.approx(100, rel=0.05)


def test_epsilon_is_the_accountants_word_on_all_releases():
    assert PLAN.epsilon == epsilon_of(SelfComposedEvent(release_event(SUMS), 50), 1e-5)
    assert PLAN.epsilon_after(10) < PLAN.epsilon
    assert PLAN.epsilon_after(0) == 0


@pytest.mark.thorough
def test_calibration_lands_on_the_private_side_with_and_without_a_count():
    for asked in (PLAN, COUNTED):
        made = calibrated(asked, 3.0)
        assert 2.99 < made.epsilon <= 3.0
    assert plans.count_of(made).noise.noise_multiplier > plans.training_of(made).noise.noise_multiplier


def test_the_private_count_is_charged_and_noised():
    counted = with_noise(COUNTED, 2.0)
    assert counted.epsilon > PLAN.epsilon
    assert counted.epsilon_after(0) > 0
    patients = np.array([40.0])
    draws = [noised_counts(counted.count, patients, RANDOMNESS.stream("count", i))[0] for i in range(400)]
    share = plans.count_of(counted).noise.noise_multiplier / math.sqrt(3)
    assert np.std(draws) == pytest.approx(share, rel=0.15)
    assert np.mean(draws) == pytest.approx(40, abs=5 * share / 20)


def test_a_plan_without_privacy_has_infinite_epsilon_and_adds_nothing():
    made = not_private(PLAN, 50)
    assert made.epsilon == math.inf
    assert release_event(made.training) == NonPrivateEvent()
    assert plans.training_of(made).clip == SUMS.clip, "what differs from the private run is the noise alone"
    assert not shares(made.training, ["a"])[0].any()
    assert not coordinator_noise(made.training, 5, RANDOMNESS.stream("x")).any()


def test_alone_each_hospital_adds_all_of_the_noise_to_its_own():
    made = alone(COUNTED, 1, 7)
    assert (made.noiser, plans.count_of(made).noiser, made.releases) == (ByEachHospital(1), ByEachHospital(1), 7)
    assert is_normal(noised_sum(made.training, zeros(), RANDOMNESS.stream("alone")), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(SUMS, sampling_prob=0.0), "sampling_prob"),
        (lambda: replace(SUMS, sampling_prob=1.5), "sampling_prob"),
        (lambda: replace(SUMS, clip=Clip(math.inf)), "must clip"),
        (lambda: replace(SUMS, clip=Clip(math.nan)), "must clip"),
        (lambda: replace(SUMS, releases=0), "at least one release"),
        (lambda: replace(SUMS, noise=GaussianEvent(0.0)), "noise_multiplier"),
        (lambda: replace(SUMS, noise=GaussianEvent(math.inf)), "noise_multiplier"),
        (lambda: replace(SUMS, noiser=NoiseShares(5, 4, 1)), "hospitals"),
        (lambda: replace(SUMS, noiser=ByEachHospital(0)), "hospitals must be >= 1"),
        (lambda: replace(SUMS, noiser=ByCoordinator(0)), "hospitals must be >= 1"),
        (lambda: replace(SUMS, size=PublicSize(0)), "num_patients"),
        (lambda: replace(PLAN, delta=0.0), "delta"),
        (lambda: replace(PLAN, delta=1.0), "delta"),
        (lambda: replace(PLAN, images_per_patient=0), "images_per_patient"),
    ],
)
def test_a_plan_that_promises_nothing_is_refused(change, message):
    with pytest.raises(PrivacyError, match=message):
        change()


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (COUNT,),
        (SUMS, SUMS),
        (SUMS, NotPrivate(Clip(0.5), 0.1, 50, PublicSize(1000), 5)),
        (COUNTED_SUMS,),
        (COUNT, SUMS),
        (COUNTED_SUMS, COUNT),
        (COUNT, COUNT, COUNTED_SUMS),
        (replace(COUNT, noiser=ByEachHospital(5)), COUNTED_SUMS),
        (COUNT, NotPrivate(Clip(0.5), 0.1, 50, PublicSize(1000), 5)),
        (plans.masked_and_counted().count, replace(COUNTED_SUMS, noiser=NoiseShares(5, 1, 1))),
    ],
    ids=[
        "nothing", "a count alone", "two trainings", "private and not", "a noisy size without its count",
        "a count beside a public size", "the count last", "two counts", "a count by others",
        "a count before open training", "a count in shares before sums without",
    ],
)  # fmt: skip
def test_parts_that_contradict_each_other_are_refused(parts):
    with pytest.raises(PrivacyError):
        replace(PLAN, parts=parts)


def test_the_statement_says_all_that_the_promise_rests_on():
    sentence = statement_of(PLAN, simulated=True, seeded=True).sentence()
    for part in (
        "epsilon", "delta = 1e-05", "patient", "add-or-remove-one", "probability 0.1", "Gaussian",
        "50 releases", "1000 patients, is a public constant", "simulated", "reproducible, not private",
        "8 images", "floating-point",
    ):  # fmt: skip
        assert part in sentence, part


def test_the_statement_of_a_plan_without_privacy_promises_nothing():
    sentence = statement_of(not_private(PLAN, 50), simulated=True, seeded=False).sentence()
    assert "no privacy guarantee" in sentence
    assert "infinity" in sentence


def test_the_table_of_insiders_says_the_promise_where_it_holds():
    """Against the foreseen colluders and dropouts epsilon is the promise; against more it is larger."""
    made = calibrated(COUNTED, 3.0)
    rows = {(row.colluders, row.missing): row.epsilon for row in insiders_of(made)}
    assert rows[1, 1] == pytest.approx(made.epsilon, rel=1e-6)
    assert rows[0, 0] < rows[1, 0] < rows[1, 1] < rows[2, 1]
