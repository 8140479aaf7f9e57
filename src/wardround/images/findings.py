"""Findings about a data set: names for the hospital's own screen, counts for everyone else."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.types import PatientId

_SHOWN = 5
"""Names that one line lists before it only counts."""


@dataclass(frozen=True)
class LeftOut:
    """One file, picture or series that lies in the data folder and is not used.

    Args:
        name: for the hospital's own screen; of DICOM a pseudonym.
        cause: as a heading over what it left out, such as "series left out: a slice missing".
        label: the name of its class, where one is known.
    """

    name: str
    cause: str
    label: str | None = None


def by_cause(left_out: Iterable[LeftOut]) -> dict[str, tuple[str, ...]]:
    """Returns the names of what was left out, by cause, the commonest first."""
    found: dict[str, list[str]] = {}
    for one in left_out:
        found.setdefault(one.cause, []).append(one.name)
    return {
        cause: tuple(names) for cause, names in sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    }


def causes(left_out: Iterable[LeftOut], shown: int = 2) -> str:
    """Returns counts and causes in words, with a few names each; none shown leaves the names out.

    >>> causes([LeftOut("b", "files: damaged"), LeftOut("c", "files: damaged")])
    'files: damaged (2: b, c)'
    """
    found = by_cause(left_out)
    return "; ".join(
        f"{cause} ({len(names):,}{f': {shortened(names, shown)}' if shown else ''})"
        for cause, names in found.items()
    )


def not_used(notes: Iterable[str], left_out: Iterable[LeftOut], shown: int = 0) -> Iterator[str]:
    """Yields a reader's notes, and what was left out by cause with `shown` names of each; nothing twice.

    >>> list(not_used(["read as UTF-16", "files left out: damaged (1)"], [LeftOut("b", "files left out: damaged")]))
    ['read as UTF-16', 'left out: files left out: damaged (1)']
    """
    gone = tuple(left_out)
    headings = {one.cause for one in gone}
    yield from (note for note in notes if not any(heading in note for heading in headings))
    if gone:
        yield f"left out: {causes(gone, shown)}"


def passed_over(count: int, one: str, many: str | None = None, rest: str = "") -> tuple[str, ...]:
    """Returns the note of things that a reader passes over; none where there are none."""
    return (f"passed over: {counted(count, one, many)}{rest}",) if count else ()


def no_pictures(count: int) -> tuple[str, ...]:
    """Returns the note of files that are no pictures; none where there are none."""
    return passed_over(count, "file that is no picture", "files that are no pictures")


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
        cut_off: number of pictures or volumes of which more than two fifths lie outside of the middle that is read.
        notes: sentences of the reader, without file names.
        unnamed: pictures or volumes that name no patient; a person may have several.
        like_another: groups of patients whose ids look alike (`identity.alike`), who may be one person.
        classes_alike: groups of classes whose names look alike.
        two_sites: patients with pictures at two hospitals or more.
        shared_series: SeriesInstanceUIDs with files of two patients or more, each with these patients.
        left_out: what lies in the folder and is not used, with the causes; unreadable files among it.
        empty_classes: classes without a picture, each with the causes in words where they are known.
        refusals: what a study would be refused for, where somebody only looked.
    """

    unreadable: tuple[str, ...] = ()
    shared_pictures: tuple[tuple[str, ...], ...] = ()
    two_labels: tuple[PatientId, ...] = ()
    straddling: tuple[PatientId, ...] = ()
    conflicting_duplicates: tuple[tuple[str, ...], ...] = ()
    repeated_pictures: int = 0
    cut_off: int = 0
    notes: tuple[str, ...] = ()
    unnamed: int = 0
    like_another: tuple[tuple[str, ...], ...] = ()
    classes_alike: tuple[tuple[str, ...], ...] = ()
    two_sites: tuple[PatientId, ...] = ()
    shared_series: tuple[tuple[str, ...], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    empty_classes: tuple[str, ...] = ()
    refusals: tuple[DataError, ...] = ()

    def summary(self) -> dict[str, int]:
        """Returns counts, without any name."""
        counts = {name: value if isinstance(value, int) else len(value) for name, value in vars(self).items()}
        for name in ("notes", "refusals"):
            del counts[name]
        return counts


def shortened(names: tuple[str, ...] | list[str], shown: int = _SHOWN) -> str:
    """Returns the first few names, and how many more there are.

    >>> shortened(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
