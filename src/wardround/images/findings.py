"""Findings about a data set: names for the hospital's own screen, counts for everyone else."""

from dataclasses import dataclass

from wardround.types import PatientId

_SHOWN = 5
"""Names that one line lists before it only counts."""


@dataclass(frozen=True)
class Findings:
    """Facts that a careful person would want to know before training on a data set.

    Args:
        unreadable: files that could not be decoded and were left out.
        shared_pictures: groups of identical files that stand under two or more patients.
        two_labels: patients whose pictures carry two or more labels.
        straddling: patients with pictures in the published training and test parts.
        conflicting_duplicates: groups of identical files with different labels.
        repeated_pictures: number of pictures that equal another one, those that are dropped among them.
        notes: sentences of the reader, without file names.
        unnamed: pictures or volumes that name no patient; a person may have several.
        like_another: groups of patients whose ids look alike (`identity.alike`), who may be one person.
    """

    unreadable: tuple[str, ...] = ()
    shared_pictures: tuple[tuple[str, ...], ...] = ()
    two_labels: tuple[PatientId, ...] = ()
    straddling: tuple[PatientId, ...] = ()
    conflicting_duplicates: tuple[tuple[str, ...], ...] = ()
    repeated_pictures: int = 0
    notes: tuple[str, ...] = ()
    unnamed: int = 0
    like_another: tuple[tuple[str, ...], ...] = ()

    def summary(self) -> dict[str, int]:
        """Returns counts, without any name."""
        counts = {name: value if isinstance(value, int) else len(value) for name, value in vars(self).items()}
        del counts["notes"]
        return counts


def shortened(names: tuple[str, ...] | list[str], shown: int = _SHOWN) -> str:
    """Returns the first few names, and how many more there are.

    >>> shortened(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
