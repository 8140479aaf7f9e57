"""Integers modulo 2^b, for b from 16 to 64: where vectors are masked and summed.

Adding in the ring loses nothing as long as the true sum lies in its centred half, [-2^(b-1), 2^(b-1)). A sum that
does not comes out wrong by a multiple of 2^b: that costs the model, and never a patient, for it is
post-processing of the masked vectors.

Arithmetic is in whole words of w = 32 or 64 bits, modulo 2^w, and b <= w. As 2^b divides 2^w, keeping the low b bits
of a word is a homomorphism of rings: low bits of a sum are the sum of low bits, modulo 2^b, whatever stood above
them. So a word stands for its low b bits, these alone are sent (`packing`), and what is above them in a word is
unused: it is never read.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.errors import FederationError

Residues: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""A vector in the ring, little-endian words of which the low b bits count, (coordinate,)."""

_FEWEST_BITS, _MOST_BITS = 16, 64


@dataclass(frozen=True, slots=True)
class Ring:
    """Integers modulo 2^bits.

    Attributes:
        bits: b, of a coordinate, 16 to 64.

    Raises:
        FederationError: no such ring.
    """

    bits: int

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise FederationError(f"Bits of a ring must be a whole number, got {self.bits!r}.")
        if not _FEWEST_BITS <= self.bits <= _MOST_BITS:
            raise FederationError(
                f"A ring must have {_FEWEST_BITS} to {_MOST_BITS} bits, got {self.bits}; take the smallest that holds "
                "the sum."
            )

    @classmethod
    def for_sums_up_to(cls, largest: float) -> "Ring":
        """The smallest ring in which no sum of this size or less, of either sign, wraps around.

        For patients of integer norm D, at most B of them in a round, and n shares of noise of standard deviation
        s: B D + 12 s sqrt(n), of which the noise exceeds its part with probability 2 exp(-72) a coordinate at most.

        Raises:
            FederationError: the bound reaches 2^63.

        >>> Ring.for_sums_up_to(2**30 - 1).bits, Ring.for_sums_up_to(2**30).bits
        (31, 32)
        """
        if not 0 <= largest < 1 << (_MOST_BITS - 1):
            raise FederationError(
                f"A sum in the ring must stay below 2^{_MOST_BITS - 1}, and may reach {largest:g}; take fewer "
                "patients (num_patients), or a coarser grid."
            )
        return cls(max(_FEWEST_BITS, math.floor(largest).bit_length() + 1))

    @property
    def word_bits(self) -> int:
        """Bits of the word that a coordinate is computed in, 32 or 64."""
        return 32 if self.bits <= 32 else 64

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """That word, unsigned and little-endian, on any machine."""
        return np.dtype(f"<u{self.word_bits // 8}")

    def lowest(self, residues: Residues) -> Residues:
        """The low b bits of each word, 0..2^b - 1, (coordinate,)."""
        return residues & self.dtype.type((1 << self.bits) - 1)

    def centred(self, residues: Residues) -> npt.NDArray[np.int64]:
        """The whole number in [-2^(b-1), 2^(b-1)) that each coordinate stands for, (coordinate,)."""
        above = self.dtype.type(self.word_bits - self.bits)
        signed = (residues << above).view(f"<i{self.word_bits // 8}")
        lifted: npt.NDArray[np.int64] = (signed >> signed.dtype.type(above)).astype(np.int64)
        return lifted


WIDEST = Ring(_MOST_BITS)
