"""A network whose weights have run away keeps the fast path: what its layers do does not depend on its weights."""

import copy
import warnings

import pytest
import torch
from tests.cases import family

from wardround.models.catalogue import build
from wardround.per_patient import PatientBatch, SlowPath, clipped_sum
from wardround.training.losses import cross_entropy


def run_away(seed):
    network = build(
        "small_cnn", num_classes=2, size=(32, 32), channels=1, init_generator=torch.Generator().manual_seed(seed)
    ).trained
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=8.0)
    return network


@pytest.mark.parametrize("seed", family(range(6), keep=[0, 1]))
def test_weights_that_saturate_the_loss_are_no_reason_for_the_slow_path(seed):
    network, generator = run_away(seed), torch.Generator().manual_seed(seed)
    pictures, labels = torch.rand(4, 1, 32, 32, generator=generator), torch.tensor([0, 1, 0, 1])
    double = copy.deepcopy(network).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPath)
        batch = PatientBatch(pictures.double(), labels, torch.arange(4), 4)
        ours = clipped_sum(double, cross_entropy, batch, clipping_norm=1.0).vector
        clipped_sum(network, cross_entropy, PatientBatch(pictures, labels, torch.arange(4), 4), clipping_norm=1.0)
    by_hand = torch.zeros_like(ours)
    for picture, label in zip(pictures.double(), labels, strict=True):
        loss = cross_entropy(double(picture[None]), label[None]).sum()
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(double.parameters()))])
        by_hand += gradient * torch.clamp((1 - 2.0**-12) / gradient.norm(), max=1.0)
    torch.testing.assert_close(ours, by_hand, rtol=1e-6, atol=1e-9)
