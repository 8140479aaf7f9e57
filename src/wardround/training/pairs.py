"""Pairs of pictures of one patient and the inner products of their rows, computed once for all rounds."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from wardround.randomness import Indices
from wardround.training.patients import Rows, TrainingPatients

Float64 = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


class Pairs:
    """Pairs of pictures of one patient, of all patients, one after the other.

    Args:
        patients: whose pictures they are.
        products: inner product of two rows of the picture cache each, (pair,), from the two positions, (pair,).
        at_once: pairs that it is asked for at one time, at most.
    """

    def __init__(
        self, patients: TrainingPatients, products: Callable[[Rows, Rows], Float64], at_once: int
    ) -> None:
        self.patients = patients
        sizes = patients.counts
        self._counts = sizes * (sizes - 1) // 2
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        pairs = [
            (one, other)
            for start, stop in pairwise(patients.starts.tolist())
            for one in range(start, stop)
            for other in range(one + 1, stop)
        ]
        self._table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        self._products = np.zeros(len(self._table))
        for begin in range(0, len(self._table), at_once):
            own = slice(begin, begin + at_once)
            self._products[own] = products(*patients.rows[self._table[own].T])

    def among(self, chosen: Indices) -> tuple[Places, Places, Float64]:
        """Returns the two pictures of each pair of some patients, and the products, (pair,), patient by patient.

        A picture is its position among the pictures of these patients, in the order given.
        """
        counts, sizes = self._counts[chosen], self.patients.counts[chosen]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(self._starts[chosen], counts) + offsets
        shift = np.repeat(np.cumsum(sizes) - sizes - self.patients.starts[chosen], counts)
        return self._table[at, 0] + shift, self._table[at, 1] + shift, self._products[at]


class KnownPairs:
    """The pairs of each group of patients that was asked for; arguments as `Pairs` has them."""

    def __init__(self, products: Callable[[Rows, Rows], Float64], at_once: int) -> None:
        self._known: list[Pairs] = []
        self._products, self._at_once = products, at_once

    def of(self, patients: TrainingPatients) -> Pairs:
        """Returns the pairs of a hospital's patients."""
        known = next((pairs for pairs in self._known if pairs.patients is patients), None)
        if known is None:
            known = Pairs(patients, self._products, self._at_once)
            self._known.append(known)
        return known
