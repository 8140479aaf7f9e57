"""Discrete shares of noise cost what is claimed: held against probabilities that are added up one by one."""

import itertools
import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from tests.accounting.deltas import delta_of
from tests.cases import family

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.discrete import (
    DiscreteShares,
    _composed,
    epsilon_of_parts,
    slack_of_shares,
    slack_of_smoothing,
)
from wardround.accounting.events import (
    ComposedEvent,
    GaussianEvent,
    NoEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from wardround.errors import PrivacyError


def epsilon_of_shares(release, make_event, delta, accountant=AccountantKind.PLD):
    return epsilon_of_parts([(release, make_event)], delta, accountant)


def delta_of_shares(release, make_event, epsilon):
    """The other way round: delta at an epsilon that holds the slack."""
    event, slack = _composed([(release, make_event)])
    if epsilon < 2 * slack:
        return 1.0
    left = math.nextafter(epsilon - 2 * slack, 0)
    return min(1.0, math.nextafter(math.exp(slack) * delta_of(event, left), math.inf))


def pmf(std, reach):
    weights = [mpmath.exp(-mpmath.mpf(k * k) / (2 * mpmath.mpf(std) ** 2)) for k in range(-reach, reach + 1)]
    total = mpmath.fsum(weights)
    return [each / total for each in weights]


def convolved(left, right):
    out = [mpmath.mpf(0)] * (len(left) + len(right) - 1)
    for i, each in enumerate(left):
        for j, other in enumerate(right):
            out[i + j] += each * other
    return out


def sum_of_shares(std, shares, reach):
    """Probabilities of the sum of shares at -reach..reach."""
    one = pmf(std, 2 * reach)
    total = one
    for _ in range(shares - 1):
        total = convolved(total, one)
    middle = len(total) // 2
    return total[middle - reach : middle + reach + 1]


@pytest.mark.parametrize(("std", "shares"), [(0.7, 2), (1, 2), (1, 3), (1, 5), (1.5, 2), (1.5, 4)])
def test_a_sum_of_shares_is_that_close_to_one_discrete_gaussian(std, shares):
    reach = 12
    with mpmath.workdps(60):
        variance = mpmath.sqrt(shares) * mpmath.mpf(std)
        one = pmf(variance, 80)
        middle = len(one) // 2
        found = max(
            abs(mpmath.log(left / right))
            for left, right in zip(
                sum_of_shares(std, shares, reach), one[middle - reach : middle + reach + 1], strict=True
            )
        )
    assert found <= slack_of_shares(std, shares)
    if shares == 2:
        assert slack_of_shares(std, shares) < 1.1 * found  # share by share it is as tight as this


@pytest.mark.parametrize(("std", "smoothing"), family([(4, 1), (4, 1.5), (4, 2), (1.2, 1)], keep=[(1.2, 1)]))
def test_a_continuous_gaussian_smoothed_to_whole_numbers_is_that_close(std, smoothing):
    with mpmath.workdps(90):
        rest = mpmath.mpf(std) ** 2 - mpmath.mpf(smoothing) ** 2
        square = mpmath.mpf(smoothing) ** 2
        exact = pmf(std, 30 * math.ceil(std))
        middle = len(exact) // 2
        # The trapezoidal rule is exact to its rounding for an analytic function that dies away on both sides.
        step = min(mpmath.sqrt(rest), mpmath.mpf(smoothing)) / 6
        span = int(16 * std / step)
        smoothed = [mpmath.mpf(0)] * 9
        for index in range(-span, span + 1):
            y = index * step
            near = range(int(y) - 30 * math.ceil(smoothing), int(y) + 30 * math.ceil(smoothing))
            norm = mpmath.fsum(mpmath.exp(-((k - y) ** 2) / (2 * square)) for k in near)
            density = mpmath.exp(-(y**2) / (2 * rest)) / mpmath.sqrt(2 * mpmath.pi * rest) * step
            for k in range(9):
                smoothed[k] += density * mpmath.exp(-((k - y) ** 2) / (2 * square)) / norm
        found = max(abs(mpmath.log(smoothed[k] / exact[middle + k])) for k in range(9))
    assert found <= slack_of_smoothing(smoothing)


def exact_delta(epsilon, left, right):
    return max(
        float(np.maximum(left - np.exp(epsilon) * right, 0).sum()),
        float(np.maximum(right - np.exp(epsilon) * left, 0).sum()),
    )


def released(std, shares, reach):
    return np.array([float(each) for each in sum_of_shares(std, shares, reach)])


@pytest.mark.parametrize(
    ("std", "shares", "sensitivity", "smoothing"),
    family([(1, 2, 1, 1), (2, 2, 3, 2), (2, 3, 2, 2), (6, 2, 8, 3)], keep=[(1, 2, 1, 1), (2, 3, 2, 2)]),
)
def test_no_event_of_one_release_is_likelier_than_claimed(std, shares, sensitivity, smoothing):
    reach = math.ceil(14 * std * math.sqrt(shares))
    noise = released(std, shares, reach)
    with_unit, without = np.r_[np.zeros(sensitivity), noise], np.r_[noise, np.zeros(sensitivity)]
    release = DiscreteShares(std, shares, sensitivity, 1, smoothing)
    for epsilon in (0.05, 0.3, 1.0, 2.0, 4.0):
        exact = exact_delta(epsilon, with_unit, without)
        assert exact <= delta_of_shares(release, lambda one: one, epsilon)
        if exact > 1e-12:
            assert epsilon_of_shares(release, lambda one: one, exact) >= epsilon


def test_the_claim_is_hardly_more_than_the_truth_where_the_grid_is_fine():
    noise = released(6, 2, 120)
    with_unit, without = np.r_[np.zeros(8), noise], np.r_[noise, np.zeros(8)]
    release = DiscreteShares(6, 2, 8, 1)
    exact = exact_delta(1.0, with_unit, without)
    assert 1.0 <= epsilon_of_shares(release, lambda one: one, exact) < 1.15  # 9 of a variance of 72 are given up


def test_two_dimensions_and_a_diagonal_step():
    noise = released(2, 2, 40)
    both = np.multiply.outer(noise, noise)
    with_unit, without = np.zeros((85, 85)), np.zeros((85, 85))
    with_unit[3:84, 4:85], without[:81, :81] = both, both  # a step of (3, 4): its norm is 5
    release = DiscreteShares(2, 2, 5, 2, 1)
    for epsilon in (0.5, 2.0, 5.0):
        assert exact_delta(epsilon, with_unit.ravel(), without.ravel()) <= delta_of_shares(
            release, lambda one: one, epsilon
        )


@pytest.mark.parametrize("smoothing", family([1, 2]))
def test_sampled_and_composed_releases_cost_no_more_than_claimed(smoothing):
    std, shares, sensitivity, prob, rounds = 2, 2, 2, 0.3, 3
    reach = 30
    noise = released(std, shares, reach)
    without = np.r_[noise, np.zeros(sensitivity)]
    with_unit = (1 - prob) * without + prob * np.r_[np.zeros(sensitivity), noise]
    left, right = np.ones(1), np.ones(1)
    for _ in range(rounds):
        left, right = np.multiply.outer(left, with_unit).ravel(), np.multiply.outer(right, without).ravel()
    release = DiscreteShares(std, shares, sensitivity, 1, smoothing)

    def training(one):
        return SelfComposedEvent(PoissonSampledEvent(prob, one), rounds)

    for epsilon in (0.2, 0.7, 1.5):
        assert exact_delta(epsilon, left, right) <= delta_of_shares(release, training, epsilon)


def test_the_slack_of_every_release_and_coordinate_is_charged():
    release = DiscreteShares(2, 3, 2, dimension=50, smoothing=1)
    each = release.slack
    assert each >= 50 * (slack_of_shares(2, 3) + slack_of_smoothing(1))
    assert each > 1e-7

    def twice_and_sampled(one):
        return ComposedEvent((SelfComposedEvent(one, 2), PoissonSampledEvent(0.5, one), GaussianEvent(17.0)))

    event, total = twice_and_sampled(release.event), 3 * each
    assert epsilon_of_shares(release, twice_and_sampled, 1e-5) >= epsilon_of(event, 1e-5) + 2 * total
    coarse = DiscreteShares(1, 2, 1, dimension=10, smoothing=1)
    plain = epsilon_of(coarse.event, 1e-5)
    assert epsilon_of_shares(coarse, lambda one: one, 1e-5) > plain + 2e-3  # 20 (1.1e-4 + ...)


@pytest.mark.parametrize("shares", [2, 9, 99])
def test_the_slack_of_a_real_round_is_nothing(shares):
    release = DiscreteShares(2**20, shares, 2**20, dimension=60_000_000)
    assert 0 < release.slack < 1e-68
    assert slack_of_shares(2**20, shares) < 1e-300


def test_the_noise_multiplier_is_rounded_down_and_loses_a_trillionth():
    release = DiscreteShares(2**20, 9, 3 * 2**20, 10)
    assert release.noise_multiplier < 1
    assert release.noise_multiplier == pytest.approx(1, rel=1e-12)
    for shares, sensitivity in itertools.product((1, 2, 7), (3, 1_000_003)):
        each = DiscreteShares(2**10, shares, sensitivity, 10)
        with mpmath.workdps(50):
            assert mpmath.mpf(each.noise_multiplier) <= mpmath.sqrt(shares * 4**10 - 9) / sensitivity


@pytest.mark.parametrize(
    ("kind", "prob", "noise_multiplier", "rounds", "expected"),
    [
        (AccountantKind.PLD, 0.02, 1.0, 2_000, 5.616),
        (AccountantKind.RDP, 0.02, 1.0, 2_000, 6.151),
        (AccountantKind.PLD, 0.05, 1.2, 1_000, 7.891),
    ],
)
def test_training_costs_what_continuous_noise_costs(kind, prob, noise_multiplier, rounds, expected):
    sensitivity = math.floor(3 * 2**20 / noise_multiplier)
    release = DiscreteShares(2**20, 9, sensitivity, 725_061)
    found = epsilon_of_shares(
        release, lambda one: SelfComposedEvent(PoissonSampledEvent(prob, one), rounds), 1e-5, kind
    )
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"share_std": 0}, "share_std"),
        ({"shares": 0}, "shares"),
        ({"sensitivity": 0}, "sensitivity"),
        ({"dimension": 0}, "dimension"),
        ({"smoothing": 0}, "smoothing"),
        ({"share_std": 2, "shares": 2}, "finer grid"),
    ],
)
def test_shares_that_cannot_be_accounted_are_refused(changes, match):
    with pytest.raises(PrivacyError, match=match):
        DiscreteShares(**{"share_std": 8, "shares": 3, "sensitivity": 8, "dimension": 2, **changes})


