"""The engine against the oracle, over every case of the conformance suite."""

import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import family, firsts
from tests.per_patient.case import UNEVEN
from tests.per_patient.cases_of_networks import small_cnn
from tests.per_patient.conformance import CASES, ONE_EACH, judge
from tests.per_patient.oracle import (
    clip_and_sum,
    cross_entropy,
    parameter_sizes,
    patient_gradients,
    quietly,
    relative_error,
    typical_clipping_norm,
)
from torch import nn

from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import clipped_sum, per_patient_gradients
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.per_patient.validation import check_trainable

WHOLE = [n for n, c in CASES.items() if c.family in {"network", "loss", "folded", "wiring"} and not c.may_refuse]

every_case = pytest.mark.parametrize("name", family(CASES, keep=firsts(CASES, lambda name: CASES[name].family)))
every_network = pytest.mark.parametrize("name", family(WHOLE, keep=firsts(WHOLE, lambda name: CASES[name].family)))


@pytest.fixture(autouse=True)
def _slow_paths_may_be_announced():
    with quietly():
        yield


@functools.cache
def studied(name, dtype):
    """One network for all tests of a case: an engine may study it once, and must leave it as it was."""
    return CASES[name].problem(dtype=dtype).model


def engine(model, loss, batch, clipping_norm):
    return clipped_sum(model, loss, batch, clipping_norm=clipping_norm).vector.double()


def verdict(name, *, dtype=torch.float64, **options):
    def of_the_same_network(model, loss, batch, clipping_norm):
        del model
        return engine(studied(name, dtype), loss, batch, clipping_norm)

    found = judge(CASES[name], of_the_same_network, shave=SHAVE, dtype=dtype, **options)
    assert found.passed, str(found)


def answer(case, ask):
    """What the engine says, or nothing where it may decline and does."""
    try:
        return ask()
    except Exception:
        if case.may_refuse:
            return None
        raise


@every_case
def test_the_clipped_sum_is_that_of_one_patient_backward_passes(name):
    verdict(name)
    verdict(name, counts=ONE_EACH)
    verdict(name, counts=(0, 1))


@every_case
def test_rows_are_the_patients_own_gradients(name):
    case = CASES[name]
    model, batch = studied(name, torch.float64), case.problem().batch
    rows = answer(case, lambda: per_patient_gradients(model, case.loss, batch))
    if rows is None:
        return
    oracle = case.gradients()
    assert rows.shape == oracle.shape
    for ours, theirs in zip(rows, oracle, strict=True):
        error, parameter = relative_error(ours, theirs, parameter_sizes(model))
        assert error < 1e-10, parameter


@every_case
def test_in_single_precision(name):
    verdict(name, dtype=torch.float32, tolerance=1e-4)
    verdict(name, dtype=torch.float32, tolerance=1e-4, clipping_norm=1e6)


@every_case
def test_a_patient_alone_never_exceeds_the_clip_in_single_precision(name):
    case, gradients = CASES[name], CASES[name].gradients((3,))
    clipping_norm = 0.9 * typical_clipping_norm(gradients)
    model, batch = studied(name, torch.float32), case.problem((3,), torch.float32).batch
    ours = answer(case, lambda: engine(model, case.loss, batch, clipping_norm))
    if ours is None:
        return
    assert ours.norm() <= clipping_norm
    assert ours.norm() >= 0.999 * clipping_norm or not gradients.any()


@every_network
def test_everyone_clipped_and_no_one_clipped(name):
    for clipping_norm in (1e-6, 1e6, math.inf):
        verdict(name, clipping_norm=clipping_norm)


@every_network
def test_memory_changes_nothing_but_speed(name):
    case, model = CASES[name], studied(name, torch.float64)
    batch, norm = case.problem().batch, typical_clipping_norm(case.gradients())
    expected = clip_and_sum(case.gradients(), norm, shave=SHAVE)
    for memory_bytes in (1, 4_000):
        ours = clipped_sum(model, case.loss, batch, clipping_norm=norm, memory_bytes=memory_bytes).vector
        assert relative_error(ours, expected, parameter_sizes(model))[0] < 1e-10


