"""The integer mechanism: the total is the clear sum plus everyone's noise, sized for those who stay honest."""

import math
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2
from tests.secure_aggregation.round.rounds import RINGS

from wardround.accounting.discrete import SMOOTHING, DiscreteShares
from wardround.errors import PrivacyError
from wardround.noisers import NoiseShares
from wardround.randomness import Randomness
from wardround.secure_aggregation.canonical import canonical
from wardround.secure_aggregation.integers.discrete_gaussian import discrete_gaussian
from wardround.secure_aggregation.integers.mechanism import SMOOTHING_SQUARED, IntegerMechanism
from wardround.secure_aggregation.integers.ring import Ring


def source_of(*name):
    stream = Randomness(11, "mechanism").stream(*name)
    return lambda count: stream.words(count // 8).tobytes()


def mechanism(**changes):
    fields: dict[str, Any] = {
        "clipping_norm": 0.7,
        "noise_multiplier": 1.0,
        "dimension": 2_000,
        "shares": NoiseShares(5),
    }
    return IntegerMechanism(**fields | changes)


def gradients_of(hospital, count, dimension=2_000):
    return np.random.default_rng(hospital).normal(size=(count, dimension)).astype(np.float32)


def has_std(values, std, known_mean=0.0):
    """Whether the mean square is what Gaussians of that std have, to five in ten million."""
    statistic = float((((values - known_mean) / std) ** 2).sum())
    return chi2.ppf(2.5e-7, values.size) < statistic < chi2.isf(2.5e-7, values.size)


def test_the_total_is_the_clear_sum_plus_every_share_of_noise():
    terms = mechanism()
    parts = [terms.encode(gradients_of(h, 3), source_of("noise", h)) for h in range(5)]
    clear = terms.grid.sum_of([row for h in range(5) for row in gradients_of(h, 3)])
    noise = sum(discrete_gaussian(2_000, 1 << 20, source_of("noise", h)) for h in range(5))
    np.testing.assert_array_equal(sum(parts), clear + noise)


@pytest.mark.parametrize("patients", [0, 4])
def test_every_hospital_adds_its_whole_share_to_an_empty_sample_as_well(patients):
    terms = mechanism()
    rows = gradients_of(1, patients)
    noise = terms.encode(rows, source_of("share", patients)) - terms.grid.sum_of(rows)
    assert has_std(noise, 2**20)
    assert not has_std(noise, 0.8 * 2**20)


@pytest.mark.parametrize(
    ("hospitals", "colluders", "dropouts"), [(2, 1, 0), (3, 1, 0), (5, 1, 0), (5, 2, 1), (10, 1, 1), (5, 0, 0)]
)
@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 1.15])
def test_the_honest_shares_alone_have_the_promised_noise(hospitals, colluders, dropouts, noise_multiplier):
    shares = NoiseShares(hospitals, colluders, dropouts)
    terms, honest = mechanism(shares=shares, noise_multiplier=noise_multiplier), hospitals - colluders - dropouts
    # The noise of the honest alone over the sensitivity; a share sized for all, or divided twice, has another.
    assert math.sqrt(honest) * terms.share_std / terms.sensitivity == pytest.approx(noise_multiplier, rel=3e-6)
    assert terms.share_std / terms.sensitivity == pytest.approx(shares.share(noise_multiplier), rel=3e-6)


def test_measured_on_the_wire_the_honest_noise_is_the_noise_multiplier_times_the_clip():
    terms = mechanism(shares=NoiseShares(4, 1, 1), dimension=20_000, noise_multiplier=1.3)
    honest = [terms.encode([], source_of("wire", h)) for h in range(4 - 1 - 1)]
    noise = terms.decode(np.sum(honest, axis=0))
    tightening = 1 - math.sqrt(20_000) / 2 / terms.sensitivity
    assert has_std(noise, 1.3 * 0.7 / tightening)
    assert not has_std(noise, 1.3 * 0.7 / tightening * 0.96)
    # One share less is noticed.
    assert not has_std(terms.decode(honest[0]), 1.3 * 0.7 / tightening)


