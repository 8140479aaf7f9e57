"""The parties that add the noise to a sum, a closed sum of three kinds, and the part of each hospital."""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from wardround.accounting.insiders import NoiseShares
from wardround.accounting.terms import Trust
from wardround.errors import PrivacyError


@dataclass(frozen=True)
class ByCoordinator:
    """The coordinator adds all of the noise, and sees the sum before it.

    Attributes:
        hospitals: hospitals in the sum.
    """

    hospitals: int

    def __post_init__(self) -> None:
        """Refuses a federation of no hospital."""
        _check_hospitals(self.hospitals)


@dataclass(frozen=True)
class ByEachHospital:
    """Each hospital adds all of the noise to its own answer.

    Attributes:
        hospitals: hospitals that answer.
    """

    hospitals: int

    def __post_init__(self) -> None:
        """Refuses a federation of no hospital."""
        _check_hospitals(self.hospitals)


Noiser: TypeAlias = ByCoordinator | ByEachHospital | NoiseShares
"""Who adds the noise; `NoiseShares` is secure aggregation, one share from each hospital."""


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


def _check_hospitals(hospitals: int) -> None:
    if hospitals < 1:
        raise PrivacyError(f"A plan needs at least one hospital, got {hospitals}.")
