"""Sums of a head in whole numbers: the engine's gradients, the same bits in any company, and the bound of the grid."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.names import names
from tests.per_patient.oracle import patient_gradients
from tests.training.test_heads import FEATURES, bench_of, cohort

from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipping_rules import Automatic, Flat, PerLayer
from wardround.training import exact_head
from wardround.training.exact_head import Steps
from wardround.training.losses import cross_entropy
from wardround.training.patients import Sample, TrainingPatients

CLIP = 0.25


def steps_for(parameters, bound=370_000, clip=CLIP):
    dimension = parameters + 1024
    return Steps(bound, dimension, (bound - math.sqrt(dimension) / 2) / clip)


def fine_sum(bench, weights, patients, chosen, steps, rule=None, clip=CLIP):
    """The sum before it is rounded, in Python's whole numbers, (class, feature)."""
    high, low = bench._exact._fine_sum(
        weights, patients, np.array(chosen, dtype=np.int64), rule or Flat(), clip, steps
    )
    return high.astype(object) * 2**13 + low.astype(object)


def whole_sum(bench, weights, patients, chosen, steps, rule=None, clip=CLIP):
    """The sum in grid steps, (parameter,)."""
    sample = Sample(patients, np.array(chosen, dtype=np.int64))
    return bench.exact_sum(weights, sample, clip, rule or Flat(), steps)


def norm_of(fine, bound=370_000):
    """The norm of a sum before it is rounded, in grid steps."""
    return math.sqrt(sum(entry**2 for entry in fine.ravel())) / 2 ** (49 - bound.bit_length())


def weights_for(bench, seed=0, scale=3.0):
    return (np.random.default_rng(seed).normal(size=bench.initial_weights.size) * scale).astype(np.float32)


