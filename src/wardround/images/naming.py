"""The persons of a listing: named by the site, by a table in the folder or by the layout, or not at all.

This is the one place where an entry gets its patient's id, for every layout. It decides what the guarantee protects:
where every picture names a patient, the patient; where none does, the picture. A set in which some do is refused: the
guarantee of one picture does not follow from that of a patient who has several.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import assert_never

from wardround.boundary.text import counted
from wardround.errors import DataError, as_one
from wardround.images.csv_file import Row, read_table
from wardround.images.entries import Entry, stem_of
from wardround.images.findings import shortened
from wardround.images.identity import alike, alike_persons, folded, names_nobody
from wardround.images.listing import ByPattern, ByTable, Listing, OnePerPicture, PersonNames
from wardround.images.store import Store
from wardround.images.table import bytes_of_table, refusal
from wardround.types import Persons

TABLE = "patients.csv"
"""The table that is read where it lies at the top of a data folder."""

_COLUMNS = ("picture", "patient")
_OTHER_NAMES = {"image": "picture", "file": "picture", "id_code": "picture", "patient_id": "patient"}
_FIRST_CHANNEL = "_0000"
"""End of the name of a case's first file in nnU-Net."""
_SHORTENED = r"\d(?:[.,]\d+)?[Ee]\+\d+"
_LIKE_IDS = (
    r"^(\D*\d[^\W_]*)[\W_]",
    *(rf"^((?:\D*\d[^\W_]*){{{count}}})[\W_]" for count in (2, 3, 4)),
    r"^\D*(\d[^\W_]*)[\W_]",
)
"""Names that go on after a word with a digit: `person1` of `person1_virus_2`, after the second in
`SOB_B_A-14-22549AB-100-001`; or the number alone, which `CNV-16-2` and `DME-16-1` share."""


def with_persons(
    listing: Listing, names: PersonNames | None, store: Store | None, *, looking: bool = False
) -> Listing:
    """Returns the listing with an id for each entry's person, and with the knowledge of persons that it has.

    Ids are folded (`identity.folded`). An unnamed picture has its file's name as id: it is one record.

    Args:
        listing: of a reader; entries without a patient have None.
        names: the site's own way, which goes before all others.
        store: the data folder; `patients.csv` at its top goes before the layout. None where there is no folder.
        looking: refusals are collected in the listing: rows that do not hold are passed over, and a picture that names
            nobody beside others stands for a patient of its own.

    Raises:
        DataError: some entries name a patient and some do not, the table or the pattern does not hold, or a patient has
            two pictures where the site states one for each.
    """
    try:
        listing = _named(listing, names, store)
    except DataError as error:
        if not looking:
            raise
        listing = replace(listing, refusals=(*listing.refusals, error))
    people = [_id_of(entry) for entry in listing.entries]
    if looking and (wrong := _some_unnamed(listing.entries, people)) and not isinstance(names, OnePerPicture):
        people = [entry.file if who is None else who for entry, who in zip(listing.entries, people, strict=True)]
        listing = replace(listing, refusals=(*listing.refusals, wrong))
    if listing.refusals and not looking:
        raise as_one(listing.refusals)
    persons = _persons(listing.entries, people, names)
    entries = tuple(
        replace(entry, patient=entry.file if patient is None else patient)
        for entry, patient in zip(listing.entries, people, strict=True)
    )
    ids = {entry.patient for entry in entries if entry.patient is not None}
    found = {*alike_persons(ids), *listing.alike} if persons is Persons.NAMED else ()
    like_another = tuple(sorted(group for group in found if ids.issuperset(group)))
    notes = [*listing.notes]
    if short := sum(re.fullmatch(_SHORTENED, who) is not None for who in ids):
        notes.append(
            f"{counted(short, 'patient has an id', 'patients have ids')} such as 1.2E+11: spreadsheets shorten long "
            "numbers so, and several persons may have one. Take the ids from their source"
        )
    if sites := alike({entry.site for entry in entries if entry.site is not None}):
        notes.append(f"sites whose names look alike: {shortened([' = '.join(group) for group in sites])}")
    return replace(listing, entries=entries, persons=persons, alike=like_another, notes=tuple(notes))


