"""Gradients of a hospital's patients in batches of a fixed shape: pictures into slots, and each patient's mean."""

from collections.abc import Callable, Iterator, Sequence
from itertools import compress, pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wardround.models.network import Network
from wardround.per_patient import fixed_shape
from wardround.per_patient.batch import Loss
from wardround.per_patient.fixed_shape import EMPTY, Ints, gradients_of_slots, in_slots
from wardround.per_patient.microbatches import patient_ranges
from wardround.per_patient.process import one_thread
from wardround.training.patients import Drawn, Rows
from wardround.types import Pictures, Vector

ROW_BYTES = 64 << 20
"""Gradients of single pictures that are in memory at one time, at most, unless one patient has more pictures."""

_NOTHING = np.zeros(0, dtype=np.float32)


Each = Callable[[Callable[[nn.Module, Ints], None], Sequence[Ints]], object]
"""Calls a function with the network, or a copy of it, and each batch."""


class Slotted:
    """Pictures of a small network by slot (`wardround.per_patient.fixed_shape`); arguments as `Workbench` has them.

    Gradients are taken at the weights of the network, in training mode.
    """

    def __init__(
        self, network: Network, loss: Loss, pixels: Pictures, inputs: Tensor | None, memory_bytes: int
    ) -> None:
        self._network, self._loss, self._memory_bytes = network, loss, memory_bytes
        self._pixels, self._inputs = pixels, inputs
        self.count = 0
        """Slots of a batch, for every round the same; 0 where gradients are computed alone."""
        if len(pixels):
            with one_thread():
                one = self._by_slot(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
                self.count = fixed_shape.slots_for(network.trained, loss, one, torch.zeros(1, dtype=torch.int64))

    def gradients(
        self, drawn: Drawn, counts: npt.NDArray[np.int64], dropout_seed: int, each: Each
    ) -> Iterator[Vector]:
        """Yields the gradient of each patient, (parameter,); some patients at a time, with all their pictures.

        `drawn` are the pictures, the patients one after the other; `counts` are the pictures of each patient,
        (patient,). Of a patient without pictures the gradient is zero. A picture's draws follow from the seed of the
        step and its own key. `each` calls a function with the network and each batch.

        Guarantee: none. Other patients do not change a bit of a gradient.
        """
        ends, size = [0, *np.cumsum(counts).tolist()], self._network.num_parameters
        for first, last in patient_ranges(counts.tolist(), max(self.count, ROW_BYTES // (4 * size))):
            start, of = ends[first], slice(ends[first], ends[last])
            some = Drawn(drawn.rows[of], drawn.labels[of], drawn.patient[of], drawn.keys[of])
            found = self._of_pictures(some, dropout_seed, each)
            for begin, end in pairwise(ends[first : last + 1]):
                yield fixed_shape.mean_of(found[begin - start : end - start], size)

    def _of_pictures(self, drawn: Drawn, dropout_seed: int, each: Each) -> list[Vector]:
        """Returns the gradient of each picture, (parameter,), where its batch left it: a copy took half as long.

        A batch of mostly empty slots is left for a copy: it would stay in memory whole.
        """
        found: list[Vector] = [_NOTHING] * len(drawn.rows)
        classes = torch.from_numpy(drawn.labels)

        def fill(trained: nn.Module, batch: Ints) -> None:
            is_taken = batch != EMPTY
            at = batch[is_taken]
            with one_thread():
                gradients = gradients_of_slots(
                    trained, self._loss, self._by_slot(drawn.rows[at], batch), in_slots(classes[at], batch),
                    [int(drawn.keys[place]) if place != EMPTY else EMPTY for place in batch],
                    memory_bytes=self._memory_bytes, dropout_seed=dropout_seed,
                )  # fmt: skip
            kept = gradients[is_taken] if 2 * len(at) < len(batch) else compress(gradients, is_taken)
            for place, gradient in zip(at.tolist(), kept, strict=True):
                found[place] = gradient

        each(fill, list(fixed_shape.placed(fixed_shape.slots_of(drawn.keys, self.count), self.count)))
        return found

    def _by_slot(self, rows: Rows, batch: npt.NDArray[np.int64]) -> Tensor:
        """Returns inputs by slot; those that are not kept are encoded there, as that is a kernel as well."""
        if self._inputs is not None:
            return in_slots(self._inputs[torch.from_numpy(rows)], batch)
        with torch.no_grad():
            inputs: Tensor = self._network.encode(in_slots(torch.from_numpy(self._pixels[rows]), batch))
        return inputs