def gradients(bench, weights, patients, rows):
    """Each patient's gradient in double precision, by a backward pass for each."""
    at, labels = torch.from_numpy(patients.rows), torch.from_numpy(patients.labels)
    of = torch.from_numpy(np.repeat(np.arange(len(patients)), patients.counts))
    bench._load(bench.network.trained, weights)
    model = bench.network.trained.double()
    found = patient_gradients(model, cross_entropy, PatientBatch(rows[at].double(), labels, of, len(patients)))
    model.float()
    return found.numpy()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=9),
    st.sampled_from([Flat(), PerLayer(), Automatic()]),
    st.sampled_from([0.02, 0.25, 1e3]),
    st.sampled_from([1e-20, 1.0, 1e6]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 100),
)
def test_the_sum_is_of_the_clipped_gradients(counts, rule, clip, scale, bias, grades, seed):
    """The oracle is a backward pass a patient in double precision, and NumPy's norm."""
    patients, rows = cohort(counts, seed=seed, scale=scale)
    bench = bench_of(rows, bias=bias, grades=grades)
    weights = weights_for(bench, seed, 3.0 / max(1.0, scale))
    steps = steps_for(weights.size, clip=clip)
    wanted = gradients(bench, weights, patients, rows)
    norms = np.linalg.norm(wanted, axis=1, keepdims=True)
    factors = (
        clip / (norms + rule.stability) if rule == Automatic() else np.minimum(1, clip / np.maximum(norms, 1e-300))
    )
    found = whole_sum(bench, weights, patients, range(len(counts)), steps, rule, clip) / steps.per_unit
    # 2^-23 is float32's rounding; half a step a coordinate is the grid's; sqrt(d) of D steps are kept for rounding.
    room = clip * math.sqrt(steps.dimension) / steps.bound
    atol = len(counts) * (clip * 2.0**-20 + room) + 0.6 / steps.per_unit
    np.testing.assert_allclose(found, (wanted * factors).sum(axis=0), atol=atol, rtol=0)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=12),
    st.sampled_from([3, 256]),
    st.booleans(),
    st.integers(0, 100),
)
def test_a_patient_adds_the_same_whole_numbers_in_any_company(counts, at_once, grades, seed):
    """Whole cohort, each one alone, without one, in another order and in other batches: exactly additive."""
    patients, rows = cohort(counts, seed=seed)
    weights = weights_for(bench_of(rows, grades=grades), seed)
    steps, draw, everyone = steps_for(weights.size), np.random.default_rng(seed), np.arange(len(counts))
    alone = [fine_sum(bench_of(rows, grades=grades), weights, patients, [one], steps) for one in everyone]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_head, "_AT_ONCE", at_once)
        bench = bench_of(rows, grades=grades)
        for chosen in (
            everyone,
            draw.permutation(everyone),
            everyone[1:],
            everyone[draw.random(len(counts)) < 0.5],
        ):
            wanted = sum((alone[one] for one in chosen), np.zeros_like(alone[0]))
            assert (fine_sum(bench, weights, patients, chosen, steps) == wanted).all()
            rounded = np.array([[(entry + 2**29) // 2**30 for entry in row] for row in wanted], dtype=np.int64)
            assert steps.fine_bits == 30
            found = whole_sum(bench, weights, patients, chosen, steps)
            np.testing.assert_array_equal(found, rounded.ravel())


def test_batches_threads_and_other_rows_of_the_cache_change_no_bit(monkeypatch):
    """Of rows so long that products in floating point would add up in another order in another shape."""
    draw = np.random.default_rng(1)
    rows = torch.from_numpy(draw.normal(size=(300, 997)).astype(np.float32))
    patients = TrainingPatients(np.arange(280), draw.integers(0, 3, 280), np.arange(281), names(280))
    weights, everyone = weights_for(bench_of(rows), scale=0.1), np.arange(280)
    steps = steps_for(weights.size)
    known = fine_sum(bench_of(rows), weights, patients, everyone, steps)
    rows[280:, :6] = torch.tensor([math.nan, math.inf, 1e38, -1e-38, 0.0, 5.0])
    threads = torch.get_num_threads()
    try:
        for torch_threads, at_once in ((2, 256), (1, 5), (1, 1)):
            torch.set_num_threads(torch_threads)
            monkeypatch.setattr(exact_head, "_AT_ONCE", at_once)
            assert (fine_sum(bench_of(rows), weights, patients, everyone, steps) == known).all()
    finally:
        torch.set_num_threads(threads)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([1e-6, 0.25, 10.0]),
    st.sampled_from([1e-8, 1.0, 1e6, 1e20]),
    st.sampled_from([900, 370_000, 1 << 26]),
    st.sampled_from([Flat(), Automatic()]),
    st.booleans(),
    st.booleans(),
)
def test_one_patient_moves_the_sum_by_at_most_the_bound(seed, clip, scale, bound, rule, bias, grades):
    """In Python's whole numbers, for rows of any length, pictures that are alike, and labels that cancel."""
    patients, rows = cohort([1, 4, 2, 12, 3], seed=seed, scale=scale)
    draw = np.random.default_rng(seed)
    alike = patients.rows[7:19]
    rows[alike] = rows[alike[0]] * torch.from_numpy(1 + 10.0 ** draw.uniform(-8, -3, (12, 1))).float()
    bench = bench_of(rows, bias=bias, grades=grades)
    weights = weights_for(bench, seed, 10.0 ** draw.uniform(-3, 1) / scale)
    steps, everyone = steps_for(weights.size, bound, clip), np.arange(5)
    assert steps.are_fine
    whole = whole_sum(bench, weights, patients, everyone, steps, rule, clip)
    for one in everyone:
        v = fine_sum(bench, weights, patients, [one], steps, rule, clip)
        assert norm_of(v, bound) <= steps.bound - math.sqrt(steps.dimension), (
            "what is left takes any rounding of the sum"
        )
        without = whole_sum(bench, weights, patients, np.delete(everyone, one), steps, rule, clip)
        assert sum(int(entry) ** 2 for entry in whole - without) <= bound**2
    clipped = gradients(bench, weights, patients, rows)
    if (np.linalg.norm(clipped, axis=1) > clip).any() and bound > 900:
        longest = max(
            norm_of(fine_sum(bench, weights, patients, [one], steps, rule, clip), bound) for one in everyone
        )
        assert longest >= 0.85 * bound, "the bound is used"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "clip"), [(1.0, 1e-7), (1e4, 1e-3), (1e10, 1e-7)])
