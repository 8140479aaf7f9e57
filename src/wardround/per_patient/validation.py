"""Refusal of networks in which one patient's gradient depends on another patient.

`clipped_sum` checks by itself. `check_trainable` says the same before there is a batch, with the layer's name where a
list knows it.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from wardround.errors import ModelError
from wardround.per_patient.guards.draws import Unkeyed, drawing, made_up_keys
from wardround.per_patient.guards.kinds import BATCH_NORMS as BATCH_NORMS
from wardround.per_patient.guards.kinds import check_kind, check_layers
from wardround.per_patient.guards.state import unchanged, without_foreign_draws
from wardround.per_patient.slow_path import gradients_of


def check_trainable(model: nn.Module, example: Tensor) -> None:
    """Refuses a network that mixes patients, by its structure and by its behaviour on an example.

    The example is a batch of at least two encoded pictures, (picture, *shape), of public or random values. Every
    picture is compared with itself alone: its output, and the gradient of its output by each parameter. Draws are keyed
    by picture, as `clipped_sum` keys them.

    Raises:
        ModelError: a layer computes statistics over the batch; the network changes a buffer or a parameter
            (code `model-buffer`); the output or gradient of a picture depends on another one (`model-mixes`); it is of
            a kind that `clipped_sum` cannot take; or nothing is left to train.
    """
    check_layers(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError("At least one parameter must be trained, got a network that is wholly frozen.")
    if len(example) < 2:
        raise ModelError(f"The example must hold at least two pictures, got {len(example)}.")
    if example.is_floating_point():
        example = example[torch.isfinite(example).flatten(1).all(1)]
    probe = copy.deepcopy(model)
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in probe.parameters()):
        _outputs(probe, example, [0])  # gives lazy layers their sizes
    check_kind(probe)
    with unchanged(probe, values=True), without_foreign_draws():
        try:
            _check_behaviour(probe, example)
        except ModelError as mixes:
            # Rounding of a deep network may look like mixing in single precision, and vanishes in double.
            if mixes.code != "model-mixes" or not _is_apart_in_double(probe, example):
                raise


def _is_apart_in_double(probe: nn.Module, example: Tensor) -> bool:
    """Returns whether the network keeps pictures apart in double precision; False if it does not run in it."""
    if not example.is_floating_point() or example.dtype is torch.float64:
        return False
    try:
        _check_behaviour(copy.deepcopy(probe).double(), example.double())
    except Exception:  # any error of a network that is fixed to single precision
        return False
    return True


def _check_behaviour(probe: nn.Module, example: Tensor) -> None:
    try:
        together = _outputs(probe, example, range(len(example)))
    except Unkeyed:  # `clipped_sum` takes such a network picture by picture
        return
    for i in range(len(example)):
        alone = _outputs(probe, example, [i])
        if not _same(together[i].detach(), alone[0].detach()):
            raise ModelError(
                "One picture's output must not depend on the other pictures in the batch, and this network's does. "
                "Look for statistics, attention or sorting over the first axis.",
                code="model-mixes",
            )
        for before, after in zip(_gradients(probe, together[i]), _gradients(probe, alone[0]), strict=True):
            if not _same(before, after):
                raise ModelError(
                    "One picture's gradient must not depend on the other pictures in the batch, and this network's "
                    "does. Look for a hand-written backward pass that mixes the first axis.",
                    code="model-mixes",
                )


def _outputs(model: nn.Module, example: Tensor, places: Iterable[int]) -> Tensor:
    """Returns the outputs of some pictures, run together, (picture, ...); each draws from a key of its own."""
    keys, at = made_up_keys(len(example)), list(places)
    with torch.enable_grad(), drawing([keys[place] for place in at], example.device):
        output = model(example[at])
    if not isinstance(output, Tensor):
        raise ModelError(
            f"A network must return one tensor, the picture first, got {type(output).__name__}; "
            "wrap it in a module that returns the part to train on."
        )
    return output


def _gradients(model: nn.Module, output: Tensor) -> list[Tensor]:
    """Returns the gradients of the sum of one picture's output."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = gradients_of(output.sum(), parameters, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def _same(before: Tensor, after: Tensor) -> bool:
    # The same arithmetic on the same numbers: only the order of a sum may differ, by the last few bits.
    size = float(before.abs().nan_to_num().max()) if before.numel() else 0.0
    few = 1e-9 if before.dtype is torch.float64 else 1e-5
    return torch.allclose(before, after, rtol=10 * few, atol=few * (size + 1), equal_nan=True)