def test_a_slack_that_says_nothing_and_an_event_without_the_release_are_refused():
    coarse = DiscreteShares(1, 2, 1, dimension=100_000, smoothing=1)
    with pytest.raises(PrivacyError, match="slack below 1"):
        epsilon_of_shares(coarse, lambda one: one, 1e-5)
    fine = DiscreteShares(8, 2, 1, dimension=1)
    with pytest.raises(PrivacyError, match="holds the release"):
        epsilon_of_shares(fine, lambda one: NoEvent(), 1e-5)
    with pytest.raises(PrivacyError, match="holds the release"):
        delta_of_shares(fine, lambda one: GaussianEvent(2.0), 1.0)


def test_below_the_slack_there_is_no_claim():
    coarse = DiscreteShares(1, 2, 1, dimension=10, smoothing=1)
    assert delta_of_shares(coarse, lambda one: one, coarse.slack) == 1.0


# Unlike releases together --------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("count", "sums"),
    family(
        [
            (DiscreteShares(2, 3, 1, 1, 1), DiscreteShares(2, 2, 2, 1, 1)),
            (DiscreteShares(1, 4, 3, 1, 1), DiscreteShares(2, 2, 3, 1, 2)),
        ]
    ),
)
def test_a_count_and_sampled_sums_together_cost_no_more_than_claimed(count, sums):
    prob, rounds, reach = 0.4, 2, 30
    left, right = np.ones(1), np.ones(1)
    for release, joins in ((count, 1.0), (sums, prob), (sums, prob)):
        noise = released(release.share_std, release.shares, reach)
        without = np.r_[noise, np.zeros(release.sensitivity)]
        with_unit = (1 - joins) * without + joins * np.r_[np.zeros(release.sensitivity), noise]
        left, right = np.multiply.outer(left, with_unit).ravel(), np.multiply.outer(right, without).ravel()
    parts = [
        (count, lambda one: one),
        (sums, lambda one: SelfComposedEvent(PoissonSampledEvent(prob, one), rounds)),
    ]
    for epsilon in (0.3, 1.0, 2.0):
        exact = exact_delta(epsilon, left, right)
        assert exact > 1e-9
        assert epsilon_of_parts(parts, exact) >= epsilon
        # Neither of them alone would cover it.
        assert min(epsilon_of_parts([part], exact) for part in parts) < epsilon


