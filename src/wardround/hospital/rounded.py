"""The sum of a sample's gradients on a grid: its patients are shared out to processes of one core each.

Released: nothing; the sum is private until it is noised. Neighbouring relation: add or remove one patient, who adds one
row of integer L2 norm at most D (`wardround.secure_aggregation.integers.grid`). A row follows from its own patient's
pictures and name, the round's weights and its seed of dropout, and whole numbers are added, so that no bit of the sum
depends on how patients were shared out, though that moves when one of them is removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wardround.errors import PrivacyError
from wardround.per_patient.layout import Layout
from wardround.privacy.plans.kinds import Clip
from wardround.privacy.rows import Row, rows_of
from wardround.secure_aggregation.integers.grid import Grid, Int64
from wardround.secure_aggregation.round.witness import WITNESSES
from wardround.training.patients import Sample
from wardround.training.workbench import Workbench
from wardround.types import Vector


@dataclass(frozen=True)
class Rounding:
    """Rows of one masked round: all of it is public.

    Attributes:
        grid: that rows are rounded to, the witnesses included.
        clip: of the plan.
        clipping_norm: of the round, where norms adapt; else None.
        weights: at which gradients are taken, (parameter,).
    """

    grid: Grid
    clip: Clip
    clipping_norm: float | None
    weights: Vector

    def sum_of(self, workbench: Workbench, sample: Sample, dropout_seed: int) -> Int64:
        """Returns the sum of the rows of a sample's patients, (coordinate + witness,); the witnesses are zeros."""
        return self.grid.sum_of(self._rows(workbench, sample, dropout_seed))

    def _rows(self, workbench: Workbench, sample: Sample, dropout_seed: int) -> Iterator[Row]:
        as_row = rows_of(self.clip, Layout.of(workbench.network.trained), self.clipping_norm)
        for row in map(as_row, workbench.patient_gradients(self.weights, sample, dropout_seed)):
            leave_the_witnesses(row.size, self.grid.dimension)
            yield row


def rounded_sum(workbench: Workbench, rounding: Rounding, sample: Sample, dropout_seed: int) -> Int64:
    """Returns `Rounding.sum_of` of a sample, computed side by side where the workbench has processes."""
    parts = _parts(sample, workbench.cores)
    if len(parts) < 2 or workbench.processes is None:
        return rounding.sum_of(workbench, sample, dropout_seed)
    total = np.zeros(rounding.grid.dimension, dtype=np.int64)
    items = [(rounding, part, dropout_seed) for part in parts]
    for _, found in workbench.processes.each(_there, items, workbench):
        total += found
    return total


def leave_the_witnesses(coordinates: int, dimension: int) -> None:
    """Refuses a row with anything of a patient where the witnesses are, or short of a parameter."""
    if coordinates + WITNESSES != dimension:
        raise PrivacyError(
            f"A patient's row must leave {WITNESSES} of {dimension} coordinates to the witnesses, got "
            f"{coordinates}; agree on the mechanism of this network.",
            code="privacy-witnesses",
        )


def _parts(sample: Sample, most: int) -> list[Sample]:
    """Returns a sample in parts of about as many pictures each, with all pictures of a patient in one."""
    pictures = np.cumsum(sample.patients.counts[sample.chosen])
    if not pictures.size:
        return [sample]
    ends = np.searchsorted(pictures, pictures[-1] * np.arange(1, most) / most)
    return [Sample(sample.patients, part) for part in np.split(sample.chosen, ends) if part.size]


def _there(workbench: Workbench, item: tuple[Rounding, Sample, int]) -> Int64:
    """Returns the sum of a part, in another process."""
    workbench.copies = []  # the process has one core
    rounding, sample, dropout_seed = item
    return rounding.sum_of(workbench, sample, dropout_seed)
