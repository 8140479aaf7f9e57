"""Noise on what a hospital sends instead of on each gradient: mechanisms for a whole update.

What is released: one vector a visit, computed from all of a hospital's data by any local training whatever. To
whom: as the plan's trust has it. The local training itself is not noised, and nothing of it is released but
through the mechanism.

The unit is the hospital: neighbouring federations differ in the data of one hospital, which may be replaced by any
other data whatever. That covers a patient added or removed, and a patient replaced, in one hospital.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wardround.accounting.events import Event, GaussianEvent
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import PrivacyError
from wardround.per_patient.margins import DOUBLE_PRECISION
from wardround.randomness import Stream
from wardround.types import Vector

Share = Callable[[float], float]
"""Std of one hospital's noise when a std must surely stand on what is revealed."""


class Mechanism(Protocol):
    """Noise on what leaves, as plans and statements read it."""

    @property
    def event(self) -> Event:
        """The cost of one release."""

    @property
    def noise_multiplier(self) -> float:
        """Noise over sensitivity, as the statement prints it."""

    @property
    def name(self) -> str:
        """The mechanism's name for the statement, such as "Gaussian"."""

    @property
    def what(self) -> str:
        """The released quantity, for the statement."""

    @property
    def bound(self) -> float:
        """The bound that the noise is measured against."""

    @property
    def bound_name(self) -> str:
        """The name of the bound, as `Statement` has it."""


class UpdateMechanism(Mechanism, Protocol):
    """The mechanism between a hospital's update and the wire.

    Contract: `release` is the only use of the update, draws everything random from `stream`, and costs `event` for
    one `unit` under `relation`, whatever the update is: not finite, zero, or a million times too long.
    """

    @property
    def unit(self) -> PrivacyUnit:
        """The unit that is protected."""

    @property
    def relation(self) -> NeighboringRelation:
        """In what neighbours differ."""

    @property
    def selects(self) -> bool:
        """True where it chooses by itself which parameters are released, and cuts them to size."""

    def release(self, update: Vector, share: Share, stream: Stream) -> Vector:
        """Releases the update, (parameter,)."""


@dataclass(frozen=True)
class ClippedUpdate:
    """The Gaussian mechanism on a whole update that is clipped first.

    Guarantee:
        An update of L2 norm at most `clipping_norm` moves by at most 2 * clipping_norm when a hospital's data are
        replaced, so noise of std noise_multiplier * 2 * clipping_norm makes one release the Gaussian mechanism of
        that noise multiplier, calibrated by Balle and Wang 2018, Algorithm 1, https://arxiv.org/abs/1805.06530.
        Releases compose exactly: n of them are one of noise_multiplier / sqrt(n). Yuan et al. add noise to weights
        whose change nothing bounds; this is the repair.

    Attributes:
        clipping_norm: S.
        noise_multiplier: std of the noise over 2 S.
    """

    clipping_norm: float
    noise_multiplier: float

    unit = PrivacyUnit.HOSPITAL
    relation = NeighboringRelation.REPLACE_ONE
    selects = False
    name = "Gaussian"
    bound_name = "clipping_norm"
    what = "each hospital's update after its local training, clipped as a whole and noised"

    def __post_init__(self) -> None:
        if not 0 < self.clipping_norm < float("inf"):
            raise PrivacyError(f"clipping_norm must be > 0 and finite, got {self.clipping_norm}.")
        GaussianEvent(self.noise_multiplier)  # refuses what is no noise

    @property
    def bound(self) -> float:
        """See `Mechanism`."""
        return self.clipping_norm

    @property
    def event(self) -> Event:
        """See `UpdateMechanism`."""
        return GaussianEvent(self.noise_multiplier)

    def release(self, update: Vector, share: Share, stream: Stream) -> Vector:
        """See `UpdateMechanism`. An update that is not finite becomes zero before the noise."""
        noisy = clipped_to(update, self.clipping_norm)
        stream.add_normal(noisy, share(self.noise_multiplier * 2 * self.clipping_norm))
        return noisy.astype(np.float32)


def clipped_to(update: Vector, norm: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The update scaled to an L2 norm of at most `norm`, (parameter,); zeros where a number is not finite.

    Scaled in double precision, `DOUBLE_PRECISION` short of the norm: rounding cannot bring it back above.
    """
    wide = update.astype(np.float64)
    largest = float(np.max(np.abs(wide), initial=0.0))
    if not np.isfinite(largest):
        return np.zeros_like(wide)
    if largest == 0.0:
        return wide
    length = largest * float(np.linalg.norm(wide / largest))
    if length > norm:
        wide *= norm * DOUBLE_PRECISION / length
    return wide