@dataclass(frozen=True)
class Proposal:
    """A pattern that file names suggest, the patients that it would give, and the id of one of them."""

    pattern: str
    patients: int
    example: str


def proposed_patterns(files: Iterable[str]) -> tuple[Proposal, ...]:
    r"""Returns the patterns that file names suggest, from few patients to many; none where they suggest none.

    They are proposals for a person to judge: numbers in names may be anything.

    >>> [(one.patients, one.example) for one in proposed_patterns(["x/CNV-16-1.png", "x/CNV-16-2.png", "y/DME-16-1.png",
    ... "y/DME-17-1.png"])]
    [(2, '16'), (3, 'CNV-16')]
    >>> proposed_patterns(["a.png", "b.png", "0ac1.png", "0ad2.png"])
    ()
    """
    stems = sorted({stem_of(file) for file in files})
    found: dict[int, Proposal] = {}
    for pattern in _LIKE_IDS:
        ids = [match[1] for stem in stems if (match := re.match(pattern, stem))]
        patients = len({*ids})
        if len(ids) == len(stems) and 1 < patients < len(stems):
            found.setdefault(patients, Proposal(pattern, patients, ids[0]))
    return tuple(found[patients] for patients in sorted(found))


def _named(listing: Listing, names: PersonNames | None, store: Store | None) -> Listing:
    """Returns the listing with the persons that the site, or a table in the folder, names."""
    match names:
        case None if store is not None and TABLE in store:
            return _by_table(listing, store, TABLE, bytes_of_table(store, TABLE, None))
        case None | OnePerPicture():
            return listing
        case ByTable(path):
            return _by_table(listing, store, path.name, bytes_of_table(store, TABLE, path))
        case ByPattern(pattern):
            return _by_pattern(listing, pattern)
        case _:
            assert_never(names)


def _id_of(entry: Entry) -> str | None:
    return None if entry.patient is None or names_nobody(entry.patient) else folded(entry.patient)


def _persons(entries: Sequence[Entry], people: Sequence[str | None], names: PersonNames | None) -> Persons:
    """Returns the knowledge of persons, or refuses a set that contradicts itself."""
    counts = Counter(patient for patient in people if patient is not None)
    if isinstance(names, OnePerPicture):
        frames = Counter(entry.files for entry, who in zip(entries, people, strict=True) if who is None)
        if several := sum(count > 1 for count in (*counts.values(), *frames.values())):
            raise DataError(
                '`[site] patients` must not be "one-per-picture" where patients or files have several pictures, got '
                f"{several} that have. Remove it.",
                code="data-one-per-picture",
            )
        return Persons.ONE_PER_PICTURE
    if wrong := _some_unnamed(entries, people):
        raise wrong
    return Persons.UNNAMED if None in people else Persons.NAMED


def _some_unnamed(entries: Sequence[Entry], people: Sequence[str | None]) -> DataError | None:
    """Returns the refusal of a set in which some pictures name a patient and others do not."""
    unnamed = [entry.file for entry, patient in zip(entries, people, strict=True) if patient is None]
    if not unnamed or len(unnamed) == len(people):
        return None
    return DataError(
        f"every picture must name its patient, or none, got {len(unnamed)} of {len(entries)} that name nobody: "
        f"{shortened(unnamed)}. Name their patients in a {TABLE} (picture, patient), or take these pictures away.",
        code="data-some-unnamed",
    )


