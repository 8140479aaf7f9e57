"""The sampler is the discrete Gaussian: by exact probabilities, by whole-number decisions, at its edges."""

import hashlib
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from tests.cases import examples

from wardround.errors import PrivacyError
from wardround.randomness import Randomness
from wardround.secure_aggregation.integers.discrete_gaussian import (
    LazyUniform,
    _Proposals,
    discrete_gaussian,
    exp_bounds,
)


def source_of(*name):
    stream = Randomness(7, "discrete-gaussian").stream(*name)
    return lambda count: stream.words(count // 8).tobytes()


def probabilities(std, reach):
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * float(std) ** 2))
    return weights / weights.sum()


def chi_square_p(samples, std):
    """p of the samples under that discrete Gaussian; values expected less than ten times are pooled."""
    reach = int(12 * std) + 2
    expected = probabilities(std, reach) * samples.size
    observed = np.bincount(np.clip(samples, -reach, reach) + reach, minlength=2 * reach + 1).astype(float)
    common = expected >= 10
    pairs = [*zip(observed[common], expected[common], strict=True)]
    pairs.append((observed[~common].sum(), expected[~common].sum()))
    statistic = sum((o - e) ** 2 / e for o, e in pairs)
    return chi2.sf(statistic, len(pairs) - 1)


@pytest.mark.parametrize("std", [Fraction(1, 2), 1, Fraction(3, 2), 2, 8, Fraction(25, 3)])
def test_samples_follow_the_exact_probabilities_and_no_others(std):
    samples = discrete_gaussian(100_000, std, source_of("pmf", str(std)))
    assert chi_square_p(samples, std) > 1e-3
    assert chi_square_p(samples, Fraction(105, 100) * std) < 1e-6
    assert chi_square_p(samples, Fraction(95, 100) * std) < 1e-6


def test_the_share_of_a_hospital_is_normal_from_afar_and_uniform_in_its_last_bits():
    samples = discrete_gaussian(200_000, 1 << 20, source_of("share"))
    cuts = np.array([float(mpmath.sqrt(2) * mpmath.erfinv(2 * k / 64 - 1)) for k in range(1, 64)]) * 2**20
    bins = np.bincount(np.searchsorted(cuts, samples), minlength=64)
    assert chi2.sf(((bins - samples.size / 64) ** 2).sum() / (samples.size / 64), 63) > 1e-3
    last = np.bincount(samples & 255, minlength=256)
    assert chi2.sf(((last - samples.size / 256) ** 2).sum() / (samples.size / 256), 255) > 1e-3
    assert abs(samples.std() / 2**20 - 1) < 5 / math.sqrt(2 * samples.size)


@pytest.mark.parametrize("std", [1, 2])
def test_tails_parity_and_signs(std):
    samples = discrete_gaussian(400_000, std, source_of("tail", std))
    reach = 20 * std
    values = np.arange(-reach, reach + 1)
    exact = probabilities(std, reach)
    for event, of_values in (
        (np.abs(samples) >= 4 * std, np.abs(values) >= 4 * std),
        (samples % 2 == 1, values % 2 == 1),
        (samples == 0, values == 0),
        (samples > 0, values > 0),
    ):
        probability = exact[of_values].sum()
        deviation = math.sqrt(probability * (1 - probability) / samples.size)
        assert abs(event.mean() - probability) < 4.5 * deviation


@pytest.mark.parametrize("std", [1, 8, Fraction(7, 3), 1 << 20])
def test_whole_numbers_decide_as_floating_point_does(std):
    quick = _Proposals(Fraction(std), source_of("same", str(std))).draw(400)
    slow = _Proposals(Fraction(std), source_of("same", str(std)), margin=2.0**60).draw(400)
    np.testing.assert_array_equal(quick, slow)


@pytest.mark.parametrize("scale", [1, 3, 1000])
@pytest.mark.parametrize("k", [1, 2, 20])
def test_a_uniform_beside_a_threshold_falls_on_the_right_side(scale, k):
    with mpmath.workprec(400):
        threshold = int(mpmath.floor(mpmath.exp(-mpmath.mpf(k) / scale) * 2**64))
        rest = int(mpmath.frac(mpmath.exp(-mpmath.mpf(k) / scale) * 2**64) * 2**64)
    # Of the words with the threshold inside, those whose further bits stay below it are at least k; later ones are not.
    for first, further, size in (
        (threshold - 1, 0, k),
        (threshold, rest - 1, k),
        (threshold, rest + 1, k - 1),
        (threshold + 1, 0, k - 1),
    ):
        drawn = _Proposals(Fraction(scale), _first_then(first, further)).draw(1)
        np.testing.assert_array_equal(drawn, [size])


def _first_then(first, further):
    """A source of one proposal, with a v of 0 that accepts everything, and of the further bits of its u."""
    answers = iter([np.array([first, 0], dtype="<u8").tobytes(), further.to_bytes(8, "little"), *[bytes(8)] * 8])
    return lambda _: next(answers)


def test_nothing_cuts_the_tail_off():
    # 64 zero bits, and then more: |X| = floor(44.4 t + ...), far beyond what 64 bits could tell apart.
    more = iter([1 << 40, 0, 0, 1 << 63])
    proposals = _Proposals(Fraction(1), lambda _: next(more).to_bytes(8, "little"))
    size, _ = proposals._decide(0, 0)
    assert size == math.floor((128 - 40) * math.log(2))


