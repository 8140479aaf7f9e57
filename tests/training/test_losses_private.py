"""Our losses in the private step: exact gradients of each patient, in one pass, with and without autocast."""

import warnings

import pytest
import torch
from tests.per_patient.oracle import clip_and_sum, parameter_sizes, patient_gradients, relative_error
from torch import nn
from torch.func import functional_call, grad, vmap

from wardround.per_patient import PatientBatch, SlowPath, clipped_sum
from wardround.per_patient.margins import SINGLE_PRECISION as SHAVE
from wardround.training.losses import LOSSES, LOSSES_FOR

CLASSES = 3
CASES = [("classes", 2), ("grades", 2), ("grades", 3), ("masks", 2), ("masks", 3)]
FITTING = [(name, target, dims) for target, dims in CASES for name in LOSSES_FOR[target]]
FIT = pytest.mark.parametrize(("name", "target", "dims"), FITTING)


def network(target: str, dims: int) -> nn.Module:
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = [conv(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU()]
        head = [conv(4, CLASSES, 1)] if target == "masks" else [nn.Flatten(), nn.Linear(4 * 6**dims, CLASSES)]
        return nn.Sequential(*body, *head)


def batch(target: str, dims: int, dtype: torch.dtype = torch.float64) -> PatientBatch:
    generator = torch.Generator().manual_seed(1)
    space = (6,) * dims
    inputs = torch.randn(5, 1, *space, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, CLASSES, (5, *(space if target == "masks" else ())), generator=generator)
    return PatientBatch(inputs, labels, torch.tensor([0, 0, 1, 3, 3]), 4)


@FIT
def test_a_loss_gives_the_clipped_sum_of_one_patient_backward_passes_in_one_pass(name, target, dims):
    model, step, loss = network(target, dims).double(), batch(target, dims), LOSSES[name]
    gradients = patient_gradients(model, loss, step)
    norms = gradients.norm(dim=1)
    clipping_norm = float(norms[norms > 0].median())
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPath)
        ours = clipped_sum(model, loss, step, clipping_norm=clipping_norm)
    expected = clip_and_sum(gradients, clipping_norm, shave=SHAVE)
    assert relative_error(ours.vector, expected, parameter_sizes(model))[0] < 1e-10


@FIT
def test_a_loss_can_be_mapped_over_pictures_as_the_slow_path_does(name, target, dims):
    model, step = network(target, dims).double(), batch(target, dims)
    parameters = {key: p.detach() for key, p in model.named_parameters()}

    def loss(values, picture, label):
        return LOSSES[name](functional_call(model, values, (picture[None],)), label[None])[0]

    mapped = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, step.inputs, step.labels)
    for i in range(5):
        alone = grad(loss)(parameters, step.inputs[i], step.labels[i])
        for key in parameters:
            torch.testing.assert_close(mapped[key][i], alone[key])


@FIT
def test_a_loss_under_autocast_takes_no_slow_path_and_stays_near_full_precision(name, target, dims):
    model, step = network(target, dims), batch(target, dims, torch.float32)
    fine = clipped_sum(model, LOSSES[name], step, clipping_norm=1.0).vector
    with torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error", SlowPath)
        coarse = clipped_sum(model, LOSSES[name], step, clipping_norm=1.0).vector
    assert coarse.dtype is torch.float32
    # bfloat16 has 8 bits; gradients of small networks keep a few of them.
    assert float((coarse - fine).norm()) < 0.05 * float(fine.norm())
