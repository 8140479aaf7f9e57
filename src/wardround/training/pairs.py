"""Patients in batches of whole patients, with the inner products of each patient's own pairs of pictures.

Products are computed once for all rounds. Where every patient takes part, so are the batches.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from wardround.per_patient.microbatches import patient_ranges
from wardround.randomness import Indices
from wardround.training.patients import Rows, TrainingPatients

Float64 = npt.NDArray[np.float64]

MOST_KEPT = 1 << 28
"""Bytes of rows in batches that are kept, at most."""

Batch = TypeVar("Batch")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Part:
    """Some patients, each with all pictures, one after the other.

    `rows` in the picture cache, `labels` and `patient` (0, 1, ...) are (picture,); `counts`, of pictures, (patient,).
    `first` and `second` are the two pictures of each pair of pictures of one patient, and `products` the inner products
    of their rows, (pair,).
    """

    rows: Rows
    labels: npt.NDArray[np.int64]
    patient: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    products: Float64


class _Group(Generic[Batch]):
    """One group of patients; arguments as `Batches` has them."""

    def __init__(
        self, patients: TrainingPatients, products: Callable[[Rows, Rows], Float64], at_once: int
    ) -> None:
        self.patients, self._at_once = patients, at_once
        self.everyone: list[Batch] | None = None
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

    def parts(self, chosen: Indices) -> Iterator[Part]:
        """Yields whole patients."""
        drawn, counts = self.patients.pictures_of(chosen), self.patients.counts[chosen]
        ends = [0, *accumulate(counts.tolist())]
        for first, last in patient_ranges(counts.tolist(), self._at_once):
            own = slice(ends[first], ends[last])
            yield Part(
                drawn.rows[own], drawn.labels[own], drawn.patient[own].numpy() - first, counts[first:last],
                *self._among(chosen[first:last]),
            )  # fmt: skip

    def _among(self, chosen: Indices) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float64]:
        """Returns the two pictures of each pair, by position among those of these patients, and the products."""
        counts, sizes = self._counts[chosen], self.patients.counts[chosen]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(self._starts[chosen], counts) + offsets
        shift = np.repeat(np.cumsum(sizes) - sizes - self.patients.starts[chosen], counts)
        return self._table[at, 0] + shift, self._table[at, 1] + shift, self._products[at]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Returns the process's pool of so many threads.

    A thread sets up its kernels when it is asked for their number; a first product before that could be split.
    """
    return ThreadPoolExecutor(threads, initializer=torch.get_num_threads)


class Batches(Generic[Batch]):
    """Batches of each group of patients that was asked for.

    Args:
        products: inner product of two rows of the picture cache each, (pair,), from the two positions, (pair,).
        at_once: pictures in a batch, at most, unless one patient has more; and pairs that `products` is asked for.
        batch_of: makes a batch, whose memory the next one in the same thread may write over.
        own: copies such memory.
        row_bytes: of a picture in a batch.
        threads: that take batches side by side.
    """

    def __init__(
        self,
        products: Callable[[Rows, Rows], Float64],
        at_once: int,
        batch_of: Callable[[Part], Batch],
        own: Callable[[Batch], Batch],
        row_bytes: int,
        threads: int = 1,
    ) -> None:
        self._known: dict[int, _Group[Batch]] = {}
        self._pool = _pool(threads) if threads > 1 else None
        self._products, self._at_once, self._batch_of, self._own = products, at_once, batch_of, own
        self._row_bytes, self._room = row_bytes, MOST_KEPT

    def each(
        self, work: Callable[[Batch], Result], patients: TrainingPatients, chosen: Indices
    ) -> Iterator[Result]:
        """Yields a result of each batch of some of a hospital's patients, each chosen once, in this order.

        No bit depends on the number of threads. There are several only while torch gives a kernel one: two kernels that
        were split would wait for each other.
        """
        group = self._known.get(id(patients))
        if group is None:
            group = self._known[id(patients)] = _Group(patients, self._products, self._at_once)
        is_everyone = np.array_equal(chosen, np.arange(len(patients)))
        size = len(patients.rows) * self._row_bytes
        if is_everyone and group.everyone is None and size <= self._room:
            self._room -= size
            group.everyone = [self._own(self._batch_of(part)) for part in group.parts(chosen)]
        each = map if self._pool is None or torch.get_num_threads() > 1 else self._pool.map
        if is_everyone and group.everyone is not None:
            return each(work, group.everyone)
        return each(lambda part: work(self._batch_of(part)), group.parts(chosen))
