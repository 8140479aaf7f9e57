"""Findings of the reader and of the grouping by patient, as notices with their meaning and the advice."""

from collections.abc import Iterator, Sequence

from wardround.boundary.text import counted
from wardround.images.entries import Target
from wardround.images.findings import LeftOut, by_cause, causes
from wardround.images.listing import NO_LABEL
from wardround.images.naming import TABLE, proposed_patterns
from wardround.images.patients import ImageSet
from wardround.images.quality.notice import Level, Notice
from wardround.types import Persons

_EXAMPLES = 5
"""Names that one cause is shown with."""

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
    for number, error in enumerate(found.refusals):
        yield Notice(
            f"refused_{number}", Level.STOP, 1, f"A study is refused with these data: {error}",
            "what follows is of the rest alone.",
            "as the sentence says.",
        )  # fmt: skip
    if count := len(found.empty_classes):
        yield Notice(
            "empty_class", Level.STOP, count,
            f"{counted(count, 'class has', 'classes have')} no picture: {'; '.join(found.empty_classes)}",
            "a model never learns such a class, and a study that does not name its classes is refused.",
            "correct what is said there, or name the classes of the study in `[data] classes`.",
        )  # fmt: skip
    if (
        image_set.target is not Target.MASKS
        and len(image_set.class_names) == 1
        and NO_LABEL not in image_set.class_names
    ):
        yield Notice(
            "one_class", Level.STOP, 1,
            f"All pictures are of one class, {image_set.class_names[0]}",
            "nothing can be learnt from them alone, and a study that does not name its classes is refused.",
            "look whether the folder or the table is the one that is meant; a hospital of one class is read where "
            "`[data] classes` of the study names all of them.",
        )  # fmt: skip
    unreadable = [one for one in found.left_out if one.name in frozenset(found.unreadable)]
    others = [one for one in found.left_out if one.name not in frozenset(found.unreadable)]
    if count := len(found.unreadable):
        yield Notice(
            "unreadable", Level.LOOK, count,
            f"{counted(count, 'file')} could not be read and {'was' if count == 1 else 'were'} left out",
            "what is damaged is seldom damaged by chance: a device or a class may be missing.",
            "export them again.",
            names=examples(unreadable) or found.unreadable,
        )  # fmt: skip
    if count := len(others):
        yield Notice(
            "left_out", Level.LOOK, count,
            f"{counted(count, 'thing')} in the folder {'is' if count == 1 else 'are'} not used",
            "what is left out is seldom left out by chance: a device, a class or a group of patients may be missing.",
            "look at the causes, and export again what should be there.",
            names=examples(others),
        )  # fmt: skip
    if count := len(found.two_sites):
        yield Notice(
            "two_sites", Level.LOOK, count,
            f"{counted(count, 'patient has', 'patients have')} pictures at two sites or more",
            "either one person was at both hospitals, or two hospitals count their patients alike and two persons are "
            "taken for one. A patient belongs to one hospital, so a division by site is refused.",
            "ask the sites; if they are two persons, write the site into the ids.",
            rows=people(found.two_sites), names=tuple(found.two_sites),
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
    if count := found.cut_off:
        yield Notice(
            "cut_off", Level.LOOK, count,
            f"More than two fifths of {counted(count, 'picture or volume', 'pictures or volumes')} lie outside of the "
            f"middle that was read, {' x '.join(map(str, image_set.pixels.shape[2:]))}",
            "what is cut off is never seen by a model, and it may be what the label is about.",
            "set `[data] fit` to pad or stretch; for volumes a larger volume_size, or a wider spacing.",
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
            "such ids (7, 7.0 and 007; p1 and P1; 12_LEFT and 12_RIGHT) are often one person, who is then protected "
            "half as well as promised; they may be two persons, so they are not joined.",
            f"ask the source of the ids; if they are one person, give one id in a {TABLE} (picture, patient).",
            names=tuple(" = ".join(group) for group in found.like_another),
        )  # fmt: skip
    if count := len(found.shared_series):
        yield Notice(
            "shared_series", Level.STOP, count,
            f"{counted(count, 'SeriesInstanceUID stands', 'SeriesInstanceUIDs stand')} under two patients or more",
            "either one person was exported under two ids, and the halves of one volume stand for two patients; or the "
            "export gave two persons one UID. The files are read as a series of each patient.",
            f"look the series up by these pseudonyms; if they are one person, give one id in a {TABLE} (picture, "
            "patient) or export the series again.",
            names=tuple(f"{series}: {' and '.join(people)}" for series, *people in found.shared_series),
        )  # fmt: skip
    if count := len(found.classes_alike):
        yield Notice(
            "classes_alike", Level.STOP, count,
            f"{counted(count, 'group')} of classes have names that look alike",
            "they are most likely one class spelt in two ways, and a model would be trained to tell them apart.",
            "give each class one name in the table or the folders.",
            names=tuple(" = ".join(group) for group in found.classes_alike),
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


def examples(left_out: Sequence[LeftOut]) -> tuple[str, ...]:
    """Returns one line for each cause, with a few names."""
    return tuple(
        causes([one for one in left_out if one.cause == cause], shown=_EXAMPLES) for cause in by_cause(left_out)
    )


def _ways_to_name(files: Sequence[str]) -> str:
    """Returns the ways to name persons, with the patterns that file names suggest."""
    ways = f"name them in a {TABLE} (picture, patient), or by a folder for each patient (docs/data.md)."
    if proposed := proposed_patterns(files):
        each = [f"{{pattern = '{one.pattern}'}} gives {one.patients:,}, such as {one.example}" for one in proposed]
        ways += (
            f" The file names may hold ids of patients: as `[site] patients`, {'; '.join(each)}. Take one only if its "
            "ids are persons."
        )
    return ways
