"""Clipping rules against a loop over patients and layers, and the memory that outlives a step."""

import copy
import functools
import math
import sys
import threading

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.cases import family
from tests.per_patient.conformance import (
    Custom,
    cross_entropy,
    parameter,
    parameter_sizes,
    patient_gradients,
    quietly,
    relative_error,
    typical_clipping_norm,
)
from torch import nn

from wardround.errors import PrivacyError
from wardround.per_patient import sums
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import ClippedSum, clipped_sum, clipped_sums_by_group
from wardround.per_patient.clipping_rules import Automatic, Flat, PerLayer, Split
from wardround.per_patient.layers.base import Buffers
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.per_patient.slow_path import SlowPath

ONE_EACH = (1, 1, 1, 1)
UNEVEN = (2, 0, 1, 3)
RULES = {
    "flat": Flat(),
    "equal": PerLayer(Split.EQUAL),
    "size": PerLayer(Split.SIZE),
    "automatic": Automatic(),
    "sharp": Automatic(1e-9),
}

every_rule = pytest.mark.parametrize(
    "rule", family(RULES.values(), keep=[RULES["flat"], RULES["size"], RULES["sharp"]]), ids=RULES
)
few = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _slow_paths_may_be_announced():
    with quietly():
        yield


# Networks. What becomes of a gradient: "few" is kept beside other small ones, "large" is kept alone, "deferred" is
# known by its norm alone, "formed" is deferred but for pictures whose terms cancel.


def convolutional():
    """Few, large, and (where nobody has two pictures) deferred."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.Tanh(),
        nn.Conv2d(16, 48, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48 * 9, 400),
        nn.Tanh(),
        nn.Linear(400, 3),
    )


def of_two_tokens():
    """Deferred, and formed where `batch_of` makes the second token almost minus the first."""
    return Custom(
        lambda m, x: m.head(m.wide(x.view(len(x), 2, -1)).mean(1)),
        head=nn.Linear(100, 3),
        wide=nn.Linear(100, 100, bias=False),
    )


def roomy():
    """Every kind of gradient that is formed in a `Buffers`, two of one shape, and a deferred one."""

    def run(m, x):
        channels = torch.tanh(m.point(torch.tanh(m.near(x)))).flatten(2)
        return m.head(torch.tanh(m.again(torch.tanh(m.tokens(channels)))).flatten(1))

    return Custom(
        run,
        near=nn.Conv2d(1, 4, 3),
        point=nn.Conv2d(4, 80, 1),
        tokens=nn.Linear(9, 9),
        again=nn.Linear(9, 9),
        head=nn.Linear(80 * 9, 3),
    )


def with_one_use_of_two_modules():
    return Custom(
        lambda m, x: m.head(torch.tanh(nn.functional.linear(x, m.first.weight, m.second.bias))),
        first=nn.Linear(6, 6, bias=False),
        second=nn.LayerNorm(6),
        head=nn.Linear(6, 3),
    )


def with_a_shared_weight():
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(6, 3))


def with_a_module_used_twice():
    return Custom(
        lambda m, x: m.head(torch.tanh(m.mix(torch.tanh(m.norm(m.mix(x)))))),
        norm=nn.GroupNorm(2, 6),
        mix=nn.Linear(6, 6),
        head=nn.Linear(6, 3),
    )


def with_bare_parameters():
    return Custom(
        lambda m, x: m.head(torch.tanh(m.norm(x * m.scale) + m.shift)),
        head=nn.Linear(6, 3),
        scale=parameter(6),
        norm=nn.LayerNorm(6),
        shift=parameter(6),
    )


def with_a_slow_module():
    stretched = Custom(lambda m, x: x * torch.exp(m.stretch), stretch=parameter(6))
    return nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), stretched, nn.Tanh(), nn.Linear(6, 3))


def slow_as_a_whole():
    return Custom(
        lambda m, x: m.head(torch.tanh(m.mix(x) * torch.exp(m.stretch))),
        stretch=parameter(6),
        mix=nn.Linear(6, 6),
        head=nn.Linear(6, 3),
    )


NETWORKS = {
    convolutional: (1, 5, 5),
    of_two_tokens: (200,),
    roomy: (1, 5, 5),
    with_one_use_of_two_modules: (6,),
    with_a_shared_weight: (6,),
    with_a_module_used_twice: (6,),
    with_bare_parameters: (6,),
    with_a_slow_module: (6,),
    slow_as_a_whole: (6,),
}
SLOW = [with_a_slow_module, slow_as_a_whole]

every_network = pytest.mark.parametrize("network", family(NETWORKS, keep=[convolutional, slow_as_a_whole]))
every_slow_network = pytest.mark.parametrize("network", SLOW)


def built(network, dtype=torch.float64, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network().to(dtype)


@functools.cache
def studied(network, dtype=torch.float64):
    """One network for many tests; not to be changed."""
    return built(network, dtype)


def batch_of(network, counts, *, seed=1, dtype=torch.float64):
    """Pictures of noise; the second of them is one whose gradient cancels in `of_two_tokens`."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    inputs = torch.randn(total, *NETWORKS[network], dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (total,), generator=generator)
    if network is of_two_tokens and total > 1:
        inputs[1, 100:] = -inputs[1, :100] + 1e-3 * inputs[1, 100:]
    patient = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
    return PatientBatch(inputs.to(dtype), labels, patient, len(counts))


