"""Clipping rules against a loop over patients and layers, and the bound that each keeps."""

import functools
import math
import sys

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tests.cases import examples, family
from tests.per_patient.clipped import (
    NETWORKS,
    ONE_EACH,
    RULES,
    UNEVEN,
    agrees,
    batch_of,
    built,
    changed,
    clipped_by_hand,
    columns_of_layers,
    convolutional,
    every_network,
    every_rule,
    every_slow_network,
    gradients_of,
    studied,
    with_bare_parameters,
    with_one_use_of_two_modules,
    without,
)
from tests.per_patient.oracle import cross_entropy, parameter_sizes, relative_error, typical_clipping_norm
from torch import nn

from wardround.errors import PrivacyError
from wardround.per_patient import sums
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import clipped_sum, clipped_sums_by_group
from wardround.per_patient.clipping_rules import Automatic, Flat, PerLayer, Split
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.per_patient.slow_path import SlowPath

pytestmark = pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")


# The rules against the oracle.


@every_rule
@every_network
def test_every_rule_is_what_a_loop_over_patients_and_layers_gives(network, rule):
    model = studied(network)
    for counts in (ONE_EACH, UNEVEN, (1, 0, 1)):
        gradients, batch = gradients_of(network, counts), batch_of(network, counts)
        typical = typical_clipping_norm(gradients)
        for clipping_norm in (1e-5, 0.4 * typical, 2 * typical):
            ours = clipped_sum(model, cross_entropy, batch, clipping_norm=clipping_norm, clipping=rule)
            agrees(model, ours.vector, clipped_by_hand(model, gradients, rule, clipping_norm))
            assert ours.sensitivity == clipping_norm


@every_rule
@every_network
@pytest.mark.parametrize("memory_bytes", family([1, 10_000, 3_000_000]))
def test_every_rule_in_several_pieces(network, rule, memory_bytes):
    model = studied(network)
    for counts in (ONE_EACH, UNEVEN):
        gradients, batch = gradients_of(network, counts), batch_of(network, counts)
        clipping_norm = typical_clipping_norm(gradients)
        ours = clipped_sum(
            model, cross_entropy, batch, clipping_norm=clipping_norm, clipping=rule, memory_bytes=memory_bytes
        )
        agrees(model, ours.vector, clipped_by_hand(model, gradients, rule, clipping_norm))


@every_rule
@every_network
@pytest.mark.parametrize("memory_bytes", family([1, 1 << 30]))
def test_every_rule_by_group(network, rule, memory_bytes):
    model, group = studied(network), torch.tensor([2, 0, 0, 2])
    for counts in (ONE_EACH, UNEVEN):
        gradients, batch = gradients_of(network, counts), batch_of(network, counts)
        clipping_norm = typical_clipping_norm(gradients)
        sums = clipped_sums_by_group(
            model, cross_entropy, batch, group, 4,
            clipping_norm=clipping_norm, clipping=rule, memory_bytes=memory_bytes,
        )  # fmt: skip
        clipped = clipped_by_hand(model, gradients, rule, clipping_norm)
        for number, ours in enumerate(sums):
            if (group == number).any():
                agrees(model, ours.vector, clipped[group == number])
            else:
                assert not ours.vector.any()


@every_rule
@every_network
def test_every_rule_in_single_precision(network, rule):
    model = studied(network, torch.float32)
    for counts in (ONE_EACH, UNEVEN):
        gradients, batch = gradients_of(network, counts), batch_of(network, counts, dtype=torch.float32)
        for clipping_norm in (1e-5, typical_clipping_norm(gradients)):
            ours = clipped_sum(model, cross_entropy, batch, clipping_norm=clipping_norm, clipping=rule).vector
            agrees(model, ours, clipped_by_hand(model, gradients, rule, clipping_norm), tolerance=2e-4)


@every_slow_network
def test_the_slow_path_is_announced_for_these_networks(network):
    with pytest.warns(SlowPath, match="slow path for"):
        clipped_sum(built(network), cross_entropy, batch_of(network, ONE_EACH), clipping_norm=1.0)


