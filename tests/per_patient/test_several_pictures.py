"""Patients with several pictures at a large linear layer, whose gradients are not formed but where terms cancel."""

import math

import pytest
import torch
from tests.per_patient.oracle import cross_entropy
from torch import nn

from wardround.per_patient import PatientBatch, clipped_sum

COUNTS = torch.tensor([3, 1, 0, 2, 4])
PATIENT = torch.repeat_interleave(torch.arange(len(COUNTS)), COUNTS)


def batch_of(pictures, kept=slice(None)):
    return PatientBatch(pictures[kept], (torch.arange(len(PATIENT)) % 3)[kept], PATIENT[kept], len(COUNTS))


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def network(request):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30, bias=request.param), nn.Tanh(), nn.Linear(30, 3, bias=False)).double()


@pytest.fixture
def _every_layer_is_large(monkeypatch):
    monkeypatch.setattr("wardround.per_patient.layers.linear.LARGE_WEIGHT", 0)


def pictures_of_noise():
    return torch.randn(len(PATIENT), 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_clipped_sum_is_that_of_formed_gradients(network, monkeypatch):
    pictures = pictures_of_noise()
    formed = clipped_sum(network, cross_entropy, batch_of(pictures), clipping_norm=0.3).vector
    monkeypatch.setattr("wardround.per_patient.layers.linear.LARGE_WEIGHT", 0)
    found = clipped_sum(network, cross_entropy, batch_of(pictures), clipping_norm=0.3).vector
    torch.testing.assert_close(found, formed, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("_every_layer_is_large")
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_patient_who_is_left_out_changes_nothing_of_the_others(network, value):
    pictures = pictures_of_noise()
    clipped_sum(network, cross_entropy, batch_of(pictures), clipping_norm=0.3)
    without = clipped_sum(network, cross_entropy, batch_of(pictures, PATIENT != 3), clipping_norm=0.3)
    pictures[PATIENT == 3] = value
    found = clipped_sum(network, cross_entropy, batch_of(pictures), clipping_norm=0.3)
    torch.testing.assert_close(found.vector, without.vector, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("_every_layer_is_large")
@pytest.mark.parametrize("small", [0.0, 2.0**-20, 2.0**-16, 2.0**-12])
def test_pictures_that_cancel_do_not_exceed_the_clip(small):
    """The norm is a small difference of large products, and the sum of two large gradients is rounded."""

    def loss(outputs, labels):
        return (outputs * labels).sum(1)

    for seed in range(3):
        torch.manual_seed(seed)
        layer, picture, gradient = nn.Linear(64, 64, bias=False), 1e5 * torch.rand(64), torch.rand(64)
        labels = torch.stack([gradient, -(1 + small) * gradient])
        batch = PatientBatch(picture.expand(2, 64).clone(), labels, torch.zeros(2, dtype=torch.int64), 1)
        assert float(clipped_sum(layer, loss, batch, clipping_norm=1.0).vector.norm()) <= 1.0


@pytest.mark.usefixtures("_every_layer_is_large")
@pytest.mark.parametrize("lost", [None, 3], ids=["all are finite", "one is not"])
def test_formed_gradients_add_up_alike_in_parts(network, lost, monkeypatch):
    """One patient at a time to the bits of all at once; one who is not finite adds nothing and moves nobody."""
    pictures = pictures_of_noise()
    kept = (-1 if lost is None else lost) != PATIENT
    known = clipped_sum(network, cross_entropy, batch_of(pictures, kept), clipping_norm=0.3).vector
    pictures[~kept] = math.nan
    monkeypatch.setattr("wardround.per_patient.tape.MOST_CANCELLED", math.inf)  # all are formed
    sums = []
    for most in (1 << 24, 1):
        monkeypatch.setattr("wardround.per_patient.sums._BYTES_AT_ONCE", most)
        sums.append(clipped_sum(network, cross_entropy, batch_of(pictures), clipping_norm=0.3).vector)
    assert torch.equal(*sums)
    torch.testing.assert_close(sums[0], known, rtol=1e-10, atol=1e-12)
