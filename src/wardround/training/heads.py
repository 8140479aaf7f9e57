"""Linear heads on kept rows: their gradient sums as matrix products, some hundred pictures at a time."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wardround.models.linear import linear_layer
from wardround.models.network import Network
from wardround.per_patient.batch import Loss
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.per_patient.clipping_rules import Clipping
from wardround.per_patient.microbatches import patient_ranges
from wardround.per_patient.process import one_at_a_time
from wardround.randomness import Indices
from wardround.training.linear_head import HeadBatch, head_sums
from wardround.training.losses import cross_entropy
from wardround.training.pairs import KnownPairs
from wardround.training.patients import Rows, TrainingPatients
from wardround.types import Vector

_AT_ONCE = 512
"""Pictures in a matrix product: their rows stay in the processor's cache between the two products of a round."""

_MOST_SQUARE = 1e60
"""Largest squared norm of a row. The clipping factor of a longer one would have too few digits in float32."""


class HeadSums:
    """Gradient sums of one linear head.

    Args:
        layer: the head.
        rows: of every picture, (picture, feature), float32 and finite.
        squares: squared norm of each row, float64, (picture,); NaN for a picture whose patient adds nothing.
    """

    def __init__(self, layer: nn.Linear, rows: Tensor, squares: Tensor) -> None:
        self._shape, self._has_bias = layer.weight.shape, layer.bias is not None
        self._rows, self._squares = rows, squares
        self._pairs = KnownPairs(self._products, _AT_ONCE)
        self._memory = torch.empty(_AT_ONCE, rows.shape[1])

    @classmethod
    def of(cls, network: Network, inputs: Tensor | None, loss: Loss) -> "HeadSums | None":
        """Returns the sums of a head on kept inputs with a softmax; None where the engine is needed.

        The choice follows from the network and the loss alone: the engine rounds otherwise, so that one patient who
        changed it would change every other patient's gradient. A patient with a row that is not finite, or longer than
        10^30, adds exactly zero.
        """
        layer = linear_layer(network)
        if layer is None or inputs is None or loss is not cross_entropy or inputs.dtype != torch.float32:
            return None
        if layer.weight.dtype != torch.float32 or layer.weight.device.type != "cpu":
            return None
        rows = inputs.flatten(1)
        starts = range(0, len(rows), _AT_ONCE)
        parts = [(rows[start : start + _AT_ONCE].to(torch.float64) ** 2).sum(1) for start in starts]
        squares = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
        is_fit = squares <= _MOST_SQUARE
        if not is_fit.all():
            rows, squares = torch.where(is_fit[:, None], rows, 0.0), torch.where(is_fit, squares, torch.nan)
        return cls(layer, rows, squares)

    @one_at_a_time()
    def sums(
        self,
        weights: Vector,
        samples: Sequence[tuple[TrainingPatients, Indices]],
        clipping_norm: float | None,
        clipping: Clipping,
        class_weights: tuple[float, ...] | None,
    ) -> list[ClippedSum]:
        """Returns the clipped sum of each sample of patients; arguments as `Workbench.gradient_sums` has them.

        A sample's sum does not depend on the other samples, to the last bit.
        """
        return [self._sums(weights[None], sample, clipping_norm, clipping, class_weights)[0] for sample in samples]

    @one_at_a_time()
    def sums_at(
        self,
        weights: npt.NDArray[np.float32],
        sample: tuple[TrainingPatients, Indices],
        clipping_norm: float,
        clipping: Clipping,
    ) -> list[ClippedSum]:
        """Returns the clipped sum of a sample at each of several weights, (head, parameter); rows are read once."""
        return self._sums(weights, sample, clipping_norm, clipping, None)

    def _sums(
        self,
        weights: npt.NDArray[np.float32],
        sample: tuple[TrainingPatients, Indices],
        clipping_norm: float | None,
        clipping: Clipping,
        class_weights: tuple[float, ...] | None,
    ) -> list[ClippedSum]:
        table = torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32))
        classes, features = self._shape
        weight = table[:, : classes * features].reshape(-1, classes, features)
        bias = table[:, classes * features :] if self._has_bias else None
        losses = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        sensitivity = float("inf") if clipping_norm is None else clipping_norm
        found: list[ClippedSum] = []
        for batch in self._batches(*sample):
            parts = head_sums(
                weight, bias, batch, clipping_norm=clipping_norm, clipping=clipping, class_weights=losses
            )
            # One product stays in single precision, as in the engine: noise is drawn in the sum's precision.
            found = [
                ClippedSum(one.vector.to(torch.float64) + part.vector, sensitivity, one.within + part.within)
                for one, part in zip(found, parts, strict=True)
            ] if found else parts  # fmt: skip
        return found or [ClippedSum(torch.zeros(table.shape[1]), sensitivity, 0) for _ in table]

    def _batches(self, patients: TrainingPatients, chosen: Indices) -> Iterator[HeadBatch]:
        """Yields whole patients with their rows."""
        pairs, counts = self._pairs.of(patients), patients.counts[chosen]
        drawn, ends = patients.pictures_of(chosen), [0, *accumulate(counts.tolist())]
        for first, last in patient_ranges(counts.tolist(), _AT_ONCE):
            start, stop = ends[first], ends[last]
            places = torch.from_numpy(drawn.rows[start:stop])
            one, other, products = map(torch.from_numpy, pairs.among(chosen[first:last]))
            if (
                len(places) <= _AT_ONCE
            ):  # the next batch writes over it; new memory would take longer than a product
                rows = torch.index_select(self._rows, 0, places, out=self._memory[: len(places)])
            else:
                rows = self._rows[places]
            yield HeadBatch(
                rows=rows,
                labels=torch.from_numpy(drawn.labels[start:stop]),
                patient=drawn.patient[start:stop] - first,
                num_patients=last - first,
                squares=self._squares[places],
                first=one,
                second=other,
                products=products,
            )

    def _products(self, first: Rows, second: Rows) -> npt.NDArray[np.float64]:
        one, other = (self._rows[torch.from_numpy(rows)].to(torch.float64) for rows in (first, second))
        return np.asarray((one * other).sum(1).numpy())