def changed(batch, patient, value):
    """The batch with one patient's pictures multiplied by a value; NaN and infinities replace one number each."""
    inputs, mine = batch.inputs.clone(), batch.patient == patient
    if math.isfinite(value):
        inputs[mine] *= value
    else:
        inputs.flatten(1)[mine, 0] = value
    return PatientBatch(inputs, batch.labels, batch.patient, batch.num_patients)


def without(batch, patient):
    kept = batch.patient != patient
    index = batch.patient[kept]
    return PatientBatch(
        batch.inputs[kept], batch.labels[kept], index - (index > patient).long(), batch.num_patients - 1
    )


# The oracle.


def columns_of_layers(model):
    """Where the trained parameters that each module holds itself stand in the vector, module by module."""
    starts, at = {}, 0
    for p in model.parameters():
        starts[id(p)] = at
        at += p.numel()
    layers = []
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if id(p) in starts]
        columns = [index for p in own for index in range(starts[id(p)], starts.pop(id(p)) + p.numel())]
        if columns:
            layers.append(torch.tensor(columns))
    return layers


def clipped_by_hand(model, gradients, rule, clipping_norm):
    """Every patient's clipped gradient, (patient, parameter), one patient and one layer at a time."""
    clipped = torch.zeros_like(gradients)
    layers = columns_of_layers(model) if isinstance(rule, PerLayer) else [torch.arange(gradients.shape[1])]
    for row, gradient in zip(clipped, gradients, strict=True):
        for layer in layers:
            norm = float(gradient[layer].norm())
            if isinstance(rule, Automatic):
                factor = SHAVE * clipping_norm / (norm + rule.stability)
            else:
                size = isinstance(rule, PerLayer) and rule.split is Split.SIZE
                share = len(layer) / gradients.shape[1] if size else 1 / len(layers)
                factor = min(1.0, SHAVE * clipping_norm * math.sqrt(share) / norm) if norm else 1.0
            row[layer] = factor * gradient[layer]
    return clipped


@functools.cache
def gradients_of(network, counts):
    """The oracle's gradients of `batch_of(network, counts)`, (patient, parameter)."""
    return patient_gradients(studied(network), cross_entropy, batch_of(network, counts))


def agrees(model, vector, expected, tolerance=1e-9):
    one = float(expected.norm(dim=1).max())
    error, worst = relative_error(vector, expected.sum(0), parameter_sizes(model), one=one)
    assert error < tolerance, (error, worst)


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
@few
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
@few
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
@settings(max_examples=120, deadline=None)
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
@settings(max_examples=60, deadline=None)
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


# Memory for the result.


@every_rule
@every_network
@pytest.mark.parametrize("counts", [pytest.param(ONE_EACH, marks=pytest.mark.thorough), UNEVEN])
def test_the_result_is_put_where_it_was_asked_for(network, rule, counts):
    model, batch = studied(network), batch_of(network, counts)
    expected = clipped_sum(model, cross_entropy, batch, clipping_norm=0.5, clipping=rule)
    stale = torch.full_like(expected.vector, math.nan)
    ours = clipped_sum(model, cross_entropy, batch, clipping_norm=0.5, clipping=rule, out=stale)
    assert ours.vector.data_ptr() == stale.data_ptr()
    assert torch.equal(stale, expected.vector)
    assert (ours.sensitivity, ours.within) == (expected.sensitivity, expected.within)


@every_network
def test_sums_by_group_are_put_where_they_were_asked_for(network):
    model, batch, group = studied(network), batch_of(network, ONE_EACH), torch.tensor([2, 0, 0, 2])
    ask = functools.partial(clipped_sums_by_group, model, cross_entropy, batch, group, 4, clipping_norm=0.5)
    expected = ask()
    stale = torch.full((4, len(expected[0].vector)), math.nan, dtype=torch.float64)
    for number, (ours, known) in enumerate(zip(ask(out=stale), expected, strict=True)):
        assert ours.vector.data_ptr() == stale[number].data_ptr()
        assert torch.equal(stale[number], known.vector)