@every_network
def test_the_model_is_left_as_it_was_and_the_answer_is_the_same_again(name):
    case, problem = CASES[name], CASES[name].problem()
    model, batch = problem.model, problem.batch
    state = {key: value.clone() for key, value in model.state_dict().items()}
    switches = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]
    generator, inputs = torch.random.get_rng_state(), batch.inputs.clone()
    first = engine(model, case.loss, batch, 1.0)
    second = engine(model, case.loss, batch, 1.0)
    assert torch.equal(first, second)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert switches == [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(generator, torch.random.get_rng_state())
    assert torch.equal(inputs, batch.inputs)
    # And after a step of training, in the other mode, what the engine learnt before does not mislead it.
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.arange(p.numel(), dtype=p.dtype).sin().view_as(p))
    model.eval()
    oracle = clip_and_sum(patient_gradients(model, case.loss, batch), 1.0, shave=SHAVE)
    assert relative_error(engine(model, case.loss, batch, 1.0), oracle, parameter_sizes(model))[0] < 1e-10


def test_parts_frozen_between_two_calls():
    case, problem = CASES["small CNN"], CASES["small CNN"].problem()
    for part in range(3):
        oracle = clip_and_sum(patient_gradients(problem.model, case.loss, problem.batch), 1.0, shave=SHAVE)
        ours = engine(problem.model, case.loss, problem.batch, 1.0)
        assert relative_error(ours, oracle, parameter_sizes(problem.model))[0] < 1e-10
        next(p for p in list(problem.model.parameters())[part:] if p.requires_grad).requires_grad_(False)


@every_network
def test_one_patient_with_thirty_one_pictures(name):
    verdict(name, counts=(31, 1))


@every_network
def test_thirty_one_pictures_that_do_not_fit_at_once(name):
    case, model, counts = CASES[name], studied(name, torch.float64), (2, 31, 0)
    gradients, batch = case.gradients(counts), case.problem(counts).batch
    norm = typical_clipping_norm(gradients)
    ours = clipped_sum(model, case.loss, batch, clipping_norm=norm, memory_bytes=1).vector
    assert relative_error(ours, clip_and_sum(gradients, norm, shave=SHAVE), parameter_sizes(model))[0] < 1e-10
    rows = per_patient_gradients(model, case.loss, batch, memory_bytes=1)
    assert relative_error(rows[1], gradients[1], parameter_sizes(model))[0] < 1e-10


@every_network
def test_nobody_and_nothing_give_zeros(name):
    case, model, batch = CASES[name], studied(name, torch.float64), CASES[name].problem().batch
    for patients in (0, 3):
        nobody = PatientBatch(batch.inputs[:0], batch.labels[:0], torch.zeros(0, dtype=torch.int64), patients)
        ours = clipped_sum(model, case.loss, nobody, clipping_norm=1.0)
        assert ours.sensitivity == 1.0
        assert ours.vector.shape == (sum(parameter_sizes(model).values()),)
        assert not ours.vector.any()
        rows = per_patient_gradients(model, case.loss, nobody)
        assert rows.shape == (patients, ours.vector.numel())
        assert not rows.any()


@every_network
def test_removing_any_patient_moves_the_sum_by_at_most_the_clip(name):
    case, model = CASES[name], studied(name, torch.float32)
    norm = typical_clipping_norm(case.gradients(ONE_EACH)) / 2
    batch, count = case.problem(ONE_EACH, torch.float32).batch, len(ONE_EACH)
    whole = engine(model, case.loss, batch, norm)
    for removed in range(count):
        kept = batch.patient != removed
        part = PatientBatch(batch.inputs[kept], batch.labels[kept], torch.arange(count - 1), count - 1)
        assert (whole - engine(model, case.loss, part, norm)).norm() <= norm


@every_network
def test_no_network_of_the_suite_is_refused(name):
    batch = CASES[name].problem(ONE_EACH, torch.float32).batch
    check_trainable(studied(name, torch.float32), batch.inputs)


# Drawn shapes.


@st.composite
def uneven(draw):
    return draw(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any))


