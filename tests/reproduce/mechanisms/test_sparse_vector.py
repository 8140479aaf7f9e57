"""A few chosen coordinates: the promise measured on neighbours, the algorithms they reduce to, and the totals."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from tests import plans
from tests.cases import family

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import ComposedEvent, GaussianEvent, PureEvent, SelfComposedEvent
from wardround.accounting.statement import Statement
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.agreed.plans import plan_of
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.kinds import NoisedUpdates
from wardround.privacy.plans.protects import protects
from wardround.privacy.plans.wording import statement_of
from wardround.randomness import Randomness, gumbel, laplace
from wardround.reproduce.mechanisms.sparse_vector.mechanism import GumbelTopK, SparseVector
from wardround.work import GradientSum


def stream(*name):
    return Randomness(3, "study").stream(*name)


def everything(std):
    return std


def released(mechanism, update, *name):
    return mechanism.release(np.asarray(update, dtype=np.float32), everything, stream(*name))


def test_laplace_and_gumbel_variates_have_their_laws():
    draws = laplace(stream("laplace"), 40_000)
    assert stats.kstest(draws, "laplace").pvalue > 1e-3
    assert stats.kstest(draws * 1.1, "laplace").pvalue < 1e-3
    draws = gumbel(stream("gumbel"), 40_000)
    assert stats.kstest(draws, "gumbel_r").pvalue > 1e-3
    assert stats.kstest(draws * 1.1, "gumbel_r").pvalue < 1e-3


def test_the_parts_add_up_to_the_total_in_the_best_ratio():
    mechanism = SparseVector(1e-3, 50, 2.0, values_share=0.25)
    threshold, sizes, values = mechanism.epsilons
    assert threshold + sizes + values == pytest.approx(2.0)
    assert values == pytest.approx(0.5)
    assert sizes / threshold == pytest.approx(100 ** (2 / 3))

    def spread(share):  # of threshold noise minus size noise, in sensitivities
        return (1 / (1.5 * share)) ** 2 + (2 * 50 / (1.5 * (1 - share))) ** 2

    best = threshold / 1.5
    assert spread(best) < min(spread(best * 1.1), spread(best / 1.1))


def without_noise(monkeypatch):
    monkeypatch.setattr(
        "wardround.reproduce.mechanisms.sparse_vector.mechanism.laplace", lambda stream, count: np.zeros(count)
    )
    monkeypatch.setattr(
        "wardround.reproduce.mechanisms.sparse_vector.mechanism.gumbel", lambda stream, count: np.zeros(count)
    )
    monkeypatch.setattr("wardround.randomness.streams.Stream.add_normal", lambda self, values, std: None)


def test_without_noise_it_is_selective_sharing(monkeypatch):
    without_noise(monkeypatch)
    update = np.array([0.5, -2.0, 0.1, 0.7, -0.05, np.nan, np.inf, -np.inf])
    bounded = np.array([0.5, -1.0, 0.1, 0.7, 0.0, 0.0, 1.0, -1.0], dtype=np.float32)
    all_of_them = released(SparseVector(1.0, 8, 1.0, threshold=0.3), update)
    assert np.array_equal(all_of_them, np.where(np.abs(bounded) >= 0.3, bounded, 0))
    three = [released(SparseVector(1.0, 3, 1.0, threshold=0.3), update, k) for k in range(20)]
    assert all(np.count_nonzero(one) == 3 for one in three)  # it stops at three
    assert len({tuple(np.flatnonzero(one)) for one in three}) > 3  # and begins anywhere
    top = released(GumbelTopK(1.0, 4, 1.0), update)
    assert np.array_equal(np.flatnonzero(top), [1, 3, 6, 7])


def test_never_more_answers_than_were_paid_for():
    update = np.ones(400)
    for seed in range(20):
        assert np.count_nonzero(released(SparseVector(1.0, 7, 50.0), update, seed)) <= 7
        assert np.count_nonzero(released(GumbelTopK(1.0, 7, 0.1), update, seed)) == 7


def counted(mechanism, update, runs, cell):
    cells: dict[object, int] = {}
    for run in range(runs):
        key = cell(released(mechanism, update, "neighbours", run, float(np.sum(update))))
        cells[key] = cells.get(key, 0) + 1
    return cells


def largest_loss(mechanism, first, second, cell, runs=1_500):
    """Log of the largest ratio of two neighbours' chances, less five of its standard deviations."""
    a, b = counted(mechanism, first, runs, cell), counted(mechanism, second, runs, cell)
    losses = []
    for key in a.keys() & b.keys():
        spread = 5 * math.sqrt(1 / a[key] + 1 / b[key])
        losses.append(abs(math.log(a[key] / b[key])) - spread)
    return max(losses)


