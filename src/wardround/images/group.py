"""Entries to patients: the first thing that happens, before any picture is looked at by anyone.

Two patients are never joined because their pictures are alike. Were they joined, a patient who shares a picture with
ten others would join those ten as well, and removing this one patient would move the sum by many clipping norms instead
of one. The same picture under two patients is a finding. A table joins persons who were entered twice
(`naming.with_persons`).

Copies inside one patient are dropped, by that patient's pictures alone.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable

from wardround.images.entries import Entry, Target
from wardround.images.findings import Findings
from wardround.images.identity import alike
from wardround.images.listing import Listing
from wardround.images.patients import ImageRef, Patient
from wardround.types import PatientId, Persons


def group_by_patient(
    listing: Listing,
    digests: list[str],
    unreadable: frozenset[int],
    rows_of: Callable[[int], Iterable[int]] = lambda number: (number,),
) -> tuple[tuple[Patient, ...], Findings]:
    """Patients sorted by id, and what was noticed while grouping.

    Of copies inside a patient with one label, in the published test part or outside of it, the first by name is kept.

    Args:
        listing: entries with the ids of their patients (`naming.with_persons`).
        digests: sha256 of each entry's content.
        unreadable: numbers of the entries to leave out.
        rows_of: from the number of an entry to its rows in the cache: one a picture, one a slice of a volume.
    """
    readable = [(number, entry) for number, entry in enumerate(listing.entries) if number not in unreadable]
    same_content: dict[str, list[Entry]] = defaultdict(list)
    first: dict[tuple[str, str, int, bool], str] = {}
    people: dict[str, list[int]] = defaultdict(list)
    for number, entry in sorted(readable, key=lambda pair: (pair[1].file, pair[0])):
        assert entry.patient is not None, "named before"
        same_content[digests[number]].append(entry)
        same = (entry.patient, digests[number], entry.label, entry.split == "test")
        if first.setdefault(same, entry.file) == entry.file:
            people[entry.patient].append(number)
    copies = [group for group in same_content.values() if len(group) > 1]
    shared = [group for group in copies if len({entry.patient for entry in group}) > 1]

    def images(number: int) -> Iterable[ImageRef]:
        entry = listing.entries[number]
        for row in rows_of(number):
            yield ImageRef(entry.file, entry.label, row, entry.split, digests[number], entry.site, entry.groups)

    sites: dict[str | None, set[str]] = defaultdict(set)
    for entry in listing.entries:  # unreadable ones and copies too: what is foreseen of a listing is what is dealt
        if entry.site is not None:
            sites[entry.patient].add(entry.site)
    patients = tuple(
        _patient(key, [image for number in people[key] for image in images(number)], sites[key])
        for key in sorted(people)
    )
    findings = Findings(
        unreadable=tuple(listing.entries[number].file for number in sorted(unreadable)),
        shared_pictures=tuple(map(_files, shared)),
        two_labels=tuple(patient.id for patient in patients if len(set(patient.labels)) > 1),
        straddling=tuple(
            patient.id
            for patient in patients
            if len({image.split == "test" for image in patient.images if image.split is not None}) == 2
        ),
        conflicting_duplicates=tuple(_files(group) for group in copies if len({one.label for one in group}) > 1),
        repeated_pictures=sum(len(group) - 1 for group in copies),
        notes=listing.notes,
        unnamed=len(listing.entries) if listing.persons is Persons.UNNAMED else 0,
        like_another=listing.alike,
        classes_alike=() if listing.target is Target.MASKS else alike(listing.class_names),
        shared_series=listing.shared_series,
        two_sites=tuple(patient.id for patient in patients if len(patient.sites) > 1),
    )
    return patients, findings


def digest_of(patients: Iterable[Patient]) -> str:
    """Returns sha256 over contents, labels and patients, in an order that file names do not decide."""
    files = {
        (image.file, f"{image.digest} {image.label} {patient.id}")  # once, however many slices it was cut into
        for patient in patients
        for image in patient.images
    }
    facts = "\n".join(sorted(fact for _, fact in files))
    return hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()  # a file's name may be no UTF-8


def _patient(key: str, images: list[ImageRef], sites: set[str]) -> Patient:
    ordered = tuple(sorted(images, key=lambda image: (image.file, image.row)))
    return Patient(PatientId(key), ordered, tuple(sorted(sites)))


def _files(group: list[Entry]) -> tuple[str, ...]:
    return tuple(entry.file for entry in group)