def test_a_patient_whose_pictures_cancel_keeps_the_bound(scale, clip, bias):
    """Pictures that are nearly alike, one of the second class, at weights that give this class its share of them."""
    for seed, count in ((seed, count) for seed in range(8) for count in (2, 3, 12)):
        draw = np.random.default_rng(seed)
        patients, rows = cohort([1, count], classes=1, seed=seed)
        one = draw.normal(size=FEATURES)
        alike = one + draw.normal(size=(count, FEATURES)) * 10.0 ** (-8 + seed % 3)
        rows[patients.rows[1:]] = torch.from_numpy((alike * scale / np.linalg.norm(one)).astype(np.float32))
        patients.labels[1] = 1
        weights = np.zeros((2, FEATURES), dtype=np.float32)
        weights[1] = one / np.linalg.norm(one) * math.log(1 / (count - 1)) / scale
        flat = np.concatenate([weights.ravel(), np.zeros(2 * bias, dtype=np.float32)]).astype(np.float32)
        bench, steps = bench_of(rows, classes=2, bias=bias), steps_for(flat.size, clip=clip)
        v = fine_sum(bench, flat, patients, [1], steps, clip=clip)
        assert norm_of(v) <= steps.bound - math.sqrt(steps.dimension)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_a_patient_with_a_row_out_of_range_adds_nothing_and_changes_no_bit(value):
    patients, rows = cohort([2, 3, 1])
    bench = bench_of(rows)
    weights, steps = weights_for(bench), steps_for(3 * FEATURES)
    others = fine_sum(bench, weights, patients, [0, 2], steps)
    rows = rows.clone()
    rows[patients.rows[3], 2] = value
    broken = bench_of(rows)
    assert (fine_sum(broken, weights, patients, [0, 1, 2], steps) == others).all()
    assert not fine_sum(broken, weights, patients, [1], steps).any()


def test_weights_that_are_not_finite_and_empty_samples_give_zeros():
    patients, rows = cohort([2, 0, 1])
    bench, steps = bench_of(rows), steps_for(3 * FEATURES)
    weights = weights_for(bench)
    for chosen in ([], [1]):
        assert not whole_sum(bench, weights, patients, chosen, steps).any()
    weights[0] = math.nan
    assert not whole_sum(bench, weights, patients, range(3), steps).any()


def test_a_patient_of_more_pictures_than_a_product_holds(monkeypatch):
    patients, rows = cohort([3, 11, 1])
    weights, steps = weights_for(bench_of(rows)), steps_for(3 * FEATURES)
    whole = fine_sum(bench_of(rows), weights, patients, [0, 1, 2], steps)
    monkeypatch.setattr(exact_head, "_AT_ONCE", 4)
    assert (fine_sum(bench_of(rows), weights, patients, [0, 1, 2], steps) == whole).all()


def test_coarse_grids_and_other_networks_are_left_to_the_engine():
    _, rows = cohort([2])
    assert not bench_of(rows).sums_exactly(Steps(200, 3 * FEATURES + 1024, 1.0))
    assert bench_of(rows).sums_exactly(Steps(300, 3 * FEATURES + 1024, 1.0))
    assert not bench_of(rows, loss=lambda output, labels: output.sum(1)).sums_exactly(steps_for(18))


def test_the_exponential_is_right_to_its_last_bits():
    draw = np.random.default_rng(0)
    values = np.concatenate([-draw.uniform(0, 700, 200), -draw.uniform(0, 1, 200), [0.0, -700.0, -1e-300]])
    with localcontext() as context:
        context.prec = 40
        exact = [Decimal(value).exp() for value in values.tolist()]
        worst = max(
            abs(Decimal(found) / known - 1) for found, known in zip(exact_head._exp(values), exact, strict=True)
        )
    assert worst < 2**-51