def test_the_networks_here_leave_gradients_of_every_kind(monkeypatch):
    kinds = set()

    def noted(totals, piece, owner, layout, factors):
        tape = piece.tape
        few = [] if tape is None or tape.few is None else tape.few[0]
        kinds.update(
            {"rows"} if tape is None else {kind for kind in ("deferred", "formed") if getattr(tape, kind)}
        )
        kinds.update(
            {"few"} if few else set(), {"large"} if tape is not None and len(tape.kept) > len(few) else ()
        )
        sums.add(totals, piece, owner, layout, factors)

    monkeypatch.setattr(sys.modules[clipped_sum.__module__], "add", noted)
    for network in NETWORKS:
        clipped_sum(studied(network), cross_entropy, batch_of(network, ONE_EACH), clipping_norm=1.0)
    assert kinds == {"rows", "few", "large", "deferred", "formed"}


def test_some_layers_are_clipped_and_some_are_not():
    gradients = gradients_of(convolutional, ONE_EACH)
    norm = typical_clipping_norm(gradients)
    clipped = clipped_by_hand(studied(convolutional), gradients, PerLayer(), norm)
    left = [torch.equal(clipped[:, at], gradients[:, at]) for at in columns_of_layers(studied(convolutional))]
    assert 0 < sum(left) < len(left) == 5


# The bound.


@given(
    sizes=st.lists(st.integers(1, 10**8), min_size=1, max_size=200),
    clipping_norm=st.floats(1e-6, 1e6),
    split=st.sampled_from(Split),
)
def test_the_squares_of_the_layers_bounds_add_up_to_the_square_of_the_whole(sizes, clipping_norm, split):
    bounds = PerLayer(split).bounds(sizes, clipping_norm)
    assert math.fsum(b * b for b in bounds) == pytest.approx(clipping_norm**2, rel=1e-12)
    shares = sizes if split is Split.SIZE else [1] * len(sizes)
    assert bounds == pytest.approx([bounds[0] * math.sqrt(s / shares[0]) for s in shares], rel=1e-12)


@given(
    norms=st.lists(st.floats(0, 1e150), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 10**6), min_size=6, max_size=6),
    clipping_norm=st.floats(1e-6, 1e6),
    name=st.sampled_from([*RULES]),
)
def test_factors_bring_any_norms_below_the_bound(norms, sizes, clipping_norm, name):
    rule = RULES[name]
    norms = norms if isinstance(rule, PerLayer) else norms[:1]
    column = torch.tensor(norms, dtype=torch.float64)[:, None]
    factors = rule.factors(column, sizes[: len(norms)], clipping_norm)
    assert factors.shape == column.shape
    assert (factors > 0).all()
    assert (factors * column).norm() <= clipping_norm * SHAVE * (1 + 1e-12)


