"""The oracle of clipped gradients: one-patient backward passes in float64 by ordinary autograd, and losses."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wardround.per_patient.batch import PatientBatch

Loss = Callable[[Tensor, Tensor], Tensor]


def patient_gradients(model: nn.Module, loss: Loss, batch: PatientBatch) -> Tensor:
    """The oracle: a backward pass of the mean loss over each patient's pictures, (patient, parameter)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = torch.zeros(batch.num_patients, sum(p.numel() for p in parameters), dtype=parameters[0].dtype)
    for patient, row in enumerate(rows):
        mine = batch.patient == patient
        if mine.any():
            mean = loss(model(batch.inputs[mine]), batch.labels[mine]).mean()
            parts = torch.autograd.grad(mean, parameters, allow_unused=True, materialize_grads=True)
            row.copy_(torch.cat([part.reshape(-1) for part in parts]))
    return rows


def clip_and_sum(gradients: Tensor, clipping_norm: float, *, shave: float = 1.0) -> Tensor:
    """The sum of the rows, each scaled to a norm of at most `shave * clipping_norm`."""
    norms = gradients.norm(dim=1).clamp(min=1e-300)
    return (gradients * torch.clamp(clipping_norm * shave / norms, max=1.0)[:, None]).sum(0)


def typical_clipping_norm(gradients: Tensor) -> float:
    """A clipping norm below the median patient: some are clipped and some are not, and none is on the edge."""
    norms = gradients.norm(dim=1)
    return 0.9 * float(norms[norms > 0].median()) if norms.any() else 1.0


def parameter_sizes(model: nn.Module) -> dict[str, int]:
    """Numbers of the trained parameters by name, in the order of the vector."""
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


def relative_error(
    vector: Tensor, expected: Tensor, sizes: dict[str, int], *, one: float = 0.0
) -> tuple[float, str]:
    """The largest error of one parameter, relative to its size, and the name of that parameter.

    A parameter that matters less than a hundredth of the whole is measured against that: the gradient of a bias
    before a normalisation is zero but for rounding. `one` is the size of one patient's part of the sum: the
    parts of two patients may cancel.
    """
    if vector.shape != expected.shape:
        return math.inf, f"shape {tuple(vector.shape)}, expected {tuple(expected.shape)}"
    floor = (1e-2 * expected.norm()).clamp(min=max(1e-2 * one, 1e-300))
    worst = (0.0, "")
    parts = zip(vector.double().split([*sizes.values()]), expected.split([*sizes.values()]), strict=True)
    for name, (ours, theirs) in zip(sizes, parts, strict=True):
        error = float((ours - theirs).norm() / torch.maximum(theirs.norm(), floor))
        if not error <= worst[0]:  # a NaN is the worst
            worst = (math.inf if math.isnan(error) else error, name)
    return worst


@contextmanager
def quietly() -> Iterator[None]:
    """Without warnings: an engine may say that a layer takes the slow path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none").flatten(1).mean(1)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=logits.dtype)
    return F.cross_entropy(logits, labels, weight=weight, label_smoothing=0.1, reduction="none")


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)


def soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    shown, true = torch.sigmoid(logits).flatten(1), labels.flatten(1)
    return 1 - (2 * (shown * true).sum(1) + 1) / (shown.sum(1) + true.sum(1) + 1)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).square().flatten(1).sum(1)
