"""Copies of one network in one pass against each copy alone, and networks that cannot be taken so."""

from functools import partial
from threading import Barrier

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.layers.standardised import standardised_convolution
from wardround.per_patient.layout import Layout
from wardround.per_patient.side_by_side import sums_side_by_side
from wardround.per_patient.slow_path import plain_sum

COUNTS = [[1, 3], [2], [1, 1, 1, 4]]
"""Pictures of the patients of each copy."""


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


class Standardised(nn.Conv2d):
    def forward(self, inputs):
        return standardised_convolution(inputs, self.weight, self.bias, self.stride, self.padding, 1, 1)


class Scaled(nn.Module):
    """Reads a parameter in functions that are not known to take picture by picture."""

    def __init__(self, *, in_list):
        super().__init__()
        self.scale, self.in_list = nn.Parameter(torch.ones(4)), in_list

    def forward(self, inputs):
        scale = torch.stack([self.scale]).sum(0) if self.in_list else self.scale
        return inputs * scale[:, None, None]


def network(*between):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2), *between, nn.GroupNorm(2, 4), nn.ReLU(), Standardised(4, 4, 1), nn.Flatten(2),
        nn.LayerNorm(4), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def batch_of(counts):
    patient = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    total = len(patient)
    return PatientBatch(torch.randn(total, 2, 5, 5), torch.randint(0, 3, (total,)), patient, len(counts))


def side_by_side(model, layout, weights, batch):
    block = batch, [sum(counts) for counts in COUNTS], weights
    return sums_side_by_side(model, layout, cross_entropy, [lambda: block])


@pytest.mark.parametrize("is_frozen", [False, True])
def test_each_copy_gets_the_sum_of_its_own_patients_at_its_own_weights(is_frozen):
    model = network()
    model[1].bias.requires_grad_(not is_frozen)
    layout, batch = Layout.of(model), batch_of([count for counts in COUNTS for count in counts])
    weights = [0.3 * torch.randn(layout.size) for _ in COUNTS]
    found = side_by_side(model, layout, weights, batch)
    picture, patient = 0, 0
    for counts, own, vector in zip(COUNTS, weights, found, strict=True):
        at = slice(picture, picture + sum(counts))
        mine = PatientBatch(batch.inputs[at], batch.labels[at], batch.patient[at] - patient, len(counts))
        nn.utils.vector_to_parameters(own, layout.parameters.values())
        alone = plain_sum(model, layout, cross_entropy, mine, list)
        torch.testing.assert_close(vector, alone, rtol=1e-5, atol=1e-6)
        picture, patient = at.stop, patient + len(counts)


def test_blocks_on_two_cores_give_what_they_give_on_one():
    model, barrier = network(), Barrier(2, timeout=10)
    layout = Layout.of(model)
    batches = [batch_of(counts) for counts in COUNTS[:2]]
    weights = [0.3 * torch.randn(layout.size) for _ in batches]

    def block(at, *, together):
        if together:
            barrier.wait()  # until the other block is taken as well
        return batches[at], [sum(COUNTS[at])], [weights[at]]

    before = torch.get_num_threads()
    one, two = (
        sums_side_by_side(
            model, layout, cross_entropy, [partial(block, at, together=cores > 1) for at in (0, 1)], cores
        )
        for cores in (1, 2)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "odd", [nn.Dropout(0.5), Scaled(in_list=False), Scaled(in_list=True)], ids=["draws", "bare", "in a list"]
)
def test_a_network_that_draws_or_reads_a_parameter_otherwise_is_taken_alone(odd):
    model = network(odd)
    layout, batch = Layout.of(model), batch_of([count for counts in COUNTS for count in counts])
    weights, state = [torch.zeros(layout.size)] * len(COUNTS), torch.get_rng_state()
    assert side_by_side(model, layout, weights, batch) is None
    assert torch.equal(torch.get_rng_state(), state)
    model.register_forward_pre_hook(lambda *_: pytest.fail("it was asked before"))
    assert side_by_side(model, layout, weights, batch) is None