def test_the_depth_of_the_tail_is_left_to_whole_numbers(monkeypatch):
    asked: list[int] = []

    def decide(self, first, second):
        asked.append(first)
        return 0, False

    monkeypatch.setattr(_Proposals, "_decide", decide)
    # As large a v as there is, so that nothing but u is in doubt; 2^44 + 2^40 lies between two thresholds.
    words = np.array([(1 << 44) - 1, (1 << 44) + (1 << 40), 2**64 - 2, 2**64 - 2], dtype="<u8")
    _Proposals(Fraction(1), lambda _: words.tobytes()).draw(2)
    assert asked == [(1 << 44) - 1]


def test_the_library_is_as_exact_as_the_margins_assume():
    random = np.random.default_rng(0)
    uniform = random.random(2_000)
    exponents = -random.random(2_000) * 60
    with mpmath.workprec(120):
        for value, found in [*zip(uniform, np.log(uniform), strict=True)]:
            assert abs(mpmath.log(mpmath.mpf(value)) - mpmath.mpf(found)) <= 16 * np.spacing(abs(found))
        for value, found in [*zip(exponents, np.exp(exponents), strict=True)]:
            assert abs(mpmath.exp(mpmath.mpf(value)) - mpmath.mpf(found)) <= 16 * np.spacing(found)


@given(st.fractions(0, 60, max_denominator=10**6), st.integers(1, 300))
@examples(60)
def test_whole_number_bounds_hold_the_exponential_tightly(exponent, bits):
    low, high = exp_bounds(exponent, bits)
    with mpmath.workprec(600):
        exact = mpmath.exp(-mpmath.mpf(exponent.numerator) / exponent.denominator) * mpmath.mpf(2) ** bits
        assert low <= exact <= high
    assert high - low <= 2


@pytest.mark.parametrize("exponent", [Fraction(1, 3), Fraction(1), Fraction(5, 2)])
def test_a_lazy_uniform_is_below_with_exactly_that_probability(exponent):
    def is_below(leading, further):
        words = iter([further, *[1 << 63] * 4])
        return LazyUniform(leading, 8, lambda: next(words)).is_below_exp(exponent)

    threshold = math.exp(-float(exponent)) * 256
    inside = math.floor(threshold)
    assert [is_below(leading, 1 << 63) for leading in range(256) if leading != inside] == [
        leading < inside for leading in range(256) if leading != inside
    ]
    for sixteenth in range(16):
        assert is_below(inside, sixteenth << 60) == (sixteenth / 16 < threshold - inside)


def test_a_source_that_fails_ends_the_call_and_returns_nothing():
    def broken(count):
        raise OSError("no entropy")

    with pytest.raises(OSError, match="no entropy"):
        discrete_gaussian(10, 8, broken)
    with pytest.raises(PrivacyError, match="must give"):
        discrete_gaussian(10, 8, lambda count: bytes(count - 1))
    with pytest.raises(PrivacyError, match="must give"):
        discrete_gaussian(10, 8, lambda count: b"")

    good, calls = source_of("late"), iter(range(100))
    with pytest.raises(PrivacyError, match="must give"):  # also in the middle of a vector
        discrete_gaussian(100_000, 8, lambda count: good(count) if next(calls) < 2 else b"")


def test_bytes_drawn_do_not_tell_what_was_drawn():
    def bytes_drawn(seed):
        drawn: list[int] = []
        good = source_of("constant", seed)

        def counting(count):
            drawn.append(count)
            return good(count)

        discrete_gaussian(300, 2, counting)
        return sum(drawn)

    assert len({bytes_drawn(seed) for seed in range(50)}) == 1


def test_no_two_samples_share_their_words():
    # A chunk border at 16384: what follows it is not what came before.
    samples = discrete_gaussian(3 * 16_384, 1 << 20, source_of("chunks"))
    assert len(np.unique(samples)) > 0.95 * samples.size
    assert abs(np.corrcoef(samples[:16_384], samples[16_384 : 2 * 16_384])[0, 1]) < 4.5 / math.sqrt(16_384)


@pytest.mark.parametrize("std", [0, -1, (1 << 30) + 1])
def test_a_parameter_that_does_not_hold_is_refused(std):
    with pytest.raises(PrivacyError, match="std must be"):
        discrete_gaussian(1, std, source_of("refused"))
    with pytest.raises(PrivacyError, match="count must be"):
        discrete_gaussian(-1, 1, source_of("refused"))


def test_no_samples_are_an_empty_row():
    assert discrete_gaussian(0, 1, lambda count: hashlib.sha256().digest()).shape == (0,)


@pytest.mark.parametrize("std", [1, 2, 8])
def test_the_samples_are_those_of_opendp(std):
    dp = pytest.importorskip("opendp.prelude", reason="OpenDP is an oracle, not a dependency")
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)
    theirs = np.array(dp.m.make_gaussian(*space, scale=float(std))([0] * 50_000))
    ours = discrete_gaussian(50_000, std, source_of("opendp", std))
    reach = 3 * std
    tables = [
        np.bincount(np.clip(each, -reach, reach) + reach, minlength=2 * reach + 1) for each in (ours, theirs)
    ]
    statistic = ((tables[0] - tables[1]) ** 2 / (tables[0] + tables[1])).sum()
    assert chi2.sf(statistic, 2 * reach) > 1e-6  # theirs cannot be seeded
    assert chi_square_p(theirs, std) > 1e-6
