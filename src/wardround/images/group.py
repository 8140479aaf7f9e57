"""Entries to patients: the first thing that happens, before any picture is looked at by anyone.

The same picture under two patient ids most likely means one person who was entered twice. Counted as two
people, their pictures would get twice the protection budget of one; so by default the two become one patient.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from enum import StrEnum

from wardround.errors import DataError
from wardround.images.entries import Entry
from wardround.images.findings import Findings, shortened
from wardround.images.listing import Listing
from wardround.images.patients import ImageRef, Patient
from wardround.types import PatientId


class Duplicates(StrEnum):
    """Treatments of identical files under two patients."""

    MERGE = "merge"
    KEEP = "keep"
    REFUSE = "refuse"


def group_by_patient(
    listing: Listing,
    digests: list[str],
    unreadable: frozenset[int],
    duplicates: Duplicates,
    rows_of: Callable[[int], Iterable[int]] = lambda number: (number,),
) -> tuple[tuple[Patient, ...], Findings]:
    """Patients sorted by id, and what was noticed while grouping.

    Args:
        listing: what a reader found.
        digests: sha256 of each entry's content.
        unreadable: numbers of the entries to leave out.
        duplicates: what to do about identical files under two patients.
        rows_of: from the number of an entry to its rows in the cache: one a picture, one a slice of a volume.

    Raises:
        DataError: identical files are under two patients and `duplicates` is REFUSE.
    """
    readable = [(number, entry) for number, entry in enumerate(listing.entries) if number not in unreadable]
    same_content: dict[str, list[Entry]] = defaultdict(list)
    for number, entry in readable:
        same_content[digests[number]].append(entry)
    copies = [group for group in same_content.values() if len(group) > 1]
    shared = [group for group in copies if len({entry.patient for entry in group}) > 1]
    if shared and duplicates is Duplicates.REFUSE:
        raise DataError(
            f"a picture must belong to one patient, but {len(shared)} groups of identical pictures stand "
            f"under two or more: {shortened(_files(shared[0]))}. Correct the patient ids, "
            "or set duplicates to 'merge'."
        )
    merging = shared if duplicates is Duplicates.MERGE else []
    name = _merged_ids((entry.patient for _, entry in readable), merging)
    people: dict[str, list[ImageRef]] = defaultdict(list)
    for number, entry in readable:
        people[name[entry.patient]] += (
            ImageRef(entry.file, entry.label, row, entry.split, digests[number], entry.site, entry.groups)
            for row in rows_of(number)
        )
    patients = tuple(_patient(key, people[key]) for key in sorted(people))
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
        unnamed=listing.unnamed,
    )
    return patients, findings


def digest_of(patients: Iterable[Patient]) -> str:
    """Returns sha256 over contents, labels and patients, in an order that file names do not decide."""
    files = {
        (image.file, f"{image.digest} {image.label} {patient.id}")  # once, however many slices it was cut into
        for patient in patients
        for image in patient.images
    }
    return hashlib.sha256("\n".join(sorted(fact for _, fact in files)).encode()).hexdigest()


def _patient(key: str, images: list[ImageRef]) -> Patient:
    ordered = tuple(sorted(images, key=lambda image: (image.file, image.row)))
    sites = {image.site for image in ordered if image.site is not None}
    return Patient(PatientId(key), ordered, sites.pop() if len(sites) == 1 else None)


def _files(group: list[Entry]) -> tuple[str, ...]:
    return tuple(entry.file for entry in group)


def _merged_ids(ids: Iterable[str], groups: list[list[Entry]]) -> dict[str, str]:
    """Returns the id of every patient after merging: itself, or all merged ids joined by `+`."""
    member_of = {key: {key} for key in ids}
    for group in groups:
        together = set[str]().union(*(member_of[entry.patient] for entry in group))
        for key in together:
            member_of[key] = together
    return {key: "+".join(sorted(members)) for key, members in member_of.items()}
