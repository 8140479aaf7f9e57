"""The double-precision sum of clipped gradients: the proved error holds, and neighbours stay within the bound."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from tests.training.test_alone import PATIENTS, bench_of, patients_with
from torch import nn

from wardround.errors import PrivacyError
from wardround.models.network import Network, Normalise
from wardround.privacy.alone import PatientGradient
from wardround.privacy.clipped_total import ClippedTotal
from wardround.privacy.layout import Layout
from wardround.secure_aggregation.whole_sum import WholeSumGrid
from wardround.training.losses import cross_entropy
from wardround.training.workbench import Sample, Workbench

ROWS, COLUMNS = 5, 7
LAYOUT = Layout.of(nn.Linear(COLUMNS, ROWS))
MATRIX, BIAS = LAYOUT.parameters
U = Fraction(1, 2**53)


def total_of(gradients, clipping_norm=0.7):
    total = ClippedTotal(LAYOUT, clipping_norm)
    for gradient in gradients:
        total.add(gradient)
    return total.vector()


def formed(row):
    row = torch.from_numpy(np.asarray(row, dtype=np.float32).copy())
    return PatientGradient({MATRIX: row[: ROWS * COLUMNS].view(ROWS, COLUMNS), BIAS: row[ROWS * COLUMNS :]}, {})


def factored(a, b):
    a, b = (torch.from_numpy(np.asarray(values, dtype=np.float32).copy()) for values in (a, b))
    return PatientGradient({BIAS: a}, {MATRIX: (a, b)})


def some_patients(count, seed):
    random = np.random.default_rng(seed)
    for number in range(count):
        scale = random.lognormal(sigma=6)
        if number % 2:
            yield factored(random.normal(size=ROWS) * scale, random.normal(size=COLUMNS))
        else:
            yield formed(random.normal(size=LAYOUT.size) * scale)


def exact_row(gradient, clipping_norm):
    """A patient's real vector f g, with the factor that was used, in rational numbers."""
    norm = gradient.norm()
    factor = Fraction(min(1.0, clipping_norm / norm))
    row = []
    if MATRIX in gradient.factors:
        a, b = (values.tolist() for values in gradient.factors[MATRIX])
        row = [Fraction(x) * Fraction(y) for x in a for y in b]
    else:
        row = [Fraction(value) for value in gradient.formed[MATRIX].flatten().tolist()]
    return [factor * value for value in (*row, *map(Fraction, gradient.formed[BIAS].tolist()))]


@pytest.mark.parametrize("count", [1, 2, 33, 100])
@pytest.mark.parametrize("clipping_norm", [1e-10, 0.7, 1e4])
def test_the_computed_sum_is_the_real_one_within_the_proved_error(count, clipping_norm):
    patients = list(some_patients(count, count))
    exact = [exact_row(patient, clipping_norm) for patient in patients]
    longest = Fraction(clipping_norm) * (1 + Fraction(1, 2**24))
    assert all(sum(value**2 for value in row) <= longest**2 for row in exact), "the clip, in real numbers"
    gamma = (count + 2) * U / (1 - (count + 2) * U)
    for order in (list(range(count)), np.random.default_rng(count).permutation(count).tolist()):
        computed = total_of([patients[k] for k in order], clipping_norm)
        error = sum(
            (Fraction(value) - sum(column)) ** 2
            for value, column in zip(computed, zip(*exact, strict=True), strict=True)
        )
        assert error <= (gamma * count * longest) ** 2
        for value, column in zip(computed, zip(*exact, strict=True), strict=True):
            assert abs(Fraction(value) - sum(column)) <= gamma * sum(map(abs, column)), "in each coordinate"


CRAFTED = {
    "large": formed(np.full(LAYOUT.size, 1e38)),
    "one large": formed(np.r_[3e38, np.zeros(LAYOUT.size - 1)]),
    "equal": formed(np.full(LAYOUT.size, 7.0)),
    "tiny": formed(np.full(LAYOUT.size, 1e-45)),
    "zero": formed(np.zeros(LAYOUT.size)),
    "cancelling": formed(np.r_[np.full(20, 1e30), np.full(LAYOUT.size - 20, -1e30)]),
    "at the clip": formed(np.full(LAYOUT.size, 0.7 / math.sqrt(LAYOUT.size))),
    "large factors": factored(np.full(ROWS, 3e38), np.full(COLUMNS, 3e38)),
    "tiny factors": factored(np.full(ROWS, 1e-45), np.full(COLUMNS, 1e-45)),
    "large and tiny": factored(np.full(ROWS, 3e38), np.full(COLUMNS, 1e-38)),
    "NaN": formed(np.r_[np.nan, np.zeros(LAYOUT.size - 1)]),
    "infinite": formed(np.r_[np.zeros(LAYOUT.size - 1), -np.inf]),
    "NaN factor": factored(np.r_[np.nan, np.ones(ROWS - 1)], np.zeros(COLUMNS)),
    "infinite factor": factored(np.ones(ROWS), np.r_[np.inf, np.zeros(COLUMNS - 1)]),
}