def _by_table(listing: Listing, store: Store | None, name: str, data: bytes) -> Listing:
    """Returns the listing with the patients of a table; entries that it does not list keep their layout's."""
    find, owners = _finder(listing.entries, store), dict[int, Row]()
    problems, unmatched = [], 0
    table = read_table(name, data, _COLUMNS, other_names=_OTHER_NAMES)
    for row in table.rows:
        picture, patient = (row.values[column] for column in _COLUMNS)
        if not picture or names_nobody(patient):
            problems.append(f"line {row.line} has no {_lacking(picture, patient)}")
            continue
        found = find(picture)
        if (count := len({listing.entries[number].files for number in found})) > 1:
            problems.append(
                f"line {row.line}: {picture} is the name of {counted(count, 'picture')}; write the path"
            )
        elif not found:
            unmatched += 1
        for number in found if count == 1 else ():
            first = owners.setdefault(number, row)
            if folded(first.values["patient"]) != folded(patient):
                problems.append(f"line {row.line}: {picture} has another patient in line {first.line}")
    others = {entry.patient for number, entry in enumerate(listing.entries) if number not in owners}
    for row in {row.line: row for row in owners.values()}.values():  # else one person would be two
        who = folded(row.values["patient"])
        if (called := listing.called(who)) != who and called in others:
            problems.append(
                f"line {row.line}: the patient has pictures that are not in the table, and is called {called} there; "
                "write this name, or add those pictures"
            )
    entries = tuple(
        _owned(entry, owners[number]) if number in owners else entry
        for number, entry in enumerate(listing.entries)
    )
    notes = (f"{counted(unmatched, 'row')} of {name} without a picture that is read",) if unmatched else ()
    refusals = (*listing.refusals, *refusal(table, problems))
    return replace(listing, entries=entries, notes=(*listing.notes, *table.notes, *notes), refusals=refusals)


def _lacking(picture: str, patient: str) -> str:
    return "picture" if not picture else f"patient ({patient})" if patient else "patient"


def _owned(entry: Entry, row: Row) -> Entry:
    eye = row.get("eye")
    groups = dict(entry.groups) | ({"eye": eye} if eye else {}) | dict(row.groups)
    return replace(
        entry, patient=row.values["patient"], site=row.get("site") or entry.site, groups=tuple(groups.items())
    )


def _finder(entries: Sequence[Entry], store: Store | None) -> Callable[[str], list[int]]:
    """Returns the way from a name in a table to entries: by path, else by file name, else by name without ending.

    Several entries are frames of one file, or pictures of one name. A file that has a pseudonym has its own name too.
    """
    real = {} if store is None else {store.alias(name): name for name in store.names()}
    by_path: dict[str, list[int]] = defaultdict(list)
    by_name: dict[str, list[int]] = defaultdict(list)
    by_stem: dict[str, list[int]] = defaultdict(list)
    by_case: dict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        for file in dict.fromkeys([entry.file, *(real.get(source, source) for source in entry.sources)]):
            by_path[file].append(number)
            by_name[PurePosixPath(file).name].append(number)
            by_stem[stem_of(file)].append(number)
        if stem_of(entry.file).endswith(_FIRST_CHANNEL):
            by_case[stem_of(entry.file).removesuffix(_FIRST_CHANNEL)].append(number)

    def find(written: str) -> list[int]:
        path = PurePosixPath(written.replace("\\", "/")).as_posix()
        case = by_case.get(path, [])
        return by_path.get(path) or by_name.get(path) or by_stem.get(path) or (case if len(case) == 1 else [])

    return find


def _by_pattern(listing: Listing, pattern: str) -> Listing:
    rule = re.compile(pattern)
    group = next(iter(rule.groupindex), 1)
    people = []
    for entry in listing.entries:
        found = rule.search(entry.file if "/" in pattern else stem_of(entry.file))
        people.append(found[group] if found else None)
    files = zip(listing.entries, people, strict=True)
    unmatched = [entry.file for entry, patient in files if patient is None or names_nobody(patient)]
    if unmatched:
        raise DataError(
            f"`[site] patients.pattern` must find a patient in every file name, got {len(unmatched)} of {len(people)} "
            f"without: {shortened(unmatched)}. Correct the pattern, or give a table.",
            code="data-pattern",
        )
    entries = tuple(
        replace(entry, patient=patient) for entry, patient in zip(listing.entries, people, strict=True)
    )
    return replace(listing, entries=entries)
