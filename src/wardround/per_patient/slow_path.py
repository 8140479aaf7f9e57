"""Gradients by ordinary passes: slower exact ones where the engine has no rules, and the sum without clipping.

None of the slower ones couples two patients: `torch.func.vmap` runs the network on one picture, as far as it can tell,
and the loop runs it on one picture or one patient.
"""

import warnings
from collections.abc import Callable, Sequence
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from wardround.per_patient.batch import Loss, PatientBatch, losses_of
from wardround.per_patient.guards.draws import PictureKeys, Unkeyed, drawing
from wardround.per_patient.guards.kinds import refuse_reentrant
from wardround.per_patient.layout import Layout, called_with
from wardround.per_patient.process import one_at_a_time

_DRAWING: "WeakSet[nn.Module]" = WeakSet()
"""Networks that drew random numbers."""


class SlowPath(UserWarning):
    """Warning that part of a network has no rule: its gradients are exact, and take longer."""


def warn_of_slow_path(model: nn.Module, what: str) -> None:
    """Warns, by name, which part of a network takes longer."""
    warnings.warn(f"{type(model).__name__}: slow path for {what}", SlowPath, stacklevel=2)


def functional_gradients(model: nn.Module, layout: Layout, loss: Loss, batch: PatientBatch) -> Tensor:
    """Returns each picture's gradient, (picture, parameter), by `vmap` over the gradient of one picture."""
    parameters = {name: p.detach() for name, p in layout.parameters.items()}

    def picture_loss(values: dict[str, Tensor], picture: Tensor, label: Tensor) -> Tensor:
        return losses_of(loss, called_with(model, values, (picture[None],)), label[None], 1)[0]

    per_picture = vmap(grad(picture_loss), in_dims=(None, 0, 0), randomness="different")
    gradients = per_picture(parameters, batch.inputs, batch.labels)
    return torch.cat([gradients[name].flatten(1).to(layout.dtype) for name in parameters], dim=1)


def gradients_of(
    value: Tensor, parameters: Sequence[Tensor], *, retain_graph: bool = False
) -> list[Tensor | None]:
    """Returns the gradient of a number by each parameter, dense; None where it does not depend on one.

    Raises:
        ModelError: a checkpoint that allows no such gradient.
    """
    try:
        found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=retain_graph)
    except RuntimeError as error:
        refuse_reentrant(error)
        raise
    return [g.to_dense() if g is not None and g.is_sparse else g for g in found]


def gradient_in_parts(
    model: nn.Module, layout: Layout, loss: Loss, part: PatientBatch, chunk: int, keys: PictureKeys | None
) -> Tensor:
    """Returns the gradient of one patient, (1, parameter), by ordinary backward passes of `chunk` pictures each.

    Pictures draw from their keys; None says that the network draws nothing, which the caller watches.
    """
    formed: list[Tensor | None] = [None] * len(layout.parameters)
    for at in range(0, len(part.inputs), chunk):
        inputs, labels = part.inputs[at : at + chunk], part.labels[at : at + chunk]
        try:
            with drawing(None if keys is None else keys[at : at + chunk], layout.device) as watched:
                with torch.enable_grad():
                    value = losses_of(loss, model(inputs), labels, len(inputs)).sum() / len(part.inputs)
                found = gradients_of(value, list(layout.parameters.values()))
        except Unkeyed:
            return gradient_in_parts(model, layout, loss, part, 1, keys)
        if watched.unforeseen:
            raise Unforeseen
        formed = [b if a is None else a if b is None else a + b for a, b in zip(formed, found, strict=True)]
    return layout.flat(formed)[None]


class Unforeseen(Exception):  # control flow inside the package; it never leaves it
    """Signal that a network drew random numbers that were not foreseen, so that they were not keyed."""


def slow_gradients(
    model: nn.Module, layout: Layout, loss: Loss, part: PatientBatch, keys: PictureKeys | None, *, loop: bool
) -> Tensor:
    """Returns each patient's gradient, (patient, parameter); `loop` takes one picture at a time.

    Keys are those of `gradient_in_parts`.
    """
    counts = torch.bincount(part.patient, minlength=part.num_patients).clamp(min=1)
    if loop:
        each = [None] * len(part.inputs) if keys is None else [[key] for key in keys]
        pairs = zip(part.singles(), each, strict=True)
        gradients = torch.cat([gradient_in_parts(model, layout, loss, one, 1, key) for one, key in pairs])
    else:
        with drawing(keys, layout.device) as watched:
            gradients = functional_gradients(model, layout, loss, part)
        if watched.unforeseen:
            raise Unforeseen
    sums = gradients.new_zeros(part.num_patients, gradients.shape[1]).index_add_(0, part.patient, gradients)
    return sums.div_(counts.to(sums.dtype)[:, None])


def draws(model: nn.Module, inputs: Tensor) -> bool:
    """Returns whether a network, as it is, draws random numbers for some made-up pictures; torch keeps its state."""
    with torch.no_grad(), drawing(None, inputs.device) as watched:
        model(inputs)
    return watched.unforeseen


@one_at_a_time()
def plain_sum(
    model: nn.Module, layout: Layout, loss: Loss, batch: PatientBatch, keys: Callable[[], list[bytes]]
) -> Tensor:
    """Returns the sum over patients of the gradient of each one's mean loss, (parameter,); draws follow from `keys`.

    Guarantee: none. Nothing is clipped, and the sum is private.
    """
    counts = torch.bincount(batch.patient, minlength=batch.num_patients)
    shares = counts[batch.patient]
    if model not in _DRAWING:
        found, has_drawn = _backward(model, layout, loss, batch, shares, None)
        if not has_drawn:
            return found
        _DRAWING.add(model)
    own = keys()
    try:
        return _backward(model, layout, loss, batch, shares, own)[0]
    except Unkeyed:  # one picture after the other
        pairs = zip(batch.singles(), shares, own, strict=True)
        parts = [_backward(model, layout, loss, one, share[None], [key])[0] for one, share, key in pairs]
        return torch.stack(parts).sum(0)


def _backward(
    model: nn.Module, layout: Layout, loss: Loss, batch: PatientBatch, shares: Tensor, keys: PictureKeys | None
) -> tuple[Tensor, bool]:
    """Returns the gradient of the sum of losses over their shares, and whether numbers were drawn without keys."""
    with drawing(keys, layout.device) as watched:
        found = _gradient(model, layout, loss, batch, shares)
    return found, watched.unforeseen


def _gradient(model: nn.Module, layout: Layout, loss: Loss, batch: PatientBatch, shares: Tensor) -> Tensor:
    """Returns the gradient of the sum of losses over their shares, (parameter,)."""
    with torch.enable_grad():
        losses = losses_of(loss, model(batch.inputs), batch.labels, len(batch.inputs))
        return layout.flat(gradients_of((losses / shares).sum(), list(layout.parameters.values())))
