"""The Brain Imaging Data Structure (Gorgolewski et al. 2016): folders of participants and a table of them.

    participants.tsv                                participant_id, and label, diagnosis, dx or group[, site][, sex]
    sub-<id>/[ses-<id>/]anat/sub-<id>_..._T1w.nii.gz

The participant is the patient. The kind of an image is the end of its name (T1w, T2w, FLAIR); where there are several,
the study chooses by `modalities`. Folders beside the participants', such as `derivatives`, are passed over.
"""

import re
from collections import Counter

from wardround.errors import DataError
from wardround.images.decode.nifti import ENDINGS, NIFTI
from wardround.images.entries import Entry, Target, Task
from wardround.images.findings import shortened
from wardround.images.identity import folded, is_missing, names_nobody
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.store import Store
from wardround.images.table import numbers_first

PARTICIPANTS = "participants.tsv"
ID = "participant_id"
LABELS = ("label", "diagnosis", "dx", "group")
"""Columns that may hold the label, the first that is there; BIDS has no name for it."""

EXPECTED = f"{PARTICIPANTS} ({ID} and one of {', '.join(LABELS)}) and sub-<id>/anat/sub-<id>_T1w.nii.gz"

_IMAGE = re.compile(r"(sub-[A-Za-z0-9]+)/(?:ses-[A-Za-z0-9]+/)?anat/\1_(?:[A-Za-z0-9-]+_)*([A-Za-z0-9]+)")
_Participant = dict[str, str]


def read_bids(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every anatomical image with its participant and label.

    Raises:
        DataError: no table, one that does not hold, or several kinds of images and no choice of one (code `data-bids`).
    """
    people = _participants(store)
    column = next((name for name in LABELS if name in next(iter(people.values()))), None)
    if column is None:
        raise _refused(f"a column of {', '.join(LABELS)}", "none")
    kinds: dict[str, tuple[str, str]] = {}
    for name in store.names():
        ending = next((e for e in reversed(ENDINGS) if name.endswith(e)), None)
        if ending is not None and (match := _IMAGE.fullmatch(name.removesuffix(ending))):
            kinds[name] = match[1], match[2]
    counts = Counter(kind for _, kind in kinds.values())
    if options.modalities is None and len(counts) > 1:
        found = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        raise _refused('one kind of images, or modalities in [data] of the study, such as ["T1w"]', found)
    wanted = counts.keys() if options.modalities is None else set(options.modalities)
    notes, chosen, dropped = [], dict[str, str](), Counter[str]()
    left_out = {"" if is_missing(value) else folded(value).lower() for value in options.leave_out}
    missing = []
    for name, (person, kind) in kinds.items():
        label = folded(people.get(person, {}).get(column, ""))
        if kind not in wanted:
            dropped["images of other kinds"] += 1
        elif ("" if is_missing(label) else label.lower()) in left_out:
            dropped["images with a label of [site] leave_out"] += 1
        elif is_missing(label):
            missing.append(name)
        else:
            chosen[name] = label
    if missing:
        raise _refused(
            f"a {column} in {PARTICIPANTS} for every image, or [site] leave_out of missing ones",
            f"{len(missing)} without: {shortened(missing)}",
        )
    notes += [f"{count} {what} were passed over" for what, count in sorted(dropped.items())]
    if unseen := len(people.keys() - {person for person, _ in kinds.values()}):
        notes.append(f"{unseen} participants have no image in anat")
    class_names = tuple(sorted(set(chosen.values()), key=numbers_first))
    if len(class_names) < 2 and options.classes is None:
        raise _refused(f"two values of {column} or more", ", ".join(class_names) or "none")
    entries = []
    for name, label in chosen.items():
        values = people[kinds[name][0]]
        sex, site = values.get("sex", ""), values.get("site", "")
        entries.append(
            Entry(
                name,
                class_names.index(label),
                kinds[name][0],
                site=None if is_missing(site) else site,
                groups=() if is_missing(sex) else (("sex", sex),),
            )
        )
    return Listing(
        tuple(entries),
        class_names,
        tuple(notes),
        target=Target.GRADES if task is Task.GRADING else Target.CLASSES,
        volumes=True,
        channels=1,
        decoder=NIFTI,
    )


def _participants(store: Store) -> dict[str, _Participant]:
    """Returns the rows of the table by participant; a tab separates, and nothing is quoted (BIDS, tabular files)."""
    if PARTICIPANTS not in store:
        raise DataError(
            f"the layout bids must look like {EXPECTED}, but there is no {PARTICIPANTS}.", code="data-bids"
        )
    try:
        lines = store.read(PARTICIPANTS).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise _refused(f"{PARTICIPANTS} in UTF-8", "another encoding") from None
    header = [column.strip().lower() for column in (lines[0] if lines else "").split("\t")]
    if ID not in header or len(set(header)) != len(header):
        raise _refused(f"a first line of {PARTICIPANTS} with {ID} and each column once", shortened(header))
    people: dict[str, _Participant] = {}
    problems = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split("\t")]
        if not any(cells):
            continue
        values = dict(zip(header, cells, strict=False))
        who = f"sub-{values.get(ID, '').removeprefix('sub-')}"
        if len(cells) != len(header):
            problems.append(f"line {number} has {len(cells)} cells of {len(header)}")
        elif names_nobody(who.removeprefix("sub-")):
            problems.append(f"line {number} has no {ID}")
        elif people.setdefault(who, values) != values:
            problems.append(f"line {number} contradicts an earlier one")
    if problems or not people:
        raise _refused(f"a participant in every line of {PARTICIPANTS}", shortened(problems) or "none")
    return people


def _refused(must: str, came: str) -> DataError:
    return DataError(f"the layout bids must have {must}, got {came}. It is {EXPECTED}.", code="data-bids")


READER = Reader(read_bids, EXPECTED, (Task.CLASSIFICATION, Task.BINARY, Task.GRADING))