FIRST, SECOND = np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])


def places_and_signs(update):
    return tuple(np.sign(update).astype(int))


@pytest.mark.parametrize("epsilon", family([1.0, 2.0]))
def test_opposite_hospitals_are_as_hard_to_tell_apart_as_is_promised(epsilon):
    mechanism = SparseVector(1.0, 1, epsilon, threshold=0.5)
    assert largest_loss(mechanism, FIRST, SECOND, places_and_signs) < epsilon
    opposite = largest_loss(mechanism, FIRST, -FIRST, places_and_signs)
    assert opposite < epsilon


def test_the_neighbours_test_has_power():
    """With the noise of half the sensitivity on everything, and no noise on sizes, the promise is seen broken."""

    class Broken(SparseVector):
        def release(self, update, share, stream):
            return SparseVector(1.0, 1, 12.0, threshold=0.5).release(update, share, stream)

    assert largest_loss(Broken(1.0, 1, 1.0), FIRST, SECOND, places_and_signs) > 1.0


def test_the_bar_and_the_sizes_are_noised_as_the_algorithm_has_it():
    """The chance of one answer, where three were paid for: scales D / e1 and 2 c D / e2 of Algorithm 7."""
    mechanism = SparseVector(1.0, 3, 30.0, threshold=0.2, values_share=0.2)
    e1, e2, _ = mechanism.epsilons
    draw = np.random.default_rng(0).laplace(size=(2, 1_000_000))

    def chance(bar, size):
        return float(np.mean(1.0 + size * draw[0] >= 0.2 + bar * draw[1]))

    runs = 2_000
    found = sum(bool(released(mechanism, [1.0], "answers", run).any()) for run in range(runs)) / runs
    right = chance(1 / e1, 6 / e2)
    spread = 5 * math.sqrt(right * (1 - right) / runs)
    assert abs(found - right) < spread
    for wrong in (chance(1 / e1, 3 / e2), chance(1 / e1, 2 / e2), chance(6 / e1, 6 / e2)):
        assert abs(found - wrong) > spread


def test_values_have_laplace_noise_of_the_stated_scale():
    mechanism = SparseVector(1.0, 2_000, 1e4, values_share=0.9999)
    scale = 2 * mechanism.noise_multiplier
    draws = np.concatenate([released(mechanism, np.zeros(2_000), "values", k) for k in range(5)])
    draws = draws[np.abs(draws) > 0]
    inside = np.abs(draws) < 1  # cut to the truncation
    assert draws.size > 5_000
    law = stats.truncexpon(1 / scale, scale=scale)
    assert stats.kstest(np.abs(draws[inside]), law.cdf).pvalue > 1e-3
    assert stats.kstest(np.abs(draws[inside]), stats.truncexpon(1.2 / scale, scale=scale / 1.2).cdf).pvalue < 1e-3


def test_one_shot_gumbel_is_the_exponential_mechanism_again_and_again():
    """Places of two draws of the exponential mechanism without replacement, by chi-square."""
    update, mechanism = np.array([1.0, 0.5, 0.0, 0.2]), GumbelTopK(1.0, 2, 0.5)
    weights = mechanism.epsilon_of_a_choice * np.abs(update) / 2
    first = softmax(weights)
    chance = {}
    for i in range(4):
        for j in range(i + 1, 4):
            chance[i, j] = first[i] * first[j] / (1 - first[i]) + first[j] * first[i] / (1 - first[j])
    runs = 1_500
    found = counted(mechanism, update, runs, lambda update: tuple(np.flatnonzero(update)))
    observed = [found[pair] for pair in chance]
    assert stats.chisquare(observed, [runs * p for p in chance.values()]).pvalue > 1e-3
    even = [runs / 6] * 6
    assert stats.chisquare(observed, even).pvalue < 1e-6


def test_top_values_have_gaussian_noise_for_both_ends_of_every_coordinate():
    mechanism = GumbelTopK(0.5, 4_000, 1.5)
    draws = released(mechanism, np.zeros(4_000)) / (1.5 * 2 * 0.5 * math.sqrt(4_000))
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert stats.kstest(draws / 1.1, "norm").pvalue < 1e-3


def test_the_cost_of_the_top_is_that_of_its_choices_and_of_its_values():
    mechanism = GumbelTopK(1.0, 100, 5.0, values_share=0.8)
    each = mechanism.epsilon_of_a_choice
    assert mechanism.event == ComposedEvent((SelfComposedEvent(PureEvent(each), 100), GaussianEvent(5.0)))
    assert 100 * each**2 == pytest.approx(0.25 / 5.0**2)
    alone = epsilon_of(GaussianEvent(5.0), 1e-5)
    assert alone < epsilon_of(mechanism.event, 1e-5) < 1.2 * alone


