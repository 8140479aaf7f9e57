"""Heads as matrix products: the engine's sums, to the rounding of float32, and its bounds."""

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.errors import raises_code
from tests.names import names
from torch import nn

from wardround.errors import PrivacyError
from wardround.models.linear import linear_layer
from wardround.models.network import Network, Normalise
from wardround.models.networks.ordinal import ContinuationRatios
from wardround.per_patient.clipping_rules import Automatic, Flat, PerLayer
from wardround.training.exact_head import Steps
from wardround.training.heads import HeadSums
from wardround.training.losses import cross_entropy, focal
from wardround.training.patients import Sample, TrainingPatients
from wardround.training.threads import using_threads
from wardround.training.workbench import Workbench

FEATURES = 6


def bench_of(rows, classes=3, bias=False, loss=cross_entropy, grades=False):
    head = nn.Linear(rows.shape[1], classes - grades, bias=bias)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), classifier=head)
    if grades:
        layers["grades"] = ContinuationRatios()
    network = Network("features", Normalise(), nn.Sequential(layers), True)
    return Workbench(network, np.zeros((len(rows), 1, 2, 3), dtype=np.uint8), loss, 1 << 20, inputs=rows)


def cohort(counts, classes=3, seed=0, scale=1.0):
    """Patients with so many pictures each, their rows, and weights of a head."""
    draw, total = np.random.default_rng(seed), sum(counts)
    rows = torch.from_numpy((draw.normal(size=(total, FEATURES)) * scale).astype(np.float32))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    at = draw.permutation(total).astype(np.int64)  # rows of a cache are in no patient's order
    patients = TrainingPatients(at, draw.integers(0, classes, total), starts, names(len(counts)))
    return patients, rows


def both(bench, weights, samples, norm, rule=None, class_weights=None):
    """Sums by matrix products, then by the engine."""
    assert bench._head is not None
    ours = bench.gradient_sums(weights, samples, norm, 0, rule, class_weights)
    bench._head = None
    return ours, bench.gradient_sums(weights, samples, norm, 0, rule, class_weights)


@settings(max_examples=10)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=7),
    st.sampled_from([Flat(), Automatic(), PerLayer()]),
    st.sampled_from([0.05, 0.5, 1e4, math.inf]),
    st.booleans(),
    st.sampled_from([None, (0.5, 2.0, 1.0)]),
    st.booleans(),
    st.integers(0, 100),
)
def test_sums_are_the_engines(counts, rule, norm, bias, class_weights, grades, seed):
    """For patients of none to five pictures, any order of the cache, part of the patients, three rules."""
    if not sum(counts) or (math.isinf(norm) and isinstance(rule, Automatic)):
        return
    patients, rows = cohort(counts, seed=seed)
    draw = np.random.default_rng(seed)
    chosen = np.flatnonzero(draw.random(len(counts)) < 0.7)
    bench = bench_of(rows, bias=bias, grades=grades)
    weights = draw.normal(size=bench.initial_weights.size).astype(np.float32)
    samples = [Sample(patients, chosen), Sample(patients, np.arange(len(counts)))]
    for ours, engine in zip(*both(bench, weights, samples, norm, rule, class_weights), strict=True):
        largest = max(1.0, float(engine.vector.abs().max()))  # entries cancel, and round as the largest do
        assert torch.allclose(ours.vector.double(), engine.vector.double(), rtol=2e-5, atol=2e-6 * largest)
        assert (ours.sensitivity, ours.within) == (engine.sensitivity, engine.within)


def test_a_cohort_larger_than_one_product_is_summed_in_parts(monkeypatch):
    patients, rows = cohort([2, 1, 3, 2, 8, 1])
    bench = bench_of(rows)
    whole = bench.gradient_sums(bench.initial_weights, [Sample(patients, np.arange(6))], 0.5, 0)
    monkeypatch.setattr("wardround.training.heads._AT_ONCE", 3)
    parts = bench_of(rows).gradient_sums(bench.initial_weights, [Sample(patients, np.arange(6))], 0.5, 0)
    assert torch.allclose(whole[0].vector.double(), parts[0].vector.double(), rtol=1e-6, atol=1e-7)
    assert whole[0].within == parts[0].within


@pytest.mark.parametrize("exactly", [False, True])
def test_batches_that_are_kept_change_no_bit(exactly, monkeypatch):
    """Everyone, some, and everyone again: with room for all batches, on one thread and on three, and with none."""
    patients, rows = cohort([2, 1, 3, 2, 8, 1] * 20)
    everyone = np.arange(120)
    draws = [everyone, np.array([0, 3, 5, *range(20, 90)]), everyone, everyone[::-1].copy(), everyone]
    found = []
    for room, threads in ((1 << 28, 1), (1 << 28, 3), (0, 3)):
        monkeypatch.setattr("wardround.training.pairs.MOST_KEPT", room)
        for module in ("heads", "exact_head"):
            monkeypatch.setattr(f"wardround.training.{module}._AT_ONCE", 3)
        with using_threads(threads):
            bench, steps = bench_of(rows), Steps(370_000, 1042, 1.4e6)
        weights = np.random.default_rng(0).normal(size=(5, 3 * FEATURES)).astype(np.float32)
        for at, chosen in zip(weights, draws, strict=True):
            one = Sample(patients, chosen)
            if exactly:
                found.append(bench.exact_sum(at, one, 0.25, Flat(), steps))
            else:
                found.append(bench.gradient_sums(at, [one], 0.25, 0)[0].vector.numpy())
    assert all(np.array_equal(one, found[at % len(draws)]) for at, one in enumerate(found))


