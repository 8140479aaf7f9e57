"""The number of patients as a masked sum: every patient is a row with a one in it, on a grid of its own.

Released, to the coordinator, every hospital and any party they tell: the noised number of patients of all hospitals
together, before round 1. Sensitivity: one patient, added or removed with all their pictures, moves the sum by one row,
of integer L2 norm at most D; the row is the same for everybody. Worth: that of
`NoisedCounts`, by `wardround.accounting.discrete`.

The row is a gradient of norm 1 to the grid, so that what is proved and checked of gradients holds here: it is
D - sqrt(1 + witnesses) / 2 steps long, rounded. Sixteen steps of signal are given up for that, of D: 3e-5 of it at
noise multiplier 6 among ten hospitals (D = 524,287).
"""

from collections.abc import Iterator

import numpy as np

from wardround.types import Vector


def counted_rows(num_patients: int) -> Iterator[Vector]:
    """Yields a row for each patient, alike, without the witnesses, (1,)."""
    row = np.ones(1, dtype=np.float32)
    for _ in range(num_patients):
        yield row
