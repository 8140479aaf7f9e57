"""Witness coordinates: they are quiet while all the noise is there, and loud when a share is not."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from wardround.errors import FederationError
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.round import witness
from wardround.secure_aggregation.round.witness import WITNESSES, Witness, power

STD = 1 << 20
ROUNDS = 60


def opened(shares, seed, count=WITNESSES):
    """Witness coordinates that so many hospitals have added their share to."""

    def source(share):
        return lambda size: hashlib.shake_256(f"{seed}/{share}".encode()).digest(size)

    return sum(discrete_gaussian(count, STD, source(share)) for share in range(shares))


def round_of_the_alarm(shares, hospitals, seed):
    """The round that stops the run; None if none does."""
    seen = Witness()
    for round in range(1, 9):
        try:
            seen = seen.after(opened(shares, f"{seed}/{round}"), hospitals * STD**2, ROUNDS)
        except FederationError:
            return round
    return None


@pytest.mark.parametrize("hospitals", [3, 5, 10])
def test_all_shares_raise_no_alarm(hospitals):
    assert [round_of_the_alarm(hospitals, hospitals, seed) for seed in range(4)] == [None] * 4


@pytest.mark.parametrize("shares", [4, 6], ids=["one is missing", "one is added twice"])
def test_one_wrong_share_of_five_is_found_within_five_rounds(shares):
    assert max(round_of_the_alarm(shares, 5, seed) or 99 for seed in range(6)) <= 5


@pytest.mark.parametrize("scale", [0.5, 2.0], ids=["half the share", "twice the share"])
def test_a_share_of_another_size_is_found_at_once(scale):
    values = (opened(5, "scaled") * scale).astype(np.int64)
    with pytest.raises(FederationError, match="too little" if scale < 1 else "too much"):
        Witness().after(values, 5 * STD**2, ROUNDS)


@pytest.mark.parametrize(
    ("hospitals", "present", "expected"),
    [(5, 4.25, {1: 0.00, 2: 0.03, 5: 0.89}), (10, 9.0, {10: 0.72})],
    ids=["a share of half size among five", "one missing of ten"],
)
def test_the_power_of_one_false_alarm_in_a_billion_is_small_at_first(hospitals, present, expected):
    """What the tests found before they shared 1e-6: the reason for which they do."""
    found = {seen: power(hospitals, present, seen, ROUNDS, 1e-9) for seen in expected}
    assert found == pytest.approx(expected, abs=0.006)
    assert all(power(hospitals, present, seen, ROUNDS) >= found[seen] for seen in found)


@pytest.mark.parametrize(("hospitals", "present", "seen"), [(5, 4.25, 2), (5, 4.0, 1), (5, 4.25, 3), (10, 9.0, 6)])
def test_runs_are_stopped_as_often_as_the_power_says(hospitals, present, seen):
    """Whole runs of noise that lacks a share, or half of one, each tested round by round as a hospital does."""
    runs, std = 400, STD * np.sqrt(present)
    generator, stopped = np.random.default_rng(7), 0
    for _ in range(runs):
        so_far = Witness()
        try:
            for values in generator.normal(0, std, (seen, WITNESSES)).round().astype(np.int64):
                so_far = so_far.after(values, hospitals * STD**2, ROUNDS)
        except FederationError:
            stopped += 1
    expected = power(hospitals, present, seen, ROUNDS)
    error = np.sqrt(expected * (1 - expected) / runs)
    # A little more, as earlier rounds stop it too.
    assert expected - 4 * error <= stopped / runs <= expected + 0.02 + 4 * error


def test_the_page_has_the_table_of_powers():
    page = (Path(__file__).parents[3] / "docs" / "secure-aggregation.md").read_text(encoding="utf-8")
    for words, hospitals, present in (
        ("one share missing of 5", 5, 4.0),
        ("one share of half the size among 5", 5, 4.25),
        ("one share missing of 10", 10, 9.0),
        ("one share of half the size among 10", 10, 9.25),
    ):
        for alarm in (1e-6, 1e-9):
            cells = [f"{power(hospitals, present, seen, ROUNDS, alarm):.2f}" for seen in (1, 2, 5, 10, 20)]
            assert f"| {words} | 10^{round(np.log10(alarm))} | {' | '.join(cells)} |" in page


def test_a_sum_whose_masks_did_not_cancel_is_found_at_once():
    noise = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, WITNESSES)
    with pytest.raises(FederationError, match="too much"):
        Witness().after(noise, 5 * STD**2, ROUNDS)


def test_false_alarms_are_as_rare_as_stated(monkeypatch):
    monkeypatch.setattr(witness, "FALSE_ALARM", 0.4)  # of one round: a tenth in each tail of one statistic
    alarms, draws = 0, 1_000
    values = np.random.default_rng(3).normal(0, 2 * STD, (draws, 64)).round().astype(np.int64)
    for row in values:
        try:
            Witness().after(row, 4 * STD**2, 1)
        except FederationError:
            alarms += 1
    assert abs(alarms / draws - 0.2) < 4 * np.sqrt(0.2 * 0.8 / draws)


def test_rounds_add_up():
    seen = Witness().after(opened(3, "a"), 3 * STD**2, 2).after(opened(3, "b"), 3 * STD**2, 2)
    both = np.concatenate([opened(3, "a"), opened(3, "b")]).astype(np.float64)
    assert seen.coordinates == 2 * WITNESSES
    assert seen.statistic == pytest.approx(np.sum(both**2) / (3 * STD**2), rel=1e-12)


@pytest.mark.parametrize("statistic", [900.0, 1024.0, 1100.0])
def test_its_tails_are_those_of_chi_squared(statistic):
    seen, law = Witness(statistic, 1024), stats.chi2(1024)
    assert seen.ratio == statistic / 1024
    assert seen.tails == pytest.approx((law.cdf(statistic), law.sf(statistic)), rel=1e-9)
    assert seen.p_value == pytest.approx(2 * min(seen.tails), rel=1e-12)


def test_p_is_uniform_while_all_shares_are_there_and_small_when_one_is_not():
    p_values = [Witness.of(opened(3, f"p/{seed}", 128), 3 * STD**2).p_value for seed in range(200)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    short = [Witness.of(opened(2, f"p/{seed}", 128), 3 * STD**2).p_value for seed in range(50)]
    assert np.median(short) < 0.01


def test_rounds_together_are_the_rounds_one_by_one():
    one, other = Witness.of(opened(3, "a"), 3 * STD**2), Witness.of(opened(4, "b"), 4 * STD**2)
    assert one.plus(other) == Witness().after(opened(3, "a"), 3 * STD**2, 9).after(opened(4, "b"), 4 * STD**2, 9)
