"""Clipping rules that bring a patient's gradient to a norm of at most C: flat, per layer, or automatic.

Released: nothing; these are factors of gradients that are still private. Neighbouring relation: add or remove one
patient. Each rule maps one patient's gradient, and nothing of the others', to a vector of L2 norm at most C. The sum of
these vectors moves by at most C: the sensitivity that the noise is scaled by.

The clip aims 2^-12 of itself below C, more than the rounding of norms and sums (`margins`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from wardround.errors import PrivacyError
from wardround.per_patient.margins import LEAST_STABILITY, SINGLE_PRECISION


class Clipping:
    """Rule that names the parameters clipped together (sections), and gives the factor of each section."""

    def sections(self, names: Sequence[str]) -> dict[str, int] | None:
        """Returns the section of each parameter, counted from 0; None puts all into one."""
        del names
        return None

    def check(self, clipping_norm: float) -> None:
        """Refuses a clipping norm that the rule cannot keep.

        Raises:
            PrivacyError: why.
        """
        del clipping_norm

    def factors(self, norms: Tensor, sizes: Sequence[int], clipping_norm: float) -> Tensor:
        """Returns the factor of each section of each patient's gradient, from its L2 norm, (section, patient).

        Norms are finite, in float64; `sizes` are the numbers in each section, and C bounds the norm of the whole.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Flat(Clipping):
    """Flat clipping, min(1, C / norm): one bound on the whole gradient.

    Source: Abadi et al. 2016, Algorithm 1, https://arxiv.org/abs/1607.00133.
    """

    def factors(self, norms: Tensor, sizes: Sequence[int], clipping_norm: float) -> Tensor:
        """See `Clipping`."""
        del sizes
        return torch.clamp(clipping_norm * SINGLE_PRECISION / norms, max=1.0)


class ClippingKind(StrEnum):
    """Clipping rules that a study file may name."""

    FLAT = "flat"
    PER_LAYER = "per-layer"
    PER_LAYER_BY_SIZE = "per-layer-by-size"
    AUTOMATIC = "automatic"
    ADAPTIVE = "adaptive"


class Split(StrEnum):
    """Division of C^2 among layers."""

    EQUAL = "equal"
    """C_l = C / sqrt(layers)."""
    SIZE = "size"
    """C_l = C sqrt(numbers in the layer / numbers in all)."""


@dataclass(frozen=True)
class PerLayer(Clipping):
    """Per-layer clipping, min(1, C_l / norm of layer l), with sum C_l^2 = C^2; a layer is one module's parameters.

    Source: McMahan et al. 2018, section 2.2 ("per-layer clipping"), https://arxiv.org/abs/1710.06963.

    Attributes:
        split: of C^2 among layers.
    """

    split: Split = Split.EQUAL

    def sections(self, names: Sequence[str]) -> dict[str, int]:
        """See `Clipping`: parameters of one module together."""
        owners = [name.rpartition(".")[0] for name in names]
        numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
        return {name: numbers[owner] for name, owner in zip(names, owners, strict=True)}

    def bounds(self, sizes: Sequence[int], clipping_norm: float) -> list[float]:
        """Returns C_l of each layer."""
        parts = sizes if self.split is Split.SIZE else [1] * len(sizes)
        return [clipping_norm * math.sqrt(part / sum(parts)) for part in parts]

    def factors(self, norms: Tensor, sizes: Sequence[int], clipping_norm: float) -> Tensor:
        """See `Clipping`."""
        bounds = torch.tensor(self.bounds(sizes, clipping_norm), dtype=norms.dtype, device=norms.device)
        return torch.clamp(SINGLE_PRECISION * bounds[:, None] / norms, max=1.0)


@dataclass(frozen=True)
class Automatic(Clipping):
    """Automatic clipping, C / (norm + stability): every gradient is normalised, short ones too.

    The clipping norm then only scales the learning rate. Source: Bu et al. 2023, "AUTO-S",
    https://arxiv.org/abs/2206.07136, equation (4.1) with R = C.

    Attributes:
        stability: gamma; keeps tiny gradients tiny. Far above the numbers that underflow in single precision.
    """

    stability: float = 0.01

    def __post_init__(self) -> None:
        """Checks the stability."""
        if not (self.stability >= LEAST_STABILITY and math.isfinite(self.stability)):
            raise PrivacyError(f"stability must be a number >= {LEAST_STABILITY:g}, got {self.stability}.")

    def check(self, clipping_norm: float) -> None:
        """See `Clipping`."""
        if not math.isfinite(clipping_norm):
            raise PrivacyError("Automatic clipping needs a finite clipping_norm; without a clip use Flat.")

    def factors(self, norms: Tensor, sizes: Sequence[int], clipping_norm: float) -> Tensor:
        """See `Clipping`."""
        del sizes
        return clipping_norm * SINGLE_PRECISION / (norms + self.stability)


def rule_of(kind: ClippingKind) -> Clipping:
    """Returns the rule of a kind; with an adaptive norm the clip is flat."""
    if kind is ClippingKind.PER_LAYER:
        return PerLayer()
    if kind is ClippingKind.PER_LAYER_BY_SIZE:
        return PerLayer(Split.SIZE)
    return Automatic() if kind is ClippingKind.AUTOMATIC else Flat()