@pytest.mark.parametrize("bound", [14, 1 << 20, 1 << 26])
def test_neighbours_stay_within_the_bound_in_whole_numbers_whatever_the_gradients_and_their_order(bound):
    grid = WholeSumGrid(0.7, bound, LAYOUT.size)
    random = np.random.default_rng(bound)
    pool = [*CRAFTED.values(), *some_patients(20, 1)]
    for patient in pool:
        for _ in range(4):
            others = [pool[k] for k in random.integers(len(pool), size=random.integers(80))]
            joined = list(others)
            joined.insert(random.integers(len(others) + 1), patient)
            random.shuffle(others)  # neighbours need not be added up in the same order
            moved = grid.rounded(total_of(joined)) - grid.rounded(total_of(others))
            assert sum(int(value) ** 2 for value in moved) <= bound**2


@pytest.mark.parametrize("name", ["NaN", "infinite", "NaN factor", "infinite factor"])
def test_a_patient_without_a_finite_gradient_adds_exactly_nothing(name):
    others = list(some_patients(7, 2))
    bad = CRAFTED[name]
    np.testing.assert_array_equal(total_of([*others[:3], bad, *others[3:]]), total_of(others))
    assert not total_of([bad]).any()


def test_what_is_within_the_clip_is_added_as_it_is_and_what_is_not_is_brought_to_it():
    small, large = formed(np.full(LAYOUT.size, 0.01)), CRAFTED["equal"]
    np.testing.assert_array_equal(total_of([small]), np.full(LAYOUT.size, np.float64(np.float32(0.01))))
    assert np.linalg.norm(total_of([large])) == pytest.approx(0.7, rel=1e-14)
    assert np.linalg.norm(total_of([CRAFTED["large factors"]])) == pytest.approx(0.7, rel=1e-12)
    assert not total_of([]).any()


@pytest.mark.parametrize("clipping_norm", [0.0, -1.0, 1e-11, np.inf, np.nan])
def test_a_clipping_norm_that_the_error_cannot_be_held_against_is_refused(clipping_norm):
    with pytest.raises(PrivacyError, match="clipping_norm"):
        ClippedTotal(LAYOUT, clipping_norm)


@pytest.mark.parametrize("name", ["small_cnn", "squeezenet", pytest.param("alexnet", marks=pytest.mark.slow)])
def test_of_a_network_it_is_the_sum_of_the_clipped_gradients_of_its_patients(name):
    bench, patients = bench_of(name, size=64 if name == "alexnet" else 32), patients_with([1, 2, 1, 3, 1, 1])
    everyone = Sample(patients, np.arange(PATIENTS))
    rows = [row.astype(np.float64) for row in bench.patient_gradients(bench.initial_weights, everyone, 3)]
    norms = [math.sqrt(math.fsum(row**2)) for row in rows]
    clipping_norm = float(np.median(norms))
    expected = sum(
        row * min(1.0, clipping_norm / (norm or math.inf)) for row, norm in zip(rows, norms, strict=True)
    )
    total = bench.clipped_total(bench.initial_weights, everyone, clipping_norm, 3)
    assert total.dtype == np.float64
    # Factors are multiplied in double precision, formed gradients were rounded to single: 2^-23 of each entry.
    assert np.linalg.norm(total - expected) <= 2.0**-23 * PATIENTS * clipping_norm


def test_a_large_matrix_is_left_as_factors_where_a_patient_has_one_picture():
    network = Network(
        "wide", Normalise(), nn.Sequential(nn.Flatten(), nn.Linear(1024, 128), nn.Linear(128, 2)), False
    )
    bench, patients = Workbench(network, bench_of("linear")._pixels, cross_entropy, 1 << 26), patients_with([1, 2])
    layout = Layout.of(bench.network.trained)
    one, two = bench._gradients_alone(
        bench.initial_weights, Sample(patients, np.arange(2)), 0, layout, factored=True
    )
    assert set(one.factors) == {"1.weight"}
    assert not two.factors, "the terms of several pictures may cancel"