@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_for_the_result_changes_nothing_where_there_are_several_pieces(network, dtype):
    model, batch = studied(network, dtype), batch_of(network, UNEVEN, dtype=dtype)
    ask = functools.partial(clipped_sum, model, cross_entropy, batch, clipping_norm=0.5, memory_bytes=1)
    expected = ask().vector
    assert torch.equal(ask(out=torch.full_like(expected, math.nan, dtype=dtype)).vector, expected)


@pytest.mark.parametrize("patients", [0, 3])
def test_nobody_gives_zeros_in_the_memory_that_was_given(patients):
    model, batch = studied(roomy), batch_of(roomy, ())
    nobody = PatientBatch(batch.inputs, batch.labels, batch.patient, patients)
    stale = torch.full((sum(parameter_sizes(model).values()),), math.nan, dtype=torch.float64)
    ours = clipped_sum(model, cross_entropy, nobody, clipping_norm=0.5, out=stale)
    assert ours.vector.data_ptr() == stale.data_ptr()
    assert not stale.any()


def test_memory_of_another_shape_or_precision_is_refused():
    model, batch = studied(roomy), batch_of(roomy, ONE_EACH)
    size = sum(parameter_sizes(model).values())
    wrong = [
        torch.zeros(size - 1, dtype=torch.float64),
        torch.zeros(size + 1, dtype=torch.float64),
        torch.zeros(1, size, dtype=torch.float64),
        torch.zeros((), dtype=torch.float64),
        torch.zeros(size, dtype=torch.float32),
        torch.zeros(size, dtype=torch.int64),
    ]
    for out in wrong:
        with pytest.raises(ValueError, match="out must be"):
            clipped_sum(model, cross_entropy, batch, clipping_norm=0.5, out=out)
    group = torch.zeros(4, dtype=torch.int64)
    for groups in (1, 3):
        out = torch.zeros(groups, size, dtype=torch.float64)
        with pytest.raises(ValueError, match="out must be"):
            clipped_sums_by_group(model, cross_entropy, batch, group, 2, clipping_norm=0.5, out=out)


# Memory that outlives a step.


@every_network
@pytest.mark.parametrize("name", family(["flat", "size"], keep=["size"]))
def test_what_an_earlier_batch_left_behind_changes_nothing(network, name):
    model, rule, dtype = built(network, torch.float32), RULES[name], torch.float32
    steps = [(5, 1.0), (5, math.nan), (5, 1.0), (3, 1.0), (8, 1e30), (8, 1.0), (1, 1.0)]
    for seed, (patients, value) in enumerate(steps):
        batch = changed(batch_of(network, (1,) * patients, seed=seed, dtype=dtype), 0, value)
        ask = functools.partial(clipped_sum, loss=cross_entropy, batch=batch, clipping_norm=0.5, clipping=rule)
        ours, fresh = ask(model), ask(copy.deepcopy(studied(network, dtype)))
        assert torch.equal(ours.vector, fresh.vector)
        assert ours.within == fresh.within


def test_what_an_earlier_step_returned_is_not_overwritten_by_the_next():
    model = built(roomy)
    first = clipped_sum(model, cross_entropy, batch_of(roomy, ONE_EACH), clipping_norm=0.5).vector
    before = first.clone()
    clipped_sum(model, cross_entropy, batch_of(roomy, ONE_EACH, seed=2), clipping_norm=0.5)
    assert torch.equal(first, before)


@every_network
@pytest.mark.parametrize("memory_bytes", family([1, 1 << 30]))
def test_a_loss_that_fails_in_the_middle_does_not_spoil_the_next_call(network, memory_bytes):
    model, calls_left = built(network), [10**6]

    def breaks(logits, labels):
        calls_left[0] -= 1
        if calls_left[0] < 0:
            raise ArithmeticError("in the middle")
        return cross_entropy(logits, labels)

    ask = functools.partial(clipped_sum, model, breaks, clipping_norm=0.5, memory_bytes=memory_bytes)
    for counts in (ONE_EACH, UNEVEN):
        batch, gradients = batch_of(network, counts), gradients_of(network, counts)
        ask(batch)  # looked at, and the buffers are there
        state, switches = torch.random.get_rng_state(), [sorted(m.__dict__) for m in model.modules()]
        for calls in (0, 1) if memory_bytes == 1 else (0,):
            calls_left[0] = calls
            with pytest.raises(ArithmeticError, match="in the middle"):
                ask(batch_of(network, counts, seed=7))
            calls_left[0] = 10**6
            agrees(model, ask(batch).vector, clipped_by_hand(model, gradients, Flat(), 0.5))
        assert torch.equal(state, torch.random.get_rng_state())
        assert switches == [sorted(m.__dict__) for m in model.modules()]