@given(
    network=st.sampled_from([*NETWORKS]),
    name=st.sampled_from([*RULES]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    pictures=st.integers(1, 3),
    seed=st.integers(0, 99),
    value=st.sampled_from([1e-30, 1.0, 1e3, 1e30]),
    clipping_norm=st.sampled_from([1e-4, 1e-2, 1.0, 1e4]),
)
@examples(120)
def test_no_patient_contributes_more_than_the_clip(network, name, dtype, pictures, seed, value, clipping_norm):
    batch = changed(batch_of(network, (pictures,), seed=seed, dtype=dtype), 0, value)
    model = studied(network, dtype)
    ours = clipped_sum(model, cross_entropy, batch, clipping_norm=clipping_norm, clipping=RULES[name])
    vector = ours.vector.double()
    assert torch.isfinite(vector).all()
    assert vector.norm() <= clipping_norm


@every_rule
@every_network
def test_a_patient_with_a_picture_that_is_not_finite_contributes_exactly_zero(network, rule):
    model = studied(network, torch.float32)
    ask = functools.partial(clipped_sum, model, cross_entropy, clipping_norm=0.5, clipping=rule)
    for value in (math.nan, math.inf):
        for counts, poisoned in ((ONE_EACH, 1), (UNEVEN, 0)):
            batch = batch_of(network, counts, dtype=torch.float32)
            ours, rest = ask(changed(batch, poisoned, value)).vector, ask(without(batch, poisoned)).vector
            error, worst = relative_error(ours, rest.double(), parameter_sizes(model))
            assert error < 1e-5, worst
        alone = ask(changed(batch_of(network, (2,), dtype=torch.float32), 0, value)).vector
        assert not alone.any()


@given(
    network=st.sampled_from([*NETWORKS]),
    name=st.sampled_from([*RULES]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    counts=st.lists(st.integers(0, 2), min_size=2, max_size=4).filter(lambda counts: sum(counts) > 1),
    values=st.lists(st.sampled_from([1e-30, 1.0, 1e3, 1e30, math.nan, math.inf]), min_size=4, max_size=4),
    clipping_norm=st.sampled_from([1e-4, 1e-2, 1.0, 1e4]),
    memory_bytes=st.sampled_from([1, 1 << 30]),
)
@example(
    network=with_one_use_of_two_modules, name="flat", dtype=torch.float32, counts=[2, 1],
    values=[1e-30, 1e30, 1e-30, 1e-30], clipping_norm=1e-4, memory_bytes=1 << 30,
)  # fmt: skip
@examples(60)
def test_removing_any_patient_moves_the_sum_by_at_most_the_clip(
    network, name, dtype, counts, values, clipping_norm, memory_bytes
):
    batch = batch_of(network, counts, dtype=dtype)
    for patient, value in zip(range(len(counts)), values, strict=False):
        batch = changed(batch, patient, value)

    def sum_of(patients):
        ours = clipped_sum(
            studied(network, dtype), cross_entropy, patients,
            clipping_norm=clipping_norm, clipping=RULES[name], memory_bytes=memory_bytes,
        )  # fmt: skip
        return ours.vector.double()

    whole = sum_of(batch)
    assert torch.isfinite(whole).all()
    for patient in range(len(counts)):
        assert (whole - sum_of(without(batch, patient))).norm() <= clipping_norm


# Automatic clipping.


@every_network
def test_automatic_clipping_with_little_stability_brings_every_gradient_to_the_clip(network):
    for seed in range(3):
        for clipping_norm in (1e-3, 1.0, 1e3):
            batch = batch_of(network, (2,), seed=seed)
            ours = clipped_sum(
                studied(network), cross_entropy, batch, clipping_norm=clipping_norm, clipping=Automatic(1e-10)
            )
            assert float(ours.vector.norm()) == pytest.approx(clipping_norm * SHAVE, rel=1e-9)


def test_stability_keeps_tiny_gradients_tiny():
    norms = torch.tensor([[1e-6, 1e-2, 1.0, 1e6]], dtype=torch.float64)
    contributions = Automatic(0.01).factors(norms, [1], 1.0) * norms
    assert contributions[0].tolist() == pytest.approx([1e-4, 0.5, 1 / 1.01, 1.0], rel=1e-3)


@pytest.mark.parametrize("stability", [0.0, 1e-12, -1e-3, math.nan, math.inf, -math.inf])
def test_a_stability_that_is_no_number_well_above_zero_is_refused(stability):
    with pytest.raises(PrivacyError, match="stability must be a number >= 1e-10"):
        Automatic(stability)


def test_automatic_clipping_without_a_clip_is_refused():
    batch = batch_of(with_bare_parameters, ONE_EACH)
    model = studied(with_bare_parameters)
    with pytest.raises(PrivacyError, match="needs a finite clipping_norm"):
        clipped_sum(model, cross_entropy, batch, clipping_norm=math.inf, clipping=Automatic())


# What is the same.


@pytest.mark.parametrize("split", Split)
def test_layer_by_layer_on_a_single_module_is_flat(split):
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(6, 6).requires_grad_(False), nn.Tanh(), nn.Linear(6, 3))
    for model in (nn.Linear(6, 3).double(), frozen.double()):
        for counts in (ONE_EACH, UNEVEN):
            batch = batch_of(with_bare_parameters, counts)
            for clipping_norm in (0.1, 1.0, 10.0):
                ask = functools.partial(clipped_sum, model, cross_entropy, batch, clipping_norm=clipping_norm)
                ours, flat = ask(clipping=PerLayer(split)), ask(clipping=Flat())
                assert torch.allclose(ours.vector, flat.vector, rtol=1e-12, atol=1e-14)
                assert ours.within == flat.within


@every_network
def test_flat_is_the_default_bit_for_bit(network):
    for counts in (ONE_EACH, UNEVEN):
        ask = functools.partial(clipped_sum, studied(network), cross_entropy, batch_of(network, counts))
        assert torch.equal(ask(clipping_norm=0.5).vector, ask(clipping_norm=0.5, clipping=Flat()).vector)


@every_network
@pytest.mark.parametrize("split", Split)
def test_layer_by_layer_without_a_clip_is_the_plain_sum(network, split):
    for counts in (ONE_EACH, UNEVEN):
        batch, gradients = batch_of(network, counts), gradients_of(network, counts)
        ours = clipped_sum(
            studied(network), cross_entropy, batch, clipping_norm=math.inf, clipping=PerLayer(split)
        )
        agrees(studied(network), ours.vector, gradients)
        assert ours.sensitivity == math.inf


# Patients within the clip.


@every_network
@pytest.mark.parametrize("name", family(["flat", "equal", "automatic"], keep=["equal"]))
@pytest.mark.parametrize("memory_bytes", family([1, 1 << 30]))
def test_within_counts_the_patients_whose_whole_gradient_is_short_enough(network, name, memory_bytes):
    for counts in (ONE_EACH, UNEVEN):
        batch, group = batch_of(network, counts), torch.tensor([2, 0, 0, 2])
        norms = gradients_of(network, counts).norm(dim=1)
        edges = [edge * (1 + sign * 1e-6) for edge in sorted(norms[norms > 0].tolist())[:2] for sign in (-1, 1)]
        for clipping_norm in edges:
            sums = clipped_sums_by_group(
                studied(network), cross_entropy, batch, group, 4,
                clipping_norm=clipping_norm, clipping=RULES[name], memory_bytes=memory_bytes,
            )  # fmt: skip
            expected = [int((norms[group == number] <= clipping_norm).sum()) for number in range(4)]
            assert [ours.within for ours in sums] == expected


@every_rule
def test_within_counts_those_without_pictures_and_none_whose_gradient_is_not_finite(rule):
    network, counts = with_bare_parameters, (1, 0, 2, 0, 1)
    for value in (math.nan, math.inf, -math.inf):
        batch = changed(batch_of(network, counts), 2, value)
        for memory_bytes in (1, 1 << 30):
            ask = functools.partial(
                clipped_sum, studied(network), cross_entropy, batch, clipping=rule, memory_bytes=memory_bytes
            )
            assert ask(clipping_norm=1e6).within == 4
            assert ask(clipping_norm=1e-6).within == 2


def test_patients_without_pictures_are_within_every_norm_whoever_else_is_there():
    """Else one patient with a picture would move the count by all of those without."""
    model, nobody = nn.Linear(4, 3), torch.zeros(0, dtype=torch.int64)
    empty = PatientBatch(torch.zeros(0, 4), nobody, nobody, 3)
    one = PatientBatch(torch.zeros(1, 4), torch.tensor([0]), torch.tensor([3]), 4)
    assert clipped_sum(model, cross_entropy, empty, clipping_norm=9.0).within == 3
    assert clipped_sum(model, cross_entropy, one, clipping_norm=9.0).within == 4
    groups = torch.tensor([1, 0, 1])
    counts = [s.within for s in clipped_sums_by_group(model, cross_entropy, empty, groups, 3, clipping_norm=9.0)]
    assert counts == [1, 2, 0]


def test_an_infinite_clip_is_refused_by_automatic_clipping_without_pictures_too():
    nobody = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(PrivacyError, match="finite"):
        clipped_sum(
            nn.Linear(4, 3), cross_entropy, PatientBatch(torch.zeros(0, 4), nobody, nobody, 3),
            clipping_norm=math.inf, clipping=Automatic(),
        )  # fmt: skip


@pytest.mark.parametrize("rule", [Flat(), Automatic(1e-10)])
@pytest.mark.parametrize("scale", [1e-18, 1e-20, 1e-25])
def test_the_least_clip_in_single_precision_is_kept_where_squares_vanish(rule, scale):
    network = nn.Sequential(nn.Unflatten(1, (40, 1, 1)), nn.Conv2d(40, 3, 1, bias=False), nn.Flatten())
    batch = PatientBatch(torch.randn(1, 40) * scale, torch.tensor([0]), torch.tensor([0]), 1)
    contribution = clipped_sum(network, cross_entropy, batch, clipping_norm=1e-10, clipping=rule).vector
    assert contribution.double().norm() <= 1e-10
    with pytest.raises(PrivacyError, match="single precision"):
        clipped_sum(network, cross_entropy, batch, clipping_norm=1e-11, clipping=rule)