def test_what_the_accountant_takes_off_was_set_aside():
    assert SMOOTHING_SQUARED == SMOOTHING**2
    for noise_multiplier in (0.25, 0.5, 1.0, 1.15, math.pi, 20.0):
        terms = mechanism(noise_multiplier=noise_multiplier, dimension=50)
        release = DiscreteShares(terms.share_std, terms.shares.honest, terms.sensitivity, terms.dimension)
        assert release.noise_multiplier >= noise_multiplier
        one_more = Fraction(terms.shares.honest * 4**20 - 9, (terms.sensitivity + 1) ** 2)
        assert one_more < Fraction(noise_multiplier) ** 2  # D is the largest that keeps the promise


def test_a_decoded_total_is_the_sum_of_clipped_gradients():
    terms = mechanism(dimension=50)
    rows = [0.01 * gradients_of(h, 1, 50)[0] for h in range(3)]
    decoded = terms.decode(terms.grid.sum_of(rows))
    np.testing.assert_allclose(decoded, np.sum(rows, axis=0, dtype=np.float64), atol=3 * 0.7 / terms.sensitivity)
    large = 1000 * rows[0]
    assert np.linalg.norm(terms.decode(terms.grid.sum_of([large]))) == pytest.approx(0.7, rel=1e-5)


@pytest.mark.parametrize("ring", [Ring(bits) for bits in (27, 31, 32, 40, 64)], ids=str)
def test_within_the_largest_sample_no_total_wraps_around(ring):
    terms = mechanism(dimension=1, shares=NoiseShares(10), ring=ring)
    patients = min(terms.largest_sample, 1 << 30)
    edge = terms.largest_total(patients)
    assert edge < 2 ** (ring.bits - 1)
    for total in (edge, -edge):
        assert terms.lifted(terms.in_ring(np.array([total]))).tolist() == [total]
    assert terms.for_patients(terms.largest_sample) == terms
    assert terms.largest_total(terms.largest_sample + 1) >= 2 ** (ring.bits - 1)
    if ring.bits < 64:
        assert terms.for_patients(terms.largest_sample + 1).ring == Ring(ring.bits + 1)


def test_ten_hospitals_at_noise_multiplier_1_fit_as_many_patients_as_the_page_says():
    rings = {bits: mechanism(dimension=1, shares=NoiseShares(10), ring=Ring(bits)) for bits in (31, 32, 33, 64)}
    found = {bits: terms.largest_sample for bits, terms in rings.items()}
    assert found == {31: 325, 32: 666, 33: 1349, 64: 2_932_031_939_454}


@pytest.mark.parametrize("ring", RINGS[1:], ids=str)
def test_a_sum_in_the_ring_is_the_sum(ring):
    terms = mechanism(ring=ring)
    parts = [terms.encode(gradients_of(h, 3), source_of("ring", h)) for h in range(5)]
    total = np.zeros(2_000, ring.dtype)
    for part in parts:
        total += terms.in_ring(part)
    np.testing.assert_array_equal(terms.lifted(total), sum(parts))
    assert (terms.lifted(total) < 0).any()


@pytest.mark.parametrize("ring", RINGS[:-1], ids=str)
def test_a_wrapped_sum_is_off_by_the_ring_and_one_of_another_word_is_refused(ring):
    half = 2 ** (ring.bits - 1)
    terms = mechanism(ring=ring)
    assert terms.lifted(terms.in_ring(np.array([half, -half - 1]))).tolist() == [-half, half - 1]
    with pytest.raises(PrivacyError, match="in the ring"):
        terms.lifted(np.zeros(1, np.uint64 if ring.word_bits == 32 else np.uint32))