@every_network
def test_a_network_that_fails_in_the_middle_does_not_spoil_the_next_call(network):
    model, batch, is_broken = built(network), batch_of(network, ONE_EACH), [False]

    def breaks(module, inputs):
        if is_broken[0]:
            raise ArithmeticError("in the middle")

    list(model.modules())[-1].register_forward_pre_hook(breaks)
    ask = functools.partial(clipped_sum, model, cross_entropy, batch, clipping_norm=0.5)
    first = ask().vector
    is_broken[0] = True
    with pytest.raises(ArithmeticError, match="in the middle"):
        ask()
    assert not any("forward" in vars(module) for module in model.modules())
    is_broken[0] = False
    assert torch.equal(ask().vector, first)


@every_network
def test_a_network_that_changes_its_precision_gets_other_memory(network):
    model, gradients = built(network, torch.float32), gradients_of(network, ONE_EACH)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-5), (torch.float32, 1e-4)):
        batch = batch_of(network, ONE_EACH, dtype=dtype)
        ours = clipped_sum(model.to(dtype), cross_entropy, batch, clipping_norm=0.5).vector
        assert ours.dtype is dtype
        agrees(model, ours, clipped_by_hand(model, gradients, Flat(), 0.5), tolerance)


@pytest.fixture
def often_interrupted():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_the_same_time(asks, rounds):
    """Every question asked again and again by a thread of its own: their answers, or what was raised."""
    start = threading.Barrier(len(asks))
    answers: list[list[ClippedSum | Exception]] = [[] for _ in asks]

    def run(ask, into):
        start.wait()
        try:
            into.extend(ask() for _ in range(rounds))
        except Exception as error:
            into.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(asks, answers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.parametrize("network", family(network for network in NETWORKS if network not in SLOW))
def test_two_threads_on_one_network_do_not_mix_their_patients(network, often_interrupted):
    model = built(network)
    batches = [batch_of(network, (1,) * patients, seed=patients) for patients in (4, 5)]
    asks = [functools.partial(clipped_sum, model, cross_entropy, b, clipping_norm=0.5) for b in batches]
    expected = [ask().vector for ask in asks]
    for known, answers in zip(expected, at_the_same_time(asks, rounds=8), strict=True):
        assert len(answers) == 8, answers
        for ours in answers:
            assert (ours.vector - known).norm() <= 1e-12 * known.norm()


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


def test_room_on_one_device_is_not_given_out_on_another():
    buffers = Buffers()
    buffers.of("weight", 1, (2,), torch.zeros(1))
    assert buffers.of("weight", 1, (2,), torch.zeros(1, device="meta")).device.type == "meta"


@pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")
def test_a_thread_that_asks_while_a_slow_module_runs_waits_for_its_parameters():
    model, batch = built(with_a_slow_module), batch_of(with_a_slow_module, (1, 2, 1))
    ask = functools.partial(clipped_sum, model, cross_entropy, batch, clipping_norm=0.5)
    known = ask().vector
    slow, answers = model[2], []
    threads: list[threading.Thread] = []
    forward = type(slow).forward

    def interrupted(module, inputs):
        if not threads and not isinstance(module.stretch, nn.Parameter):  # it runs with others in their place
            threads.append(threading.Thread(target=lambda: answers.append(ask().vector)))
            threads[0].start()
            threads[0].join(timeout=0.2)
        return forward(module, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(slow), "forward", interrupted)
        answers.append(ask().vector)
        threads[0].join()
    assert len(answers) == 2, "the slow path was taken, and both asked"
    assert all((ours - known).norm() <= 1e-12 * known.norm() for ours in answers)


@pytest.mark.filterwarnings("ignore::wardround.per_patient.SlowPath")
def test_threads_leave_the_global_generator_as_it_was(often_interrupted):
    model = built(with_a_slow_module)
    batches = [batch_of(with_a_slow_module, (1,) * patients, seed=patients) for patients in (4, 5)]
    asks = [functools.partial(clipped_sum, model, cross_entropy, b, clipping_norm=0.5) for b in batches]
    expected = [ask().vector for ask in asks]
    before = torch.random.get_rng_state()
    for known, answers in zip(expected, at_the_same_time(asks, rounds=8), strict=True):
        assert len(answers) == 8, answers
        for ours in answers:
            assert (ours.vector - known).norm() <= 1e-12 * known.norm()
    assert torch.equal(before, torch.random.get_rng_state())
