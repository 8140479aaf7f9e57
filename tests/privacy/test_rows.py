"""Every clipping rule on a grid: one patient's row keeps the bound in whole numbers, and sums to what is simulated."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests import plans
from tests.cases import examples
from torch import nn

from wardround.errors import PrivacyError
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import clipped_sum, per_patient_gradients
from wardround.per_patient.clipping_rules import Automatic, ClippingKind, rule_of
from wardround.per_patient.layout import Layout
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.privacy.adaptive import AdaptiveNorm
from wardround.privacy.plans.kinds import Clip
from wardround.privacy.plans.wording import clipping_terms
from wardround.privacy.rows import CountedRow, SectionedRow, rows_of
from wardround.secure_aggregation.integers.grid import LARGEST_BOUND, Grid

C = 0.5
EVERY_KIND = list(ClippingKind)
SECTIONED = [ClippingKind.PER_LAYER, ClippingKind.PER_LAYER_BY_SIZE, ClippingKind.AUTOMATIC]
EXTREME = [np.nan, np.inf, -np.inf, 1e38, -1e38, 1e200, 1e308, 5e-324, 1e-45, 0.5, -0.5, 0.0]


def network(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2, bias=False)).to(dtype)


LAYOUT = Layout.of(network())
SIZES = [16, 8, 8]  # parameters of each layer, in this order


def clip_of(kind):
    return Clip(C, AdaptiveNorm() if kind is ClippingKind.ADAPTIVE else rule_of(kind))


def norm_of_round(kind):
    return 0.2 if kind is ClippingKind.ADAPTIVE else None


def rows(kind, clipping_norm=None):
    return rows_of(clip_of(kind), LAYOUT, clipping_norm or norm_of_round(kind))


def squared_norm(row):
    return sum(int(value) ** 2 for value in row)


def clipped_by_loop(kind, gradient):
    """What the rule makes of a gradient, a layer after the other, summed exactly."""
    parts = np.split(np.asarray(gradient, np.float64), np.cumsum(SIZES)[:-1])
    norms = [math.sqrt(math.fsum(value * value for value in part)) for part in parts]
    whole = math.hypot(*norms)
    if kind is ClippingKind.FLAT:
        return gradient * min(1, C / whole)
    if kind is ClippingKind.AUTOMATIC:
        return gradient * C / (whole + 0.01)
    if kind is ClippingKind.ADAPTIVE:
        of_round = 0.2
        clip = of_round * math.sqrt(0.99)
        within = 1 if whole <= clip else -1
        return np.append(gradient * min(1, clip / whole) * C / of_round, C * 0.1 * within)
    shares = [1, 1, 1] if kind is ClippingKind.PER_LAYER else SIZES
    bounds = [C * math.sqrt(share / sum(shares)) for share in shares]
    return np.concatenate(
        [part * min(1, bound / norm) for part, bound, norm in zip(parts, bounds, norms, strict=True)]
    )


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("size", [1e-4, 0.1, 1.0, 1e6])
def test_a_row_is_what_the_rule_makes_of_the_gradient_to_one_step(kind, size):
    generator = np.random.default_rng(7)
    for _ in range(5):
        gradient = size * generator.normal(size=LAYOUT.size) * np.repeat([1.0, 5.0, 0.2], SIZES)
        row = rows(kind)(gradient)
        grid = Grid(C, 1 << 21, row.size)
        expected = np.rint(clipped_by_loop(kind, gradient) * grid.steps_per_unit)
        assert np.abs(grid.sum_of([row]) - expected).max() <= 1
        assert squared_norm(grid.sum_of([row])) <= grid.bound**2


@pytest.mark.parametrize("kind", EVERY_KIND)
@given(
    st.lists(hnp.arrays(np.float64, LAYOUT.size, elements=st.floats(-10, 10)), max_size=3),
    hnp.arrays(
        np.float64, LAYOUT.size, elements=st.one_of(st.floats(), st.sampled_from(EXTREME)), fill=st.just(0.0)
    ),
    st.sampled_from([6, 1 << 20, LARGEST_BOUND]),
    st.booleans(),
    st.sampled_from([5e-324, 1e-300, 1e-3, 1.0, 1e300]),
)
@example([], np.full(LAYOUT.size, 1e38), 1 << 20, True, 1.0)
@example([], np.full(LAYOUT.size, 5e-324), 1 << 20, False, 5e-324)
@example([], np.full(LAYOUT.size, 0.4999), 6, False, 1.0)
@example([], np.eye(LAYOUT.size)[3] * 1e38, LARGEST_BOUND, True, 1.0)
@example([], np.ones(LAYOUT.size), LARGEST_BOUND, False, 1e-300)
@examples(60)
def test_neighbours_differ_by_at_most_the_bound_whatever_the_rule_and_the_gradient(
    kind, others, patient, bound, single, of_round
):
    with np.errstate(over="ignore"):
        patient = patient.astype(np.float32) if single else patient
    make = rows(kind, of_round if kind is ClippingKind.ADAPTIVE else None)
    grid = Grid(C, bound, len(make(patient)) + 2)  # two witnesses
    moved = grid.sum_of(map(make, [*others, patient])) - grid.sum_of(map(make, others))
    assert squared_norm(moved) <= bound**2
    assert not moved[-2:].any()
    if not np.isfinite(patient).all():
        assert not moved.any(), "who has no finite gradient is left out whole"


@pytest.mark.parametrize("kind", SECTIONED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_one_layer_without_a_norm_leaves_the_patient_out(kind, bad):
    gradient = np.ones(LAYOUT.size)
    gradient[-1] = bad
    assert not rows(kind)(gradient).any()


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_rule_uses_the_bound_that_it_is_given(kind):
    """No margin is lost on the way: a long gradient comes out at C, less what rounding takes."""
    row = rows(kind)(np.full(LAYOUT.size, 1e6))
    assert np.linalg.norm(row[: LAYOUT.size] if kind is ClippingKind.FLAT else row) == pytest.approx(
        1e6 * math.sqrt(LAYOUT.size) if kind is ClippingKind.FLAT else C, rel=1e-7
    )
    grid = Grid(C, 1 << 21, row.size)
    assert math.sqrt(squared_norm(grid.sum_of([row]))) > (1 << 21) - 2 * math.sqrt(row.size)


@pytest.mark.parametrize("kind", [ClippingKind.PER_LAYER, ClippingKind.PER_LAYER_BY_SIZE])
def test_with_one_layer_it_is_the_flat_clip_to_one_grid_step(kind):
    layout = Layout.of(nn.Linear(200, 3).double())
    generator = np.random.default_rng(2)
    grid = Grid(C, LARGEST_BOUND, layout.size)
    for size in (1e-4, 0.02, 1.0, 1e9):
        gradient = size * generator.normal(size=layout.size)
        of_layers, flat = (
            grid.sum_of([rows_of(clip_of(k), layout, None)(gradient)]) for k in (kind, ClippingKind.FLAT)
        )
        assert np.abs(of_layers - flat).max() <= 1
        assert flat.any()


def batch(patients=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(patients, 3, generator=generator, dtype=torch.float64) * 3
    inputs[0] = torch.nan
    labels = torch.randint(2, (patients,), generator=generator)
    return PatientBatch(inputs, labels, torch.arange(patients), patients)


def loss(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("clipping_norm", [0.05, C, 20.0])
def test_the_sum_on_the_grid_is_the_sum_that_is_simulated(kind, clipping_norm):
    """The simulated one in double precision, and without its margin, is within half a step a patient."""
    model, step = network(), batch()
    own = clip_of(kind)
    of_round = clipping_norm if kind is ClippingKind.ADAPTIVE else None
    make = rows_of(own, LAYOUT, of_round)
    per_patient = [make(gradient) for gradient in per_patient_gradients(model, loss, step).numpy()]
    grid = Grid(C, 1 << 22, len(per_patient[0]))
    found = grid.sum_of(per_patient) / grid.steps_per_unit

    clip = own.gradient_norm(of_round)
    clipped = clipped_sum(model, loss, step, clipping_norm=clip / SHAVE, clipping=own.fixed)
    counted = step.num_patients - 1 if of_round else 0  # a patient left out is not counted either
    whole = own.in_units(replace(clipped, sensitivity=clip), counted, of_round)
    atol = step.num_patients * 0.5 / grid.steps_per_unit
    np.testing.assert_allclose(found, whole.vector.numpy(), rtol=0, atol=1.01 * atol)
    assert np.abs(found).max() > 100 * atol


def test_the_released_count_gives_back_the_next_norm():
    adaptive, generator = AdaptiveNorm(0.7), np.random.default_rng(3)
    gradients = generator.normal(size=(40, 5)) * generator.lognormal(size=(40, 1))
    make = CountedRow(adaptive, 1.5, C)
    within = (np.linalg.norm(gradients, axis=1) <= adaptive.gradient_norm(1.5)).mean()
    gradient, following = adaptive.separated(np.sum([make(g) for g in gradients], axis=0), 40.0, 1.5, C)
    assert 0.2 < within < 0.95
    assert following == pytest.approx(1.5 * math.exp(-0.2 * (within - 0.7)))
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    expected = (gradients * np.minimum(1, adaptive.gradient_norm(1.5) / norms)).sum(0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_gradients_are_not_written_to():
    for kind in EVERY_KIND:
        gradient = np.full(LAYOUT.size, 3.0, np.float32)
        rows(kind)(gradient)
        assert gradient.tolist() == [3.0] * LAYOUT.size


def test_a_norm_of_the_round_is_asked_for_where_norms_adapt_and_nowhere_else():
    for kind, asked in (
        (ClippingKind.ADAPTIVE, None),
        (ClippingKind.FLAT, 0.3),
        (ClippingKind.ADAPTIVE, math.inf),
    ):
        with pytest.raises(PrivacyError, match="clipping norm"):
            rows_of(clip_of(kind), LAYOUT, asked)
    with pytest.raises(PrivacyError, match="finite"):
        SectionedRow(Automatic(), LAYOUT, math.inf)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_parameter_of_a_rule_is_a_term(kind):
    terms = clipping_terms(clip_of(kind))
    assert terms["clipping"] == kind.value
    more: dict[str, dict[str, Any]] = {
        "per-layer": {"clipping_split": "equal"},
        "per-layer-by-size": {"clipping_split": "size"},
        "automatic": {"clipping_stability": 0.01},
        "adaptive": {"clipping_quantile": 0.5, "clipping_rate": 0.2, "clipping_share": 0.01},
    }
    assert terms == {"clipping": kind.value, **more.get(kind.value, {})}


def test_every_rule_costs_what_the_flat_one_costs():
    assert len({plans.masked(clip=clip_of(kind)).epsilon for kind in EVERY_KIND}) == 1
