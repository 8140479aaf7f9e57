"""bfloat16 activations: what a gradient is may be coarse; whose it is, and how long, may not."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wardround.per_patient import PatientBatch, SlowPath, clipped_sum, per_patient_gradients


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none")


class Tokens(nn.Module):
    """Patches, layer normalisation and linear layers on three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(1, 16, 4, 4), nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.head((tokens + self.mlp(self.norm(tokens))).mean(1))
        return logits


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.PReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, 2, padding=1), nn.InstanceNorm2d(16, affine=True), nn.ReLU(),
        nn.ConvTranspose2d(16, 4, 2, 2), nn.Flatten(), nn.Linear(4 * 64, 500), nn.ReLU(), nn.Linear(500, 3),
    )  # fmt: skip


NETWORKS = {"tokens": Tokens, "convolutional": convolutional}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()


def batch(scale: float = 1.0, count: int = 6) -> PatientBatch:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 1, 16, 16, generator=generator) * scale
    patient = torch.tensor([0, 0, 1, 2, 3, 3])[:count]
    return PatientBatch(inputs, torch.arange(count) % 3, patient, int(patient.max()) + 1)


def coarse() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_under_autocast_are_about_as_coarse_as_ordinary_ones_under_it(name):
    """Both are some ten percent away from the gradients of full precision, and share most of that."""
    model, whole = built(name), batch()
    fine = per_patient_gradients(model, loss, whole)
    with coarse(), warnings.catch_warnings():
        warnings.simplefilter("error", SlowPath)
        ours = per_patient_gradients(model, loss, whole)
    assert ours.dtype is torch.float32
    for patient in range(4):
        mine = whole.patient == patient
        with coarse():
            losses = loss(model(whole.inputs[mine]), whole.labels[mine])
        gradients = torch.autograd.grad(losses.mean(), list(model.parameters()))
        expected = torch.cat([gradient.flatten() for gradient in gradients])
        away = (expected - fine[patient]).norm()
        assert 0 < away < 0.2 * fine[patient].norm()
        assert (ours[patient] - fine[patient]).norm() < 1.5 * away


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e4, 1e30])
def test_a_patient_moves_the_sum_by_at_most_the_clip_under_autocast(name, scale):
    model, clipping_norm = built(name), 0.01
    with coarse():
        whole = clipped_sum(model, loss, batch(scale), clipping_norm=clipping_norm).vector
        rest = clipped_sum(model, loss, batch(scale, count=4), clipping_norm=clipping_norm).vector
    assert whole.dtype is torch.float32
    assert torch.isfinite(whole).all()
    # Two sums in single precision, of four patients: their own rounding is below 1e-6 of the clip.
    assert float((whole.double() - rest.double()).norm()) <= clipping_norm * (1 + 1e-6)


def test_the_same_network_works_with_and_without_autocast_in_turn():
    model, whole = built("convolutional"), batch()
    fine = clipped_sum(model, loss, whole, clipping_norm=1.0).vector
    with coarse():
        rough = clipped_sum(model, loss, whole, clipping_norm=1.0).vector
    assert torch.equal(fine, clipped_sum(model, loss, whole, clipping_norm=1.0).vector)
    assert 0 < float((fine - rough).norm()) < 0.03 * float(fine.norm())
