"""Refusal of networks in which one patient's gradient depends on another patient."""

import copy

import torch
from torch import Tensor, nn

from wardround.errors import ModelError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_trainable(model: nn.Module, example: Tensor) -> None:
    """Refuses a network that mixes patients, by its structure and by its behaviour.

    Args:
        model: maps inputs to logits, (picture, class).
        example: one batch of at least two encoded pictures, (picture, *shape); public or random values.

    Raises:
        ModelError: a layer computes statistics over the batch, keeps running statistics of the pictures, or
            the logits of one picture move when another picture changes; or nothing is left to train.
    """
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and module.training:
            raise ModelError(
                f"Every layer must treat each patient alone, got {type(module).__name__} at {name!r} in training "
                "mode. It normalises a picture by the other pictures in the batch, so clipping one patient's "
                "gradient bounds nothing, and its running mean and variance would be released without noise. "
                "Use GroupNorm, or freeze the layer with .eval()."
            )
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise ModelError(
                f"Every layer must forget the pictures it saw, got {type(module).__name__} at {name!r} with "
                "running statistics, which would be released without noise. Set track_running_stats=False."
            )
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError("At least one parameter must be trained, got a network that is wholly frozen.")
    _check_behaviour(model, example)


def _check_behaviour(model: nn.Module, example: Tensor) -> None:
    """Changes every picture but the first, and refuses a network whose first logits or gradients move."""
    if len(example) < 2:
        raise ModelError(f"The example must hold at least two pictures, got {len(example)}.")
    probe = copy.deepcopy(model)
    for module in probe.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()  # its masks are drawn for each picture by itself
    other = example.clone()
    other[1:] = -3.0 * other[1:].flip(0) + 1.0
    if not (_same(*(_seeded(probe, batch)[0].detach() for batch in (example, other)))):
        raise ModelError(
            "One picture's output must not depend on the other pictures in the batch, and this network's does. "
            "Look for statistics, attention or sorting over the first axis."
        )
    for before, after in zip(_first_gradients(probe, example), _first_gradients(probe, other), strict=True):
        if not _same(before, after):
            raise ModelError(
                "One picture's gradient must not depend on the other pictures in the batch, and this network's "
                "does. Look for a hand-written backward pass that mixes the first axis."
            )


def _seeded(model: nn.Module, batch: Tensor) -> Tensor:
    """Returns the output with the same random numbers at every call: some networks drop parts outside `nn.Dropout`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = model(batch)
    if not isinstance(output, Tensor):
        raise ModelError(
            f"A network must return one tensor, the picture first, got {type(output).__name__}; "
            "wrap it in a module that returns the part to train on."
        )
    return output


def _first_gradients(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """Returns the gradients of the first picture's output."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        total = _seeded(model, batch)[0].sum()
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def _same(before: Tensor, after: Tensor) -> bool:
    # The same arithmetic on the same numbers: only the order of a sum may differ, by the last few bits.
    return torch.allclose(before, after, rtol=1e-4, atol=1e-5 * float(before.abs().max() + 1))
