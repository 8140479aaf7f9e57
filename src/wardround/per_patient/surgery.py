"""Replacement of layers that mix patients by layers that do not, keeping weights, dtype and device.

A batch norm normalises a picture by the others in the batch: clipping one patient's gradient then bounds nothing,
and its running statistics would be released without noise. Nothing here reads a picture, so nothing is released.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wardround.errors import ModelError
from wardround.per_patient.validation import BATCH_NORMS

_MOST_GROUPS = 32


class Norm(StrEnum):
    """Replacement of a batch norm."""

    GROUP = "group"
    """Groups of channels of one picture; as many groups as divide the channels, up to 32."""
    INSTANCE = "instance"
    """Each channel of one picture by itself."""
    LAYER = "layer"
    """All channels of one picture together."""
    FROZEN = "frozen"
    """The running statistics that the weights came with, never updated; scale and offset stay trained."""


@dataclass(frozen=True)
class Change:
    """One module that was replaced: its name (empty for the network itself), its class, and the replacement in words.

    `groups` is the number of groups of one picture's channels; None for frozen statistics.
    """

    name: str
    before: str
    after: str
    groups: int | None = None


@dataclass(frozen=True)
class SurgeryReport:
    """Report of the changes to a network.

    Attributes:
        changes: one for each module that was replaced, in the order of `named_modules`.
        kept: numbers in parameters that kept name, values, dtype and device.
        dropped: names of the running statistics that are gone.
    """

    changes: tuple[Change, ...]
    kept: int
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{change.name or 'the network'}: {change.before} -> {change.after}" for change in self.changes]
        return "\n".join([*lines, f"{self.kept} weights kept, {len(self.dropped)} running statistics dropped"])


class FrozenBatchNorm(nn.Module):
    """Batch norm that uses its source's statistics and never changes them, in training mode too; nothing is copied."""

    def __init__(self, source: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        if source.running_mean is None or source.running_var is None:
            raise ModelError(
                "A batch norm can be frozen only with running statistics, got one without; use group."
            )
        self.register_buffer("running_mean", source.running_mean)
        self.register_buffer("running_var", source.running_var)
        self.weight, self.bias, self.eps = source.weight, source.bias, source.eps

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised values, (picture, channel, *space)."""
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=self.eps)


def without_batch_norm(model: nn.Module, by: Norm = Norm.GROUP) -> tuple[nn.Module, SurgeryReport]:
    """Returns a copy of a network in which no layer mixes patients, and a report of the changes.

    Every batch norm is replaced `by` another; instance norms with running statistics lose those. Parameters keep their
    names where the replacement has a scale and an offset.

    Raises:
        ModelError: a lazy layer, whose size is not known yet; a batch norm without statistics to freeze.
    """
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ModelError("Every layer must know its size, got a lazy one; run the network once first.")
    changed = copy.deepcopy(model)
    changes: list[Change] = []
    made: dict[nn.Module, nn.Module | None] = {}
    # A module that occurs in two places is replaced in both, by the same one.
    for name, module in list(changed.named_modules(remove_duplicate=False)):
        if module not in made:
            made[module] = _replacement(module, Norm(by))
        after = made[module]
        if after is None:
            continue
        changes.append(Change(name, type(module).__name__, *_described(after)))
        parent, _, child = name.rpartition(".")
        if name:
            setattr(changed.get_submodule(parent), child, after)
        else:
            changed = after
    left = {name for name, _ in changed.named_buffers()}
    dropped = tuple(name for name, _ in model.named_buffers() if name not in left)
    return changed, SurgeryReport(tuple(changes), _kept(model, changed), dropped)


def _replacement(module: nn.Module, by: Norm) -> nn.Module | None:
    if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
        return _with_weights(type(module)(module.num_features, module.eps, affine=module.affine), module)
    if not isinstance(module, BATCH_NORMS):
        return None
    channels, eps, affine = module.num_features, module.eps, module.affine
    if by is Norm.FROZEN:
        return FrozenBatchNorm(module)
    if by is Norm.INSTANCE and type(module) in _INSTANCE:
        return _with_weights(_INSTANCE[type(module)](channels, eps, affine=affine), module)
    groups = {Norm.LAYER: 1, Norm.INSTANCE: channels}.get(by, _groups(channels))
    return _with_weights(nn.GroupNorm(groups, channels, eps, affine=affine), module)


_INSTANCE: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.BatchNorm1d: nn.InstanceNorm1d,
    nn.BatchNorm2d: nn.InstanceNorm2d,
    nn.BatchNorm3d: nn.InstanceNorm3d,
}


def _groups(channels: int) -> int:
    """Returns the largest divisor of the channels up to 32.

    >>> _groups(64), _groups(48), _groups(7), _groups(37)
    (32, 24, 7, 1)
    """
    return max(g for g in range(1, min(_MOST_GROUPS, channels) + 1) if channels % g == 0)


def _with_weights(after: nn.Module, before: nn.Module) -> nn.Module:
    """Returns the new module with the old scale and offset, on their device and in their dtype."""
    for key in ("weight", "bias"):
        old = getattr(before, key)
        if isinstance(old, nn.Parameter):
            with torch.no_grad():
                setattr(after, key, nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad))
    return after.train(before.training)


def _described(module: nn.Module) -> tuple[str, int | None]:
    """Returns the replacement in words, and its number of groups of one picture's channels."""
    if isinstance(module, nn.GroupNorm):
        return f"GroupNorm with {module.num_groups} groups of {module.num_channels} channels", module.num_groups
    groups = module.num_features if isinstance(module, nn.modules.instancenorm._InstanceNorm) else None
    return type(module).__name__, groups


def _kept(before: nn.Module, after: nn.Module) -> int:
    """Counts the numbers in parameters that have the same name and the same values in both."""
    old = dict(before.named_parameters())
    same = [p for name, p in after.named_parameters() if name in old and _equal(p, old[name])]
    return sum(p.numel() for p in same)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Returns whether dtype, device and values are equal (NaN included); the `meta` device has no values."""
    if (a.dtype, a.device, a.shape) != (b.dtype, b.device, b.shape):
        return False
    return a.is_meta or bool(((a == b) | (a.isnan() & b.isnan())).all())