def test_every_parameter_is_part_of_what_hospitals_agree_on():
    def agreed(**changes):
        return canonical(sorted(mechanism(**changes).parameters.items()))

    assert agreed(noise_multiplier=1) == agreed(noise_multiplier=1.0)
    other: dict[str, dict[str, Any]] = {
        "clipping_norm": {"clipping_norm": 0.8}, "noise_multiplier": {"noise_multiplier": 1.1},
        "dimension": {"dimension": 2_001}, "hospitals": {"shares": NoiseShares(6)},
        "colluders": {"shares": NoiseShares(5, 2)}, "dropouts": {"shares": NoiseShares(5, 1, 1)},
        "grid_bits": {"grid_bits": 19}, "ring": {"ring": Ring(32)},
    }  # fmt: skip
    assert other.keys() == mechanism().parameters.keys()
    assert len({agreed(), *(agreed(**changes) for changes in other.values())}) == 1 + len(other)


def test_the_noise_keeps_to_its_part_of_the_ring():
    terms = mechanism(dimension=1)
    std = 2**20 * math.sqrt(5)
    assert terms.largest_total(0) >= 12 * std
    assert 2 * math.exp(-((terms.largest_total(0) / std) ** 2) / 2) < 1.1e-31


def test_without_randomness_nothing_is_encoded():
    terms = mechanism()

    def broken(count):
        raise OSError("no entropy")

    for patients in (0, 2):
        with pytest.raises(OSError, match="no entropy"):
            terms.encode(gradients_of(0, patients), broken)
    assert not noise_threads()
    with pytest.raises(PrivacyError, match="must give"):
        terms.encode(gradients_of(0, 2), lambda count: bytes(count // 2))


def noise_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("noise")]


def test_the_share_is_drawn_while_gradients_are_computed():
    """Each of the two waits for the other to have begun: one after the other, neither would go on."""
    terms, computing, drawing = mechanism(), threading.Event(), threading.Event()
    source = source_of("beside", 0)

    def random_bytes(count):
        drawing.set()
        assert computing.wait(10), "no gradient was computed while noise was drawn"
        return source(count)

    def gradients():
        computing.set()
        assert drawing.wait(10), "no noise was drawn while gradients were computed"
        yield from gradients_of(0, 2)

    noised = terms.encode(gradients(), random_bytes)
    clear = terms.grid.sum_of(gradients_of(0, 2))
    np.testing.assert_array_equal(noised - clear, discrete_gaussian(2_000, 1 << 20, source_of("beside", 0)))
    assert not noise_threads()


@pytest.mark.parametrize("source_fails", [False, True])
def test_gradients_that_fail_are_heard_of_and_leave_no_thread_behind(source_fails):
    terms, read = mechanism(dimension=60_000), [0]
    source = source_of("failing", 0)

    def random_bytes(count):
        read[0] += 1
        if source_fails:
            raise OSError("no entropy")
        return source(count)

    def gradients():
        yield gradients_of(0, 1, 60_000)[0]
        raise RuntimeError("patient 17 broke it")

    with pytest.raises(RuntimeError, match="patient 17"):
        terms.encode(gradients(), random_bytes)
    assert not noise_threads()
    before = read[0]
    terms.encode([], source_of("another", 0))
    assert read[0] == before, "the source was read after the round had ended"


def test_no_share_is_added_twice():
    terms, source = mechanism(), source_of("twice", 0)
    first, second = terms.encode([], source), terms.encode([], source)
    assert np.mean(first == second) < 0.01
    assert has_std(first - second, math.sqrt(2) * 2**20)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": math.inf}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"noise_multiplier": 0.001}, "grid bits"),
        ({"noise_multiplier": 1e9}, "grid"),
        ({"grid_bits": 1}, "grid_bits"),
        ({"grid_bits": 25}, "grid_bits"),
        ({"dimension": 0}, "dimension"),
        ({"dimension": 10**15}, "rounding alone"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(changes, match):
    with pytest.raises(PrivacyError, match=match):
        mechanism(**changes)


def test_one_hospital_colludes_if_nothing_else_is_said():
    assert NoiseShares(5) == NoiseShares(5, colluders=1, dropouts=0)
