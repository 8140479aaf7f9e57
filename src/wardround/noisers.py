"""The parties that add the noise of one sum: a leaf, shared by the rooms that account for noise and that add it."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

from wardround.errors import PrivacyError


class Trust(StrEnum):
    """The party that adds the noise, and so the attackers against whom the guarantee holds."""

    COORDINATOR = "coordinator"
    SECURE_AGGREGATION = "secure-aggregation"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class ByCoordinator:
    """The coordinator adds all of the noise, and sees the sum before it."""

    hospitals: int

    def __post_init__(self) -> None:
        """Refuses a federation of no hospital."""
        _check_hospitals(self.hospitals)


@dataclass(frozen=True, slots=True)
class ByEachHospital:
    """Each hospital adds all of the noise to its own answer."""

    hospitals: int

    def __post_init__(self) -> None:
        """Refuses a federation of no hospital."""
        _check_hospitals(self.hospitals)


@dataclass(frozen=True, slots=True)
class NoiseShares:
    """Secure aggregation: each hospital adds a share of the noise, sized for the honest hospitals present.

    Each share has variance (z C)² / (K - colluders - dropouts): colluding hospitals know their own shares and can take
    them off, missing hospitals never added theirs (Truex et al. 2019, https://arxiv.org/abs/1812.03224).

    Attributes:
        hospitals: K, hospitals in the sum.
        colluders: hospitals that may tell the coordinator their share.
        dropouts: hospitals whose share may be missing.

    Raises:
        PrivacyError: no honest hospital would be left.
    """

    hospitals: int
    colluders: int = 1
    dropouts: int = 0

    def __post_init__(self) -> None:
        """Refuses shares that add up to no noise."""
        _check_hospitals(self.hospitals)
        if self.colluders < 0 or self.dropouts < 0:
            raise PrivacyError(
                f"colluders and dropouts must be >= 0, got {self.colluders} and {self.dropouts}. "
                "Use 0 to foresee none."
            )
        if self.honest < 1:
            raise PrivacyError(
                f"colluders + dropouts must be < hospitals, got {self.colluders} + {self.dropouts} of "
                f"{self.hospitals}. Someone honest has to be left to add noise: lower them, or invite more "
                f"hospitals."
            )

    @property
    def honest(self) -> int:
        """Number of shares that are surely in the sum and unknown to the attacker."""
        return self.hospitals - self.colluders - self.dropouts

    def share(self, noise_multiplier: float) -> float:
        """Returns the noise multiplier of one hospital's share.

        >>> round(NoiseShares(hospitals=10, colluders=1).share(1.15), 4)
        0.3833
        """
        return noise_multiplier / math.sqrt(self.honest)

    def left(self, noise_multiplier: float, colluding: int, missing: int) -> float:
        """Returns the noise multiplier against an attacker with `colluding` shares when `missing` were never added."""
        unknown = max(0, self.hospitals - colluding - missing)
        return noise_multiplier * math.sqrt(unknown / self.honest)


Noiser: TypeAlias = ByCoordinator | ByEachHospital | NoiseShares


def noiser_of(trust: Trust, hospitals: int, colluders: int = 0, dropouts: int = 0) -> Noiser:
    """Returns the noiser that a trust model and the numbers of hospitals stand for.

    Raises:
        PrivacyError: no honest hospital would be left, or numbers of shares are given where none are added.
    """
    if trust is Trust.SECURE_AGGREGATION:
        return NoiseShares(hospitals, colluders, dropouts)
    if colluders or dropouts:
        raise PrivacyError(
            f"colluders and dropouts must be 0 with trust = {trust}, got {colluders} and {dropouts}. "
            "Hospitals add shares of noise with secure-aggregation only."
        )
    return ByCoordinator(hospitals) if trust is Trust.COORDINATOR else ByEachHospital(hospitals)


def trust_of(noiser: Noiser) -> Trust:
    """Returns the trust model that a noiser stands for."""
    match noiser:
        case ByCoordinator():
            return Trust.COORDINATOR
        case ByEachHospital():
            return Trust.NOBODY
        case NoiseShares():
            return Trust.SECURE_AGGREGATION
        case _:
            assert_never(noiser)


def colluders_of(noiser: Noiser) -> int:
    """Returns the hospitals that may tell their share of the noise; 0 without shares."""
    return noiser.colluders if isinstance(noiser, NoiseShares) else 0


def dropouts_of(noiser: Noiser) -> int:
    """Returns the hospitals whose share of the noise may be missing; 0 without shares."""
    return noiser.dropouts if isinstance(noiser, NoiseShares) else 0


def hospital_std(noiser: Noiser, total_std: float) -> float:
    """Returns the std of one hospital's noise when noise of std `total_std` must surely be in the sum."""
    match noiser:
        case ByCoordinator():
            return 0.0
        case ByEachHospital():
            return total_std
        case NoiseShares():
            return noiser.share(total_std)
        case _:
            assert_never(noiser)


def inflation_of(noiser: Noiser) -> float:
    """Returns the std of the noise in the sum of all hospitals over the std that was promised."""
    match noiser:
        case ByCoordinator():
            return 1.0
        case ByEachHospital():
            return math.sqrt(noiser.hospitals)
        case NoiseShares():
            return math.sqrt(noiser.hospitals / noiser.honest)
        case _:
            assert_never(noiser)


def _check_hospitals(hospitals: int) -> None:
    if hospitals < 1:
        raise PrivacyError(f"hospitals must be >= 1, got {hospitals}. Count those of a round.")
