"""Findings of the reader and of the grouping by patient, as notices with their meaning and the advice."""

from collections.abc import Iterator, Sequence

from wardround.images.entries import Target
from wardround.images.identity import alike
from wardround.images.naming import TABLE, proposed_pattern
from wardround.images.patients import ImageSet
from wardround.images.quality.notice import Level, Notice, counted
from wardround.types import Persons

_Rows = tuple[tuple[int, ...], ...]


def found_notices(image_set: ImageSet) -> Iterator[Notice]:
    """Yields `ImageSet.findings`, with the pictures they are about."""
    found, patients = image_set.findings, image_set.patients
    row_of: dict[str, int] = {}
    copies: dict[str, dict[str, int]] = {}
    for patient in patients:
        for image in patient.images:
            row_of.setdefault(image.file, image.row)
            copies.setdefault(image.digest, {}).setdefault(image.file, image.row)

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
        where = "in two or more files" if image_set.persons is Persons.UNNAMED else "under two or more patients"
        yield Notice(
            "shared_pictures", Level.STOP, count,
            f"{counted(count, 'picture stands', 'pictures stand')} {where}",
            "most likely one person was entered twice, is protected half as well as promised, and may be in training "
            "and test at once; no patients are joined because their pictures are alike.",
            f"if they are one person, give both pictures the same patient in a {TABLE} (picture, patient); if not, one "
            "of the pictures is in the wrong place.",
            rows=files(found.shared_pictures),
        )  # fmt: skip
    if count := len(found.conflicting_duplicates):
        yield Notice(
            "conflicting_duplicates", Level.LOOK, count,
            f"{counted(count, 'picture stands', 'pictures stand')} under two labels",
            "the same file was given two labels, so at least one of them is wrong.",
            "ask the person who labelled them, and correct or leave them out.",
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
            "of the copies inside one patient one is used; copies under two patients are used twice.",
            "nothing, if they are few.",
            rows=tuple(tuple(rows.values()) for rows in copies.values() if len(rows) > 1),
        )  # fmt: skip
    if count := found.unnamed:
        yield Notice(
            "unnamed", Level.LOOK, count,
            f"{counted(count, 'picture or volume names', 'pictures or volumes name')} no patient",
            "the guarantee is for one picture, and not for a person: a person with two is protected half as well, and "
            "may be in training and test at once.",
            _ways_to_name(list(row_of)),
        )  # fmt: skip
    if count := len(found.like_another):
        yield Notice(
            "like_another", Level.LOOK, count,
            f"{counted(count, 'group')} of patients have ids that look alike",
            "such ids (7, 7.0 and 007; p1 and P1) are often one person, who is then protected half as well as "
            "promised; they may be two persons, so they are not joined.",
            f"ask the source of the ids; if they are one person, give one id in a {TABLE} (picture, patient).",
            names=tuple(" = ".join(group) for group in found.like_another),
        )  # fmt: skip
    if image_set.target is not Target.MASKS and (classes := alike(image_set.class_names)):
        yield Notice(
            "classes_alike", Level.STOP, len(classes),
            f"{counted(len(classes), 'group')} of classes have names that look alike",
            "they are most likely one class spelt in two ways, and a model would be trained to tell them apart.",
            "give each class one name in the table or the folders.",
            names=tuple(" = ".join(group) for group in classes),
        )  # fmt: skip
    if image_set.target is not Target.MASKS and "-1" in image_set.class_names:
        yield Notice(
            "class_minus_one", Level.LOOK, 1,
            "One class is called -1",
            "it often stands for a label that is not known.",
            'if it does, leave its rows out: set `[site] leave_out` to ["-1"].',
        )  # fmt: skip
    if len(image_set.class_names) > 2 and (
        many := [p.id for p in patients if len({*p.labels}) == len(image_set.class_names)]
    ):
        yield Notice(
            "every_class", Level.LOOK, len(many),
            f"{counted(len(many), 'patient has', 'patients have')} pictures in every class",
            "such a name is rarely a person: it may be a folder, a part or a word for 'unknown'.",
            f"look at the names; name the patients in a {TABLE} (picture, patient) if they are none.",
            rows=people(many), names=tuple(many),
        )  # fmt: skip
    for number, note in enumerate(found.notes):
        meaning, advice = "the reader of this layout says so.", "make sure it is meant."
        yield Notice(f"reader_{number}", Level.NOTE, 1, note, meaning, advice)


def _ways_to_name(files: Sequence[str]) -> str:
    """Returns the ways to name persons, with the pattern that file names suggest."""
    ways = f"name them in a {TABLE} (picture, patient), or by a folder for each patient (docs/data.md)."
    if proposed := proposed_pattern(files):
        pattern, patients = proposed
        ways += (
            f" The file names look like ids: `[site] patients = {{pattern = '{pattern}'}}` would give {patients:,} "
            "patients; make sure that the numbers are persons."
        )
    return ways
