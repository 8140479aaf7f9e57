"""Gradients of several copies of one network in one pass, each copy with weights and pictures of its own.

Hospitals that a simulation holds in one process take local steps at weights that differ. A function that reads a
trained parameter runs once for each hospital, on its part of the batch with its weights; every other function, and the
walk through the modules, runs once for all. Blocks of copies run on the cores side by side, a thread each: torch lets
other threads in while a kernel runs.
"""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wardround.per_patient.batch import Loss, PatientBatch, losses_of
from wardround.per_patient.guards.draws import drawing
from wardround.per_patient.layers.standardised import standardised_convolution
from wardround.per_patient.layout import Layout
from wardround.per_patient.process import workers

_PICTURE_BY_PICTURE = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    F.group_norm, F.layer_norm, standardised_convolution,
}  # fmt: skip
"""Functions whose first argument and result have the picture on the first axis."""

_ALONE: "WeakSet[nn.Module]" = WeakSet()
"""Networks that draw numbers, or read a parameter otherwise: one copy at a time."""


class _Alone(Exception):  # control flow inside this module; it never leaves it
    """Signal that a parameter is read by a function that cannot be divided by pictures."""


class _SideBySide(TorchFunctionMode):
    """Torch mode that gives each part of a batch the values of its own copy."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], copies: list[dict[int, Tensor]], sizes: list[int]
    ) -> None:
        super().__init__()
        self._trained = {id(parameter) for parameter in parameters}
        self._copies, self._sizes, self._pictures = copies, sizes, sum(sizes)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one torch function; torch calls this for every function while the mode is on."""
        kwargs = kwargs or {}
        if not self._reads((*args, *kwargs.values())):
            return func(*args, **kwargs)
        if func not in _PICTURE_BY_PICTURE or args[0].shape[0] != self._pictures:
            raise _Alone
        return torch.cat(
            [
                func(
                    part,
                    *(own.get(id(value), value) for value in args[1:]),
                    **{name: own.get(id(value), value) for name, value in kwargs.items()},
                )
                for part, own in zip(args[0].split(self._sizes), self._copies, strict=True)
            ]
        )

    def _reads(self, values: Sequence[Any]) -> bool:
        """Returns whether a trained parameter is among some arguments, or in a list among them."""
        return any(
            self._reads(value) if isinstance(value, (list, tuple)) else id(value) in self._trained
            for value in values
        )


Block = tuple[PatientBatch, list[int], list[Tensor]]
"""Pictures of some copies, one copy after the other, the number of each copy's, positive, and each one's weights."""


def sums_side_by_side(
    model: nn.Module, layout: Layout, loss: Loss, blocks: Sequence[Callable[[], Block]], cores: int = 1
) -> list[Tensor] | None:
    """Returns the sum over each copy's patients of the gradient of each one's mean loss, (parameter,) each.

    Args:
        model: of which no picture's output depends on another picture; its own values are not read.
        layout: of the model.
        loss: loss of each picture, unreduced.
        blocks: make the copies of each pass, weights (parameter,), float32; at most one a core is in memory.
        cores: threads that take a block each; a kernel has one thread.

    None where the network draws random numbers, or reads a trained parameter in a function that is not known to take
    picture by picture: such a network is asked once, and never again.

    Guarantee: none. Nothing is clipped, and the sums are private.
    """
    if model in _ALONE or layout.dtype != torch.float32:
        return None
    try:
        with workers(cores) as pool, drawing(None, layout.device) as watched:
            found = list(pool.map(lambda block: _sums(model, layout, loss, *block()), blocks))
    except _Alone:
        _ALONE.add(model)
        return None
    if watched.unforeseen:
        _ALONE.add(model)
        return None
    return [vector for vectors in found for vector in vectors]


def _sums(
    model: nn.Module, layout: Layout, loss: Loss, batch: PatientBatch, sizes: list[int], weights: list[Tensor]
) -> Sequence[Tensor]:
    """Returns the sums of one block, in this thread."""
    parameters = list(layout.parameters.values())
    values = [own.clone().requires_grad_() for own in weights]
    copies = []
    for own in values:
        pieces = torch.split(own, [parameter.numel() for parameter in parameters])
        copies.append({id(p): piece.view(p.shape) for p, piece in zip(parameters, pieces, strict=True)})
    counts = torch.bincount(batch.patient, minlength=batch.num_patients)
    with torch.enable_grad():
        with _SideBySide(parameters, copies, sizes):
            output = model(batch.inputs)
        losses = losses_of(loss, output, batch.labels, len(batch.inputs))
        return torch.autograd.grad((losses / counts[batch.patient]).sum(), values, materialize_grads=True)