def test_the_slack_of_each_part_is_charged_as_often_as_it_is_released():
    coarse, fine = DiscreteShares(2, 3, 2, 50, 1), DiscreteShares(2, 3, 1, 3, 1)
    parts = [(fine, lambda one: SelfComposedEvent(one, 2)), (coarse, lambda one: SelfComposedEvent(one, 7))]
    gaussians = ComposedEvent((SelfComposedEvent(fine.event, 2), SelfComposedEvent(coarse.event, 7)))
    slack = 7 * coarse.slack + 2 * fine.slack
    plain = epsilon_of(gaussians, 1e-5 * math.exp(-slack))
    assert slack > 1e-7
    assert epsilon_of_parts(parts, 1e-5) == pytest.approx(plain + 2 * slack, rel=1e-12)
    assert epsilon_of_parts(parts, 1e-5) >= plain + 2 * slack


def test_parts_whose_gaussians_are_the_same_keep_their_own_slack():
    small, large = DiscreteShares(2, 3, 2, 10, 1), DiscreteShares(2, 3, 2, 100_000, 1)
    assert small.event == large.event
    parts = [(small, lambda one: one), (large, lambda one: SelfComposedEvent(one, 3))]
    plain = epsilon_of(SelfComposedEvent(small.event, 4), 1e-5)
    assert epsilon_of_parts(parts, 1e-5) >= plain + 2 * (small.slack + 3 * large.slack)
    one_kind = epsilon_of_shares(large, lambda one: SelfComposedEvent(one, 4), 1e-5)
    assert plain < epsilon_of_parts(parts, 1e-5) < one_kind


def test_the_order_of_parts_costs_nothing_and_slack_adds_up_over_them():
    parts = [
        (DiscreteShares(8, 3, 4, 5), lambda one: one),
        (DiscreteShares(8, 3, 7, 5), lambda one: SelfComposedEvent(PoissonSampledEvent(0.1, one), 10)),
    ]
    assert epsilon_of_parts(parts, 1e-5) == epsilon_of_parts(parts[::-1], 1e-5)
    half = DiscreteShares(1, 2, 1, dimension=1, smoothing=1)
    coarse = replace(half, dimension=int(0.6 / half.slack))
    assert coarse.slack < 1
    with pytest.raises(PrivacyError, match="slack below 1"):
        epsilon_of_parts([(coarse, lambda one: one), (coarse, lambda one: one)], 1e-5)