def test_the_whole_update_of_a_network_is_gone_through_and_stops_at_c():
    size, answers = 725_061, 72_506
    update = np.random.default_rng(0).normal(0, 1e-4, size).astype(np.float32)
    for mechanism in (SparseVector(1e-4, answers, 7_500.0), GumbelTopK(1e-4, answers, 0.01)):
        assert np.count_nonzero(released(mechanism, update)) == answers


def plan_with(tiny_study, kind, epsilon, rounds=20):
    """The plan of a study that releases ten coordinates of each update."""
    own = {
        "plan": kind,
        "answers": 10,
        "clipping_norm": 0.1,
        "epsilon": epsilon,
        "delta": 1e-5,
        "accountant": "pld",
    }
    return plan_of(tiny_study(privacy=own, federation={"strategy": "fedavg", "rounds": rounds}))


@pytest.mark.parametrize("kind", ["sparse-vector", "top-k"])
def test_visits_share_the_promised_epsilon(tiny_study, kind):
    plan = plan_with(tiny_study, kind, 3.0)
    assert plan.releases == 20
    assert 3.0 * 0.99 <= plan.epsilon <= 3.0
    assert (plan.unit, plan.relation) == (PrivacyUnit.HOSPITAL, NeighboringRelation.REPLACE_ONE)
    assert isinstance(plan.training, NoisedUpdates)
    assert not protects(plan.training, GradientSum(np.zeros(3, dtype=np.float32))), (
        "sums of gradients are not noised"
    )


def test_pure_visits_share_at_least_evenly(tiny_study):
    huge = plan_with(tiny_study, "sparse-vector", 15_000.0, rounds=2)
    mechanism = huge.training.mechanism
    assert isinstance(mechanism, SparseVector)
    assert mechanism.epsilon == pytest.approx(7_500.0)  # basic composition
    assert 14_999 < huge.epsilon <= 15_000.0
    few = plan_with(tiny_study, "sparse-vector", 3.0).training.mechanism
    assert isinstance(few, SparseVector)
    assert few.epsilon >= 3.0 / 20 * (1 - 1e-9)


def test_the_statement_says_the_total(tiny_study):
    plan = plan_with(tiny_study, "sparse-vector", 2.0, rounds=4)
    statement = statement_of(plan, simulated=True, seeded=False)
    assert 1.99 < statement.epsilon <= 2.0
    sentence = statement.sentence()
    for part in ("Replacing one hospital", "at most 10 coordinates", "sparse vector", "4 releases"):
        assert part in sentence
    assert {row.epsilon for row in insiders_of(plan)} == {plan.epsilon}


@pytest.mark.parametrize("kind", ["sparse-vector", "top-k"])
def test_a_statement_names_the_bound_on_a_coordinate(tiny_study, kind):
    """It is no norm: an update may be as many times longer as the square root of the number of its coordinates."""
    statement = statement_of(plan_with(tiny_study, kind, 2.0), simulated=True, seeded=False)
    assert " and truncation 0.1, on " in statement.sentence()
    assert "clipping_norm" not in statement.sentence()
    assert statement.to_json()["truncation"] == 0.1
    assert "clipping_norm" not in statement.to_json()
    assert Statement.from_json(statement.to_json()) == statement


@pytest.mark.parametrize("noiser", [NoiseShares(3, 1), ByCoordinator(3)], ids=["shares", "coordinator"])
@pytest.mark.parametrize("mechanism", [SparseVector(0.1, 10, 1.0), GumbelTopK(0.1, 10, 1.0)])
def test_noise_that_cannot_be_shared_out_is_each_hospitals_own(noiser, mechanism):
    plans.plan(NoisedUpdates(mechanism, 1.0, 4, ByEachHospital(3)))
    with pytest.raises(PrivacyError, match="trust"):
        NoisedUpdates(mechanism, 1.0, 4, noiser)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SparseVector(0.0, 1, 1.0),
        lambda: SparseVector(float("nan"), 1, 1.0),
        lambda: SparseVector(1.0, 0, 1.0),
        lambda: SparseVector(1.0, 1, 0.0),
        lambda: SparseVector(1.0, 1, float("inf")),
        lambda: SparseVector(1.0, 1, 1.0, threshold=-1.0),
        lambda: SparseVector(1.0, 1, 1.0, values_share=1.0),
        lambda: GumbelTopK(1.0, 1, 0.0),
        lambda: GumbelTopK(1.0, 1, 1.0, values_share=0.0),
        lambda: GumbelTopK(float("inf"), 1, 1.0),
    ],
)
def test_mechanisms_that_promise_nothing_are_refused(make):
    with pytest.raises(PrivacyError, match="must"):
        make()
