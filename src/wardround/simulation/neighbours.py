"""A study's data without one training patient, read anew and dealt out, for an audit of the whole procedure.

Phantoms are generated without the last patient; of a folder a copy is made (by hard links) without the patient's
pictures and without the lines of its tables that name one of them. Where that is not possible, as with archives, the
patient is taken out of the pictures that were read, and the outcome says so.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wardround.config import Study
from wardround.coordinator.observer import Observer, Silent
from wardround.errors import DataError
from wardround.hospital.pictures import read_images
from wardround.images.folder_copy import copy_without
from wardround.images.patients import ImageSet, Patient
from wardround.simulation.dealing import Split, split_patients
from wardround.simulation.materials import Materials, gather
from wardround.training.patients import training_patients
from wardround.types import PatientId

EACH = 12
"""Patients of every place and label in the repetitions over a folder with more of them."""
_REPEATS = 3


@dataclass(frozen=True)
class Neighbours:
    """Two data sets that differ in one patient, dealt out and ready for training.

    Attributes:
        whole: with the patient.
        less: without.
        through: the way by which the patient was left out, in words.
        others: other patients who were compared.
        moved: of these, those whose place or label changed, who vanished, or who appeared.
        changed: of these, those of whose pictures or input a bit changed.
    """

    whole: Materials
    less: Materials
    through: str
    others: int
    moved: frozenset[PatientId]
    changed: frozenset[PatientId]


def neighbours_of(study: Study, observer: Observer, folder: Path) -> Neighbours:
    """Returns a study's materials, and those of the same study without one training patient.

    Of a folder with many patients the materials are those of `EACH` patients of every place and label. The places and
    pictures of all other patients are compared as well.

    Args:
        study: is read.
        observer: is told of progress.
        folder: an empty private folder, for copies of the data without the patient.
    """
    if study.site.layout == "phantom":
        whole = gather(study, observer)
        numbers = {patient.id: number for number, patient in enumerate(whole.images.patients)}
        last = max(numbers[patient.id] for patient in _trained(whole.split))
        whole = gather(_with_phantoms(study, last + 1), Silent())
        less, gone = gather(_with_phantoms(study, last), Silent()), whole.images.patients[last]
        return _compared(whole, less, gone, "phantoms generated without the last patient")
    root = study.site.path
    if root is not None and root.is_dir():
        observer.stage("reading pictures")
        images = read_images(study, observer.progress)
        with suppress(DataError):
            return _read_anew(study, root, images, folder)
    whole = gather(study, observer)
    gone = _most_pictures(whole.split)
    return _compared(
        whole, _taken_out(study, whole, gone), gone, "the patient taken out of the pictures that were read"
    )


def _trained(split: Split) -> list[Patient]:
    trained = [patient for part in split.hospitals.values() for patient in part]
    if not trained:
        raise DataError("A hospital must have a training patient to be left out, got none. Give more patients.")
    return trained


def _most_pictures(split: Split) -> Patient:
    """Returns the patient who moves the most, where anything depends on counts."""
    return max(_trained(split), key=lambda one: len(one.images))


def _read_anew(study: Study, root: Path, images: ImageSet, folder: Path) -> Neighbours:
    """Returns the neighbours of a folder, each read from a copy of it.

    Raises:
        DataError: a copy cannot be made or read, or still has patients that are left out.
    """
    split = _split(study, images)
    gone = _most_pictures(split)
    some = _some(split, gone)
    others = [one for one in images.patients if one.id not in some]
    left_study, left = _without(study, root, images, [gone], folder / "all")
    if not others:
        whole, less = gather(study, Silent()), gather(left_study, Silent())
        return _compared(whole, less, gone, "a folder without the patient, read anew")
    part, partly = _without(study, root, images, others, folder / "whole")
    part_less, _ = _without(study, root, images, [*others, gone], folder / "less")
    whole, less = gather(part, Silent()), gather(part_less, Silent())
    found = _compared(
        whole, less, gone,
        f"a folder without the patient, read anew; {len(some)} of {len(images.patients)} patients train",
    )  # fmt: skip
    moved = found.moved | (_ids(partly) ^ some) | _moved(images, split, left, _split(study, left), gone)
    rows = {one.id: one.rows for one in images.patients}
    changed = found.changed | {
        one.id for one in left.patients if one.id in rows and not _is_same(images, rows[one.id], left, one.rows)
    }
    return replace(found, moved=moved, changed=changed, others=len(images.patients) - 1)


def _is_same(one: ImageSet, old: tuple[int, ...], other: ImageSet, new: tuple[int, ...]) -> bool:
    """Returns whether a patient's pictures are the same to the last bit; they are read one at a time."""
    return len(old) == len(new) and all(
        np.array_equal(one.pixels[a], other.pixels[b]) for a, b in zip(old, new, strict=True)
    )


