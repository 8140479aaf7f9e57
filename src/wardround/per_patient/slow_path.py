"""Slower exact gradients of networks, or batches, that the engine has no rules for."""

import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from wardround.per_patient.batch import Loss, PatientBatch, losses_of
from wardround.per_patient.layout import Layout


class SlowPath(UserWarning):
    """Warning that part of a network has no rule: its gradients are exact, and take longer."""


def warn_of_slow_path(model: nn.Module, what: str) -> None:
    """Warns, by name, which part of a network takes longer."""
    warnings.warn(f"{type(model).__name__}: slow path for {what}", SlowPath, stacklevel=2)


def functional_gradients(model: nn.Module, layout: Layout, loss: Loss, batch: PatientBatch) -> Tensor:
    """Returns each picture's gradient, (picture, parameter), by `vmap` over the gradient of one picture."""
    parameters = {name: p.detach() for name, p in layout.parameters.items()}

    def picture_loss(values: dict[str, Tensor], picture: Tensor, label: Tensor) -> Tensor:
        return losses_of(loss, functional_call(model, values, (picture[None],)), label[None], 1)[0]

    per_picture = vmap(grad(picture_loss), in_dims=(None, 0, 0), randomness="different")
    gradients = per_picture(parameters, batch.inputs, batch.labels)
    return torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)


def gradient_in_parts(model: nn.Module, layout: Layout, loss: Loss, part: PatientBatch, chunk: int) -> Tensor:
    """Returns the gradient of one patient, (1, parameter), by ordinary backward passes of `chunk` pictures each."""
    formed: list[Tensor | None] = [None] * len(layout.parameters)
    for at in range(0, len(part.inputs), chunk):
        inputs, labels = part.inputs[at : at + chunk], part.labels[at : at + chunk]
        with torch.enable_grad():
            value = losses_of(loss, model(inputs), labels, len(inputs)).sum() / len(part.inputs)
        found = torch.autograd.grad(value, list(layout.parameters.values()), allow_unused=True)
        formed = [b if a is None else a if b is None else a + b for a, b in zip(formed, found, strict=True)]
    return layout.flat(formed)[None]


def slow_gradients(model: nn.Module, layout: Layout, loss: Loss, part: PatientBatch, *, loop: bool) -> Tensor:
    """Returns each patient's gradient, (patient, parameter); `loop` takes one picture at a time."""
    counts = torch.bincount(part.patient, minlength=part.num_patients).clamp(min=1)
    if loop:
        pictures = [
            PatientBatch(x[None], y[None], part.patient[:1], 1)
            for x, y in zip(part.inputs, part.labels, strict=True)
        ]
        gradients = torch.cat([gradient_in_parts(model, layout, loss, picture, 1) for picture in pictures])
    else:
        gradients = functional_gradients(model, layout, loss, part)
    sums = gradients.new_zeros(part.num_patients, gradients.shape[1]).index_add_(0, part.patient, gradients)
    return sums.div_(counts[:, None])
