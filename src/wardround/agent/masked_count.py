"""The number of patients as a masked sum: every patient is a row with a one in it, on a grid of its own.

Released, to the coordinator, every hospital and whoever they tell: the noised number of patients of all hospitals
together, before round 1. Sensitivity: one patient, added or removed with all their pictures, moves the sum by one row,
of integer L2 norm at most D; the row is the same for everybody. Worth: that of `PrivacyPlan.count_shares`, by
`wardround.accounting.discrete`.

The row is a gradient of norm 1 to the grid, so that what is proved and checked of gradients holds here: it is
D - sqrt(1 + witnesses) / 2 steps long, rounded. Sixteen steps of signal are given up for that, of D: 3e-5 of it at
noise multiplier 6 among ten hospitals (D = 524,287).
"""

from collections.abc import Iterator

import numpy as np

from wardround.accounting.discrete import DiscreteShares
from wardround.errors import PrivacyError
from wardround.privacy.plan import PrivacyPlan
from wardround.secure_aggregation.mechanism import IntegerMechanism
from wardround.secure_aggregation.witness import WITNESSES
from wardround.types import Vector

COORDINATES = 1 + WITNESSES
"""Of a count: the number, and noise alone."""


def count_mechanism_of(plan: PrivacyPlan) -> IntegerMechanism | None:
    """The mechanism of a plan's masked count; None where the number of patients is public.

    Its ring is the widest, as nobody knows beforehand how many there are to count.

    Raises:
        PrivacyError: the grid is not the one that epsilon was computed for.
    """
    shares = plan.count_shares
    if shares is None:
        return None
    mechanism = counting(plan)
    if shares_of_count(mechanism) != shares:
        raise PrivacyError(f"The count must be the one that epsilon was computed for, {shares}, got {mechanism}.")
    return mechanism


def counting(plan: PrivacyPlan) -> IntegerMechanism:
    """The mechanism whose count has the plan's noise multiplier, or a hair more."""
    return IntegerMechanism(
        1.0, plan.count_noise_multiplier, COORDINATES, plan.hospitals, plan.colluders, plan.dropouts
    )


def shares_of_count(mechanism: IntegerMechanism) -> DiscreteShares:
    """The noise of a count as the accountant knows it."""
    return DiscreteShares(mechanism.share_std, mechanism.honest, mechanism.sensitivity, mechanism.dimension)


def counted_rows(num_patients: int) -> Iterator[Vector]:
    """A row for each patient, alike, without the witnesses, (1,)."""
    row = np.ones(1, dtype=np.float32)
    for _ in range(num_patients):
        yield row
