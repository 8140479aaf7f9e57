"""Findings of the reader and of the grouping by patient, as notices with their meaning and the advice."""

from collections.abc import Iterator, Sequence

from wardround.images.patients import ImageSet
from wardround.images.quality.notice import Level, Notice, counted

_Rows = tuple[tuple[int, ...], ...]


def found_notices(image_set: ImageSet) -> Iterator[Notice]:
    """Yields `ImageSet.findings`, with the pictures they are about."""
    found, patients = image_set.findings, image_set.patients
    row_of: dict[str, int] = {}
    copies: dict[str, dict[str, int]] = {}
    owners: dict[str, set[str]] = {}
    for patient in patients:
        for image in patient.images:
            row_of.setdefault(image.file, image.row)
            copies.setdefault(image.digest, {}).setdefault(image.file, image.row)
            owners.setdefault(image.digest, set()).add(patient.id)

    def files(groups: Sequence[Sequence[str]]) -> _Rows:
        return tuple(tuple(row_of[file] for file in group if file in row_of) for group in groups)

    def people(ids: Sequence[str]) -> _Rows:
        return tuple(patient.rows for patient in patients if patient.id in ids)

    if count := len(found.straddling):
        yield Notice(
            "straddling", Level.STOP, count,
            f"{counted(count, 'patient has', 'patients have')} pictures in both published parts",
            "the published test set leaks: a model is tested on people it was trained on, and every figure is "
            "too good.",
            "set test = 'patients', which sets patients aside anew.",
            rows=people(found.straddling),
        )  # fmt: skip
    if count := len(found.shared_pictures):
        is_kept_apart = any(len(of_one) > 1 for of_one in owners.values())
        level, meaning, advice = _KEPT_APART if is_kept_apart else _MERGED
        yield Notice(
            "shared_pictures", level, count,
            f"{counted(count, 'picture stands', 'pictures stand')} under two or more patients",
            meaning, advice, rows=files(found.shared_pictures),
        )  # fmt: skip
    if count := len(found.conflicting_duplicates):
        yield Notice(
            "conflicting_duplicates", Level.LOOK, count,
            f"{counted(count, 'picture stands', 'pictures stand')} under two labels",
            "the same file was given two labels, so at least one of them is wrong.",
            "ask whoever labelled them, and correct or leave them out.",
            rows=files(found.conflicting_duplicates),
        )  # fmt: skip
    if count := len(found.unreadable):
        yield Notice(
            "unreadable", Level.LOOK, count,
            f"{counted(count, 'file')} could not be read and {'was' if count == 1 else 'were'} left out",
            "what is damaged is seldom damaged by chance: a device or a class may be missing.",
            "export them again.",
            names=found.unreadable,
        )  # fmt: skip
    if count := len(found.two_labels):
        yield Notice(
            "two_labels", Level.NOTE, count,
            f"{counted(count, 'patient has', 'patients have')} pictures in two classes",
            "this may be right (two visits, two eyes), or two people share one id. The patient is protected as one "
            "person either way.",
            "look at a few of them.",
            rows=people(found.two_labels),
        )  # fmt: skip
    if count := found.repeated_pictures:
        yield Notice(
            "repeated_pictures", Level.NOTE, count,
            f"{counted(count, 'picture is an exact copy', 'pictures are exact copies')} of another one",
            "copies count double in training, and in testing as well.",
            "nothing, if they are few: the copies of one person stay together.",
            rows=tuple(tuple(rows.values()) for rows in copies.values() if len(rows) > 1),
        )  # fmt: skip
    if count := found.unnamed:
        yield Notice(
            "unnamed", Level.LOOK, count,
            f"{counted(count, 'picture or volume names', 'pictures or volumes name')} no patient",
            "each is counted as a patient of its own; whoever has two of them is protected half as well as promised, "
            "and may be in training and test at once.",
            "say whose they are, by a patients.csv or a folder for each patient (docs/data.md).",
        )  # fmt: skip
    for number, note in enumerate(found.notes):
        meaning, advice = "the reader of this layout says so.", "make sure it is meant."
        yield Notice(f"reader_{number}", Level.NOTE, 1, note, meaning, advice)


_KEPT_APART = (
    Level.STOP,
    "most likely one person was entered twice; counted as two they are protected half as well.",
    "set duplicates = 'merge', or correct the patient ids.",
)
_MERGED = (
    Level.LOOK,
    "most likely one person was entered twice; they were merged and count as one patient.",
    "make sure that they are one person; if not, one of the pictures stands in the wrong place.",
)