def agrees(model, patients, *shape):
    torch.manual_seed(0)
    total = sum(patients)
    model = model.double()
    batch = PatientBatch(
        torch.randn(total, *shape, dtype=torch.float64),
        torch.randint(0, 3, (total,)),
        torch.repeat_interleave(torch.arange(len(patients)), torch.tensor(patients)),
        len(patients),
    )

    def loss(outputs, labels):
        return (outputs.flatten(1) + 1).square().mean(1) * (labels + 1)

    gradients = patient_gradients(model, loss, batch)
    norm = typical_clipping_norm(gradients)
    expected = clip_and_sum(gradients, norm, shave=SHAVE)
    error, worst = relative_error(engine(model, loss, batch, norm), expected, parameter_sizes(model), one=norm)
    assert error < 1e-10, (error, worst)


@given(uneven(), st.lists(st.integers(1, 4), max_size=3), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_linear_of_drawn_shape(patients, axes, inputs, outputs, bias):
    agrees(nn.Linear(inputs, outputs, bias=bias), patients, *axes, inputs)


@given(uneven(), st.data())
def test_convolution_of_drawn_shape(patients, data):
    groups = data.draw(st.integers(1, 3))
    kernel = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    layer = nn.Conv2d(
        groups * data.draw(st.integers(1, 2)),
        groups * data.draw(st.integers(1, 2)),
        kernel,
        stride=data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        dilation=data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=groups,
        bias=data.draw(st.booleans()),
        padding_mode=data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )
    agrees(layer, patients, layer.in_channels, data.draw(st.integers(5, 8)), data.draw(st.integers(5, 8)))


@given(uneven(), st.data())
def test_transposed_convolution_of_drawn_shape(patients, data):
    groups = data.draw(st.integers(1, 3))
    stride = data.draw(st.integers(1, 3))
    layer = nn.ConvTranspose2d(
        groups * data.draw(st.integers(1, 2)),
        groups * data.draw(st.integers(1, 2)),
        data.draw(st.tuples(st.integers(2, 3), st.integers(2, 3))),
        stride=stride,
        padding=data.draw(st.integers(0, 1)),
        output_padding=data.draw(st.integers(0, stride - 1)),
        dilation=data.draw(st.integers(1, 2)),
        groups=groups,
        bias=data.draw(st.booleans()),
    )
    agrees(layer, patients, layer.in_channels, data.draw(st.integers(2, 4)), data.draw(st.integers(2, 4)))


@given(uneven(), st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(2, 4), min_size=1, max_size=3))
def test_group_norm_of_drawn_shape(patients, groups, each, space):
    agrees(nn.GroupNorm(groups, groups * each), patients, groups * each, *space)


# The suite itself: a comparison that cannot fail says nothing.


def test_the_suite_notices_an_engine_that_is_wrong():
    def drops_the_last_layer(model, loss, batch, clipping_norm):
        vector = engine(model, loss, batch, clipping_norm)
        vector[-3:] = 0
        return vector

    def clips_pictures_instead_of_patients(model, loss, batch, clipping_norm):
        each = PatientBatch(batch.inputs, batch.labels, torch.arange(len(batch.inputs)), len(batch.inputs))
        return engine(model, loss, each, clipping_norm)

    for wrong in (drops_the_last_layer, clips_pictures_instead_of_patients):
        assert judge(CASES["small CNN"], wrong, counts=UNEVEN, tolerance=1e-3).outcome == "wrong"


def test_the_suite_shows_a_refusal_as_one():
    def refuses(model, loss, batch, clipping_norm):
        raise TypeError("not this layer")

    assert judge(CASES["small CNN"], refuses).outcome == "refused"


def test_the_oracle_of_one_picture_each_without_a_clip_is_the_ordinary_gradient():
    torch.manual_seed(0)
    model = small_cnn().double()
    inputs, labels = torch.randn(4, 2, 6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    rows = patient_gradients(model, cross_entropy, PatientBatch(inputs, labels, torch.arange(4), 4))
    ordinary = torch.autograd.grad(cross_entropy(model(inputs), labels).sum(), list(model.parameters()))
    assert torch.allclose(rows.sum(0), torch.cat([g.reshape(-1) for g in ordinary]), rtol=1e-12)
