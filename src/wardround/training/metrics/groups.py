"""Metrics of each site and each subgroup that is large enough to be shown apart.

A number about few patients tells about each of them, and a group that is left out can be worked out from the whole
and the groups beside it. So the values with too few patients are scored together, and if they are still too few,
the smallest of the others joins them: no number, and no difference between numbers of one column, is about fewer
patients than the minimum.

That is a courtesy and no guarantee: the numbers are still computed from the test patients, and nothing protects
them. Two columns together (sex and site) can single out a patient whom neither singles out alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.training.metrics.bootstrap import Indices

MIN_PATIENTS = 10
"""The fewest patients that a shown group has, unless another public number is given."""


M = TypeVar("M")
"""Metrics, a dataclass."""


@dataclass(frozen=True)
class Groups(Generic[M]):
    """One column of subgroups.

    Attributes:
        shown: metrics of each value that has enough patients.
        together: metrics of all other values as one; None when there are none, or too few patients even so.
        num_together: number of those values. They are not named: a rare value can be a name by itself.
        min_patients: the fewest patients a shown group may have.
    """

    shown: dict[str, M]
    together: M | None
    num_together: int
    min_patients: int

    @property
    def reason(self) -> str | None:
        """Sentence about values that are not shown apart; None when all are."""
        if not self.num_together:
            return None
        return (
            f"{self.num_together} {'value is' if self.num_together == 1 else 'values are'} not shown apart: "
            f"numbers about fewer than {self.min_patients} patients would reveal people"
        )

    def to_json(self) -> dict[str, object]:
        """Returns the fields as values that `json.dumps` takes."""
        return asdict(self) | {"reason": self.reason}


def each_group(
    patients: npt.NDArray[np.int64],
    groups: Mapping[str, Sequence[str]],
    metrics_of: Callable[[Indices], M],
    *,
    min_patients: int = MIN_PATIENTS,
) -> dict[str, Groups[M]]:
    """Returns what `metrics_of` says of the rows of each value of each column.

    Patients are of each row, (row,), and so are the values of each column. `min_patients` is public.

    Raises:
        DataError: a column without one value a row, or a minimum below one.
    """
    if min_patients < 1:
        raise DataError(f"a shown group must have at least 1 patient, got a minimum of {min_patients}. Raise it.")
    for column, values in groups.items():
        if len(values) != len(patients):
            raise DataError(
                f"column {column!r} must have one value a picture, got {len(values)} for {len(patients)}. "
                'Write "unknown" where there is none.'
            )
    return {
        column: _column(patients, np.asarray(values, dtype=np.str_), metrics_of, min_patients)
        for column, values in groups.items()
    }


def _column(
    patients: Indices, values: npt.NDArray[np.str_], metrics_of: Callable[[Indices], M], least: int
) -> Groups[M]:
    rows = {str(value): np.flatnonzero(values == value) for value in np.unique(values)}
    folded = _too_few(patients, rows, least)
    shown = {value: metrics_of(at) for value, at in rows.items() if value not in folded}
    together = np.sort(np.concatenate([np.zeros(0, np.int64), *(rows[value] for value in folded)]))
    enough = _count(patients, together) >= least
    return Groups(shown, metrics_of(together) if enough else None, len(folded), least)


def _too_few(patients: Indices, rows: Mapping[str, Indices], least: int) -> set[str]:
    """Returns the values that cannot be shown apart."""
    counts = {value: _count(patients, at) for value, at in rows.items()}
    by_size = sorted(counts, key=lambda value: (counts[value], value))
    folded = [value for value in by_size if counts[value] < least]
    for value in by_size[len(folded) :]:
        if not folded or _count(patients, np.concatenate([rows[v] for v in folded])) >= least:
            break
        folded.append(value)
    return set(folded)


def _count(patients: Indices, rows: Indices) -> int:
    return len(np.unique(patients[rows]))
