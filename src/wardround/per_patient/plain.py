"""Sum of per-patient gradients without clipping, by one ordinary backward pass: where no step is private."""

from collections.abc import Callable
from weakref import WeakSet

import torch
from torch import Tensor, nn

from wardround.per_patient.batch import Loss, PatientBatch, losses_of
from wardround.per_patient.guards.draws import PictureKeys, Unkeyed, drawing
from wardround.per_patient.layout import Layout
from wardround.per_patient.process import one_at_a_time
from wardround.per_patient.slow_path import gradients_of

_DRAWING: "WeakSet[nn.Module]" = WeakSet()
"""Networks that drew random numbers."""


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
    with torch.enable_grad(), drawing(keys, layout.device) as watched:
        losses = losses_of(loss, model(batch.inputs), batch.labels, len(batch.inputs))
        found = gradients_of((losses / shares).sum(), list(layout.parameters.values()))
    return layout.flat(found), watched.unforeseen
