import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wardround.errors import PrivacyError
from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import clipped_sum, clipped_sums_by_group
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE


def cross_entropy(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2 * 2, 3)
    ).double()


def batch_of(counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    return PatientBatch(
        inputs=torch.randn(total, 2, 5, 5, dtype=torch.float64, generator=generator),
        labels=torch.randint(0, 3, (total,), generator=generator),
        patient=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64)),
        num_patients=len(counts),
    )


def patient_gradient(model, batch, patient):
    """One backward pass of the mean loss over one patient's pictures: the oracle."""
    mine = batch.patient == patient
    parameters = list(model.parameters())
    if not mine.any():
        return torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    loss = cross_entropy(model(batch.inputs[mine]), batch.labels[mine]).mean()
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])


def loop_of_backward_passes(model, batch, clipping_norm):
    total = 0
    for patient in range(batch.num_patients):
        gradient = patient_gradient(model, batch, patient)
        total = total + gradient * min(1.0, clipping_norm * SHAVE / max(float(gradient.norm()), 1e-300))
    return total


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    clipping_norm=st.sampled_from([0.05, 1.0, 100.0]),
    memory_bytes=st.sampled_from([1, 10_000, 1 << 30]),
)
def test_the_sum_equals_a_loop_of_one_patient_backward_passes(counts, clipping_norm, memory_bytes):
    model, batch = network(), batch_of(counts)
    ours = clipped_sum(model, cross_entropy, batch, clipping_norm=clipping_norm, memory_bytes=memory_bytes)
    oracle = loop_of_backward_passes(model, batch, clipping_norm)
    assert torch.allclose(ours.vector, oracle, rtol=1e-10, atol=1e-13)
    assert ours.sensitivity == clipping_norm


def test_one_patient_with_thirty_one_pictures_weighs_as_one_patient():
    model, batch = network(), batch_of([31, 1])
    ours = clipped_sum(model, cross_entropy, batch, clipping_norm=0.01)
    assert ours.vector.norm() <= 2 * 0.01


@pytest.mark.parametrize("clipping_norm", [0.1, 1.0])
def test_removing_a_patient_moves_the_sum_by_at_most_the_clip(clipping_norm):
    model, batch = network(), batch_of([3, 1, 2, 4])
    whole = clipped_sum(model, cross_entropy, batch, clipping_norm=clipping_norm).vector
    for removed in range(4):
        kept = batch.patient != removed
        left = torch.unique(batch.patient[kept], return_inverse=True)[1]
        neighbour = PatientBatch(batch.inputs[kept], batch.labels[kept], left, 3)
        part = clipped_sum(model, cross_entropy, neighbour, clipping_norm=clipping_norm).vector
        assert (whole - part).norm() <= clipping_norm


@pytest.mark.parametrize("value", [1e38, float("inf"), float("nan"), -1e30, 1e-45])
def test_an_adversarial_picture_moves_the_sum_by_at_most_the_clip(value):
    model = nn.Linear(6, 3)
    inputs = torch.zeros(3, 6)
    inputs[:, 0] = torch.tensor([1.0, 2.0, value])
    labels = torch.tensor([0, 1, 2])
    with_it = PatientBatch(inputs, labels, torch.arange(3), 3)
    without = PatientBatch(inputs[:2], labels[:2], torch.arange(2), 2)
    a = clipped_sum(model, cross_entropy, with_it, clipping_norm=0.5).vector
    b = clipped_sum(model, cross_entropy, without, clipping_norm=0.5).vector
    assert torch.isfinite(a).all()
    assert (a - b).norm() <= 0.5


def test_a_patient_whose_gradient_is_not_finite_contributes_zero():
    model = nn.Linear(2, 3)
    inputs = torch.tensor([[1.0, 2.0], [float("nan"), 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 2])
    poisoned = PatientBatch(inputs, labels, torch.tensor([0, 1, 1]), 2)
    clean = PatientBatch(inputs[:1], labels[:1], torch.tensor([0]), 1)
    a = clipped_sum(model, cross_entropy, poisoned, clipping_norm=1.0).vector
    b = clipped_sum(model, cross_entropy, clean, clipping_norm=1.0).vector
    assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)  # kernels of one and of three pictures round apart


def test_a_clipped_gradient_never_exceeds_the_norm_in_single_precision():
    model = nn.Linear(50, 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        inputs = torch.randn(1, 50, generator=generator) * 100
        batch = PatientBatch(inputs, torch.tensor([1]), torch.tensor([0]), 1)
        assert clipped_sum(model, cross_entropy, batch, clipping_norm=0.3).vector.norm() <= 0.3


def test_an_empty_batch_gives_zeros():
    empty = clipped_sum(network(), cross_entropy, batch_of([]), clipping_norm=1.0)
    assert not empty.vector.any()
    assert empty.sensitivity == 1.0
    nobody_has_pictures = clipped_sum(network(), cross_entropy, batch_of([0, 0]), clipping_norm=1.0)
    assert not nobody_has_pictures.vector.any()


def test_without_a_clip_and_with_one_picture_each_the_sum_is_the_ordinary_gradient():
    model, batch = network(), batch_of([1, 1, 1, 1])
    ours = clipped_sum(model, cross_entropy, batch, clipping_norm=math.inf)
    total = cross_entropy(model(batch.inputs), batch.labels).sum()
    ordinary = torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, list(model.parameters()))])
    assert torch.allclose(ours.vector, ordinary, rtol=1e-10)
    assert ours.sensitivity == math.inf


def test_frozen_parameters_are_neither_in_the_sum_nor_in_the_norm():
    model, batch = network(), batch_of([2, 1])
    model[0].requires_grad_(False)
    ours = clipped_sum(model, cross_entropy, batch, clipping_norm=1.0)
    assert ours.vector.numel() == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_sums_by_group_equal_the_sums_of_the_groups_alone():
    model, batch = network(), batch_of([2, 1, 3, 0, 1])
    group = torch.tensor([0, 0, 2, 2, 2])
    together = clipped_sums_by_group(model, cross_entropy, batch, group, 4, clipping_norm=0.2, memory_bytes=8_000)
    for index, members in enumerate([[0, 1], [], [2, 3, 4], []]):
        kept = torch.isin(batch.patient, torch.tensor(members))
        position = torch.searchsorted(torch.tensor(members or [0]), batch.patient[kept])
        alone = PatientBatch(batch.inputs[kept], batch.labels[kept], position, len(members))
        expected = clipped_sum(model, cross_entropy, alone, clipping_norm=0.2)
        assert torch.allclose(together[index].vector, expected.vector, rtol=1e-12)


def test_dropout_masks_follow_the_given_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    torch.random.set_rng_state(before)
    batch = replace(batch_of([1, 1, 1]), keys="abc")
    sums = [
        clipped_sum(model, cross_entropy, batch, clipping_norm=1.0, dropout_seed=seed).vector for seed in (1, 1, 2)
    ]
    assert torch.equal(sums[0], sums[1])
    assert not torch.equal(sums[0], sums[2])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("clipping_norm", [0.0, -1.0, float("nan")])
def test_a_clipping_norm_that_bounds_nothing_is_refused(clipping_norm):
    with pytest.raises(PrivacyError, match="clipping_norm must be > 0"):
        clipped_sum(network(), cross_entropy, batch_of([1]), clipping_norm=clipping_norm)
