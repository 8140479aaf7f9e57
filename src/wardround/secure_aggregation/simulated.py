"""Secure aggregation, simulated: the sum is formed in the open, in one place, and only the sum is handed on.

Released: the sum of the hospitals' vectors, to the caller. Nothing here hides a single vector from whoever can
read this process; a run that uses it says "simulated" in its statement.
"""

from collections.abc import Iterable

import numpy as np

from wardround.types import Vector


def simulated_secure_sum(vectors: Iterable[Vector]) -> Vector:
    """Sum of the hospitals' vectors, (parameter,), accumulated in float64."""
    total: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None
    for vector in vectors:
        total = vector.astype(np.float64) if total is None else np.add(total, vector, out=total)
    if total is None:
        raise ValueError("a sum needs at least one vector")
    return total.astype(np.float32)