@settings(max_examples=8)
@given(st.integers(0, 1000), st.sampled_from([0.01, 0.25, 1.0]), st.sampled_from([1.0, 30.0]), st.booleans())
def test_one_patient_moves_the_sum_by_at_most_the_clip(seed, norm, scale, grades):
    """Neighbours by removal of each patient: the bound holds for rows of any norm and for repeated pictures."""
    patients, rows = cohort([1, 4, 2, 3], seed=seed, scale=scale)
    rows[patients.rows[1:5]] = rows[patients.rows[1]].clone()  # one patient's pictures are all alike
    bench, everyone = bench_of(rows, grades=grades), np.arange(4)
    weights = np.random.default_rng(seed).normal(size=bench.initial_weights.size).astype(np.float32) * 5
    samples = [Sample(patients, everyone), *(Sample(patients, np.delete(everyone, out)) for out in everyone)]
    whole, *without = bench.gradient_sums(weights, samples, norm, 0)
    assert all(float((whole.vector - part.vector).norm()) <= norm for part in without)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "norm"), [(1.0, 1e-6), (1e4, 1e-3), (1e6, 0.01)])
def test_a_patient_whose_pictures_cancel_moves_the_sum_by_at_most_the_clip(scale, norm, bias):
    """Pictures that are nearly alike, one of the second class, at weights that give this class its share of them."""
    for seed, count in ((seed, count) for seed in range(4) for count in (2, 3, 12)):
        draw = np.random.default_rng(seed)
        patients, rows = cohort([1, count], classes=1, seed=seed)
        one = draw.normal(size=FEATURES)
        alike = one + draw.normal(size=(count, FEATURES)) * 10.0 ** (-7 + seed % 3)
        at = patients.rows[1:]
        rows[at] = torch.from_numpy((alike * scale / np.linalg.norm(one)).astype(np.float32))
        patients.labels[1] = 1
        weights = np.zeros((2, FEATURES), dtype=np.float32)
        weights[1] = one / np.linalg.norm(one) * math.log(1 / (count - 1)) / scale
        flat = np.concatenate([weights.ravel(), np.zeros(2 * bias, dtype=np.float32)]).astype(np.float32)
        bench = bench_of(rows, classes=2, bias=bias)
        samples = [Sample(patients, np.arange(2)), Sample(patients, np.arange(1))]
        whole, without = bench.gradient_sums(flat, samples, norm, 0)
        assert float((whole.vector.double() - without.vector.double()).norm()) <= norm


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_a_patient_with_a_row_out_of_range_adds_nothing_and_changes_no_bit(value):
    patients, rows = cohort([1, 1, 2])
    weights = np.random.default_rng(2).normal(size=3 * FEATURES).astype(np.float32)
    others = Sample(patients, np.array([0, 2]))
    [before] = bench_of(rows).gradient_sums(weights, [others], 0.5, 0)
    rows[patients.rows[1]] = value
    bench = bench_of(rows)
    after, joined = bench.gradient_sums(weights, [others, Sample(patients, np.arange(3))], 0.5, 0)
    assert torch.equal(after.vector, before.vector)
    assert torch.allclose(joined.vector, before.vector, rtol=1e-6, atol=1e-7)


def test_no_sum_depends_on_the_other_hospitals():
    patients, rows = cohort([2, 1, 3, 2])
    bench = bench_of(rows)
    one, other = (Sample(patients, np.array(chosen)) for chosen in ([0, 1], [2, 3]))
    weights = np.random.default_rng(1).normal(size=3 * FEATURES).astype(np.float32)
    [alone] = bench.gradient_sums(weights, [other], 0.5, 0)
    [_, beside] = bench.gradient_sums(weights, [one, other], 0.5, 0)
    assert torch.equal(alone.vector, beside.vector)


def test_a_gradient_that_is_not_finite_adds_nothing():
    patients, rows = cohort([1, 1, 2])
    rows[patients.rows[1]] = 1e5
    weights = np.full(3 * FEATURES, 1e37, dtype=np.float32)
    weights[:FEATURES] = -1e37
    [clipped] = bench_of(rows).gradient_sums(weights, [Sample(patients, np.arange(3))], 0.5, 0)
    assert torch.isfinite(clipped.vector).all()


@pytest.mark.parametrize("norm", [0.0, -1.0, 1e-12, math.nan])
def test_a_clip_too_small_to_measure_is_refused(norm):
    patients, rows = cohort([1, 2])
    with raises_code(PrivacyError, PrivacyError("").code):
        bench_of(rows).gradient_sums(np.zeros(18, dtype=np.float32), [Sample(patients, np.arange(2))], norm, 0)


def test_other_losses_and_networks_are_the_engines():
    _, rows = cohort([1, 2])
    deep = Network("deep", Normalise(), nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU(), nn.Linear(4, 3)), True)
    assert bench_of(rows, loss=focal)._head is None
    assert bench_of(rows, loss=focal, grades=True)._head is None
    assert linear_layer(deep) is None
    assert HeadSums.of(deep, rows, cross_entropy) is None
    layers = nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU(), nn.Linear(4, 3), ContinuationRatios())
    assert HeadSums.of(Network("deep", Normalise(), layers, True), rows, cross_entropy) is None