def _some(split: Split, gone: Patient) -> set[PatientId]:
    """Returns `EACH` patients of every place and first label, and the one who will be gone; all of a small set."""
    groups: dict[tuple[object, ...], list[PatientId]] = {}
    for place, part in _parts(split):
        for one in part:
            groups.setdefault((place, one.labels[:1]), []).append(one.id)
    return {gone.id, *(one for group in groups.values() for one in group[:EACH])}


def _without(
    study: Study, root: Path, images: ImageSet, patients: Sequence[Patient], into: Path
) -> tuple[Study, ImageSet]:
    """Returns the study on a copy of its folder without some of its patients, and what is read of it.

    Repeats of a picture are no pictures of a patient until that picture is gone: what appears then goes as well. The
    copy has every file and line of the others, so that another patient who is not read of it is lost by the reader.

    Raises:
        DataError: the copy cannot be made or read.
    """
    gone, names = list(patients), {one.id for one in patients}
    kept = _files(one for one in images.patients if one.id not in names)
    for attempt in range(_REPEATS):
        path = into / str(attempt)
        copy_without(root, _files(gone), kept, path)
        copied = study.model_copy(update={"site": study.site.model_copy(update={"path": path})})
        found = read_images(copied)
        left = [one for one in found.patients if one.id in names]
        if not left:
            return copied, found
        gone += left
    raise DataError("A copy must not have the patients that are left out of its folder, and has some.")


def _files(patients: Iterable[Patient]) -> set[str]:
    return {image.file for patient in patients for image in patient.images}


def _with_phantoms(study: Study, patients: int) -> Study:
    phantom = study.site.phantom.model_copy(update={"patients": patients})
    return study.model_copy(update={"site": study.site.model_copy(update={"phantom": phantom})})


def _taken_out(study: Study, whole: Materials, patient: Patient) -> Materials:
    images = replace(whole.images, patients=tuple(one for one in whole.images.patients if one.id != patient.id))
    split, bound = _split(study, images), study.privacy.images_per_patient
    names = list(whole.hospitals)  # as the study names them
    hospitals = {
        name: training_patients(part, bound) for name, part in zip(names, split.hospitals.values(), strict=True)
    }
    return replace(
        whole, images=images, split=split, hospitals=hospitals, test=training_patients(split.test, None),
        validation=training_patients(split.validation, None),
    )  # fmt: skip


def _compared(whole: Materials, less: Materials, gone: Patient, through: str) -> Neighbours:
    rows = {one.id: one.rows for one in whole.images.patients}
    moved = _moved(whole.images, whole.split, less.images, less.split, gone)
    both = [one for one in less.images.patients if one.id in rows]
    changed = frozenset(one.id for one in both if not _is_equal(whole, rows[one.id], less, one.rows))
    return Neighbours(whole, less, through, len(rows) - 1, moved, changed)


def _moved(images: ImageSet, split: Split, left: ImageSet, after: Split, gone: Patient) -> frozenset[PatientId]:
    """Returns the patients, other than the one who is gone, whose place or label changed, who vanished or appeared."""
    old, new = _places(split), _places(after)
    one, other = _ids(images), _ids(left)
    return frozenset(id for id in (one | other) - {gone.id} if old.get(id) != new.get(id) or id in one ^ other)


def _ids(images: ImageSet) -> set[PatientId]:
    return {one.id for one in images.patients}


def _split(study: Study, images: ImageSet) -> Split:
    return split_patients(images, study.data, study.hospitals)


def _parts(split: Split) -> list[tuple[str, tuple[Patient, ...]]]:
    return [*split.hospitals.items(), ("test", split.test), ("validation", split.validation)]


def _places(split: Split) -> dict[PatientId, tuple[object, tuple[int, ...]]]:
    """Returns the place and the labels of every patient who has a place."""
    return {one.id: (place, one.labels) for place, part in _parts(split) for one in part}


def _is_equal(whole: Materials, old: tuple[int, ...], less: Materials, new: tuple[int, ...]) -> bool:
    """Returns whether a patient's pictures are the same inputs of the network, to the last bit."""
    if len(old) != len(new):
        return False
    one, other = (
        made.workbench.inputs_of(np.array(rows, dtype=np.int64)) for made, rows in ((whole, old), (less, new))
    )
    return one.shape == other.shape and bool((one == other).all())
