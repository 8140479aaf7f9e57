"""What the reader and the grouping by patient noticed, said as notices: what it means and what to do."""

from collections.abc import Iterator, Sequence

from wardround.images.patients import ImageSet
from wardround.images.quality.notice import Level, Notice, counted


def found_notices(image_set: ImageSet) -> Iterator[Notice]:
    """`ImageSet.findings`, with the pictures they are about."""
    found = image_set.findings
    rows_of_file: dict[str, list[int]] = {}
    for patient in image_set.patients:
        for image in patient.images:
            rows_of_file.setdefault(image.file, []).append(image.row)
    if found.straddling:
        yield _straddling(image_set)
    if found.shared_pictures:
        yield _shared(image_set, _rows(found.shared_pictures, rows_of_file))
    if found.conflicting_duplicates:
        count = len(found.conflicting_duplicates)
        yield Notice(
            code="conflicting_duplicates",
            level=Level.LOOK,
            count=count,
            what=f"{counted(count, 'picture stands', 'pictures stand')} under two labels",
            meaning="the same file was given two labels, so at least one of them is wrong.",
            advice="ask whoever labelled them, and correct or leave them out.",
            rows=_rows(found.conflicting_duplicates, rows_of_file),
        )
    if found.unreadable:
        count = len(found.unreadable)
        yield Notice(
            code="unreadable",
            level=Level.LOOK,
            count=count,
            what=f"{counted(count, 'file')} could not be read and {'was' if count == 1 else 'were'} left out",
            meaning="what is damaged is seldom damaged by chance: a device or a class may be missing.",
            advice="export them again.",
            names=found.unreadable,
        )
    if found.two_labels:
        count = len(found.two_labels)
        yield Notice(
            code="two_labels",
            level=Level.NOTE,
            count=count,
            what=f"{counted(count, 'patient has', 'patients have')} pictures in two classes",
            meaning="this may be right (two visits, two eyes), or two people share one id. The patient is "
            "protected as one person either way.",
            advice="look at a few of them.",
            rows=_people(image_set, found.two_labels),
        )
    if found.repeated_pictures:
        yield _repeated(image_set, found.repeated_pictures)
    if found.unnamed:
        yield Notice(
            code="unnamed",
            level=Level.LOOK,
            count=found.unnamed,
            what=f"{counted(found.unnamed, 'picture or volume names', 'pictures or volumes name')} no patient",
            meaning="each is counted as a patient of its own; whoever has two of them is protected half as well as "
            "promised, and may be in training and test at once.",
            advice="say whose they are, by a patients.csv or a folder for each patient (docs/data.md).",
        )
    for number, note in enumerate(found.notes):
        yield Notice(
            f"reader_{number}", Level.NOTE, 1, note, "the reader of this layout says so.", "make sure it is meant."
        )


def _straddling(image_set: ImageSet) -> Notice:
    people = image_set.findings.straddling
    count = len(people)
    return Notice(
        code="straddling",
        level=Level.STOP,
        count=count,
        what=f"{counted(count, 'patient has', 'patients have')} pictures in both published parts",
        meaning="the published test set leaks: a model is tested on people it was trained on, and every figure is "
        "too good.",
        advice="set test = 'patients', which sets patients aside anew.",
        rows=_people(image_set, people),
    )


def _shared(image_set: ImageSet, rows: tuple[tuple[int, ...], ...]) -> Notice:
    patients_of: dict[str, set[str]] = {}
    for patient in image_set.patients:
        for image in patient.images:
            patients_of.setdefault(image.digest, set()).add(patient.id)
    is_kept_apart = any(len(people) > 1 for people in patients_of.values())
    count = len(image_set.findings.shared_pictures)
    return Notice(
        code="shared_pictures",
        level=Level.STOP if is_kept_apart else Level.LOOK,
        count=count,
        what=f"{counted(count, 'picture stands', 'pictures stand')} under two or more patients",
        meaning="most likely one person was entered twice; counted as two they are protected half as well."
        if is_kept_apart
        else "most likely one person was entered twice; they were merged and count as one patient.",
        advice="set duplicates = 'merge', or correct the patient ids."
        if is_kept_apart
        else "make sure that they are one person; if not, one of the pictures stands in the wrong place.",
        rows=rows,
    )


def _repeated(image_set: ImageSet, count: int) -> Notice:
    copies: dict[str, dict[str, int]] = {}
    for patient in image_set.patients:
        for image in patient.images:
            copies.setdefault(image.digest, {}).setdefault(image.file, image.row)
    return Notice(
        code="repeated_pictures",
        level=Level.NOTE,
        count=count,
        what=f"{counted(count, 'picture is an exact copy', 'pictures are exact copies')} of another one",
        meaning="copies count double in training, and in testing as well.",
        advice="nothing, if they are few: the copies of one person stay together.",
        rows=tuple(tuple(rows.values()) for rows in copies.values() if len(rows) > 1),
    )


def _rows(groups: Sequence[Sequence[str]], rows_of_file: dict[str, list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row for file in group for row in rows_of_file.get(file, ())[:1]) for group in groups)


def _people(image_set: ImageSet, ids: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    wanted = set(ids)
    return tuple(patient.rows for patient in image_set.patients if patient.id in wanted)
