"""Integers modulo 2^32 or 2^64: where vectors are masked and summed.

Adding in the ring loses nothing as long as the true sum lies in its centred half, [-2^(b-1), 2^(b-1)). A sum that
does not comes out wrong by a multiple of 2^b: that costs the model, and never a patient, for it is
post-processing of the masked vectors.
"""

from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.errors import FederationError

Residues: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""A vector in the ring, little-endian, 0..2^b - 1, (coordinate,)."""


class Ring(IntEnum):
    """How many bits a coordinate has."""

    BITS_32 = 32
    BITS_64 = 64

    @classmethod
    def for_sums_up_to(cls, largest: float) -> "Ring":
        """The smallest ring in which no sum of this size or less, of either sign, wraps around.

        For patients of integer norm D, at most B of them in a round, and n shares of noise of standard deviation
        s: B D + 12 s sqrt(n), of which the noise exceeds its part with probability 2 exp(-72) a coordinate at most.

        Raises:
            FederationError: the bound reaches 2^63.

        >>> Ring.for_sums_up_to(2**31 - 1), Ring.for_sums_up_to(2**31)
        (<Ring.BITS_32: 32>, <Ring.BITS_64: 64>)
        """
        for ring in cls:
            if largest < 2 ** (ring - 1):
                return ring
        raise FederationError(
            f"A sum in the ring must stay below 2^63, and may reach {largest:g}; take a coarser grid or fewer patients."
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of a coordinate."""
        return self.value // 8

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Unsigned and little-endian, on any machine."""
        return np.dtype(f"<u{self.num_bytes}")
