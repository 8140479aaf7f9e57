"""The Brain Imaging Data Structure (Gorgolewski et al. 2016): folders of participants and a table of them.

    participants.tsv                                participant_id, and label, diagnosis, dx or group[, site][, sex]
    sub-<id>/[ses-<id>/]anat/sub-<id>_..._T1w.nii.gz

The participant is the patient. The kind of an image is the end of its name (T1w, T2w, FLAIR); where there are several,
the study chooses by `modalities`. Of folders beside the participants', `derivatives` is read for segmentation
(`bids_masks`), and the others are passed over. Rows of participants without an image that is read are not checked.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.images.class_names import numbers_first
from wardround.images.csv_file import Row, Table
from wardround.images.decode.nifti import ENDINGS, NIFTI
from wardround.images.entries import Entry, Target, Task
from wardround.images.findings import LeftOut, passed_over, shortened
from wardround.images.identity import folded, names_nobody
from wardround.images.layouts.bids_masks import masks_of
from wardround.images.layouts.readers import Reader
from wardround.images.listing import NO_OPTIONS, Listing, ReaderOptions
from wardround.images.store import Store
from wardround.images.table import LABEL_COLUMNS, checked, refusal, table_of

PARTICIPANTS = "participants.tsv"
ID = "participant_id"

EXPECTED = f"{PARTICIPANTS} ({ID} and one of {', '.join(LABEL_COLUMNS)}) and sub-<id>/anat/sub-<id>_T1w.nii.gz"

_IMAGE = re.compile(r"(sub-[A-Za-z0-9]+)/(?:ses-[A-Za-z0-9]+/)?anat/\1_(?:[A-Za-z0-9-]+_)*([A-Za-z0-9]+)")


def read_bids(store: Store, task: Task, options: ReaderOptions = NO_OPTIONS) -> Listing:
    """Returns every anatomical image with its participant and label, the first of `LABEL_COLUMNS` that is there.

    Raises:
        DataError: no table; several kinds of images and no choice of one (code `data-bids`); everything that is wrong
            with the rows of participants who have images, and images without a row.
    """
    if task is Task.SEGMENTATION:
        return _segmented(store, options)
    table, column = _participants(store, options)
    images = _images(store)
    chosen, dropped, mixed = _of_kinds(images, options)
    read, pictured = set(chosen.values()), {person for person, _ in images.values()}
    looked_at = [row for row in table.rows if row.values[ID] in read or names_nobody(row.values[ID])]
    found = checked(replace(table, rows=tuple(looked_at)), (ID, column), options)
    problems = _contradictions(row for row in looked_at if row.values[ID] in read)
    rows = {row.values[ID]: row for row in reversed(found.rows)}
    listed = {row.values[ID] for row in table.rows}
    strays = [name for name, person in chosen.items() if person not in listed]
    missing = _refused(f"a row in {table.name} for every image", f"{len(strays)} without: {shortened(strays)}")
    refusals = options.refused(
        [*mixed, *refusal(table, [*found.problems, *problems], found.words), *([missing] if strays else [])]
    )
    labels = {name: folded(rows[person].values[column]) for name, person in chosen.items() if person in rows}
    class_names = tuple(sorted(set(labels.values()), key=numbers_first))
    notes = [*found.notes, *_strays(store, images), *passed_over(len(dropped), "image", rest=" of other kinds")]
    if unseen := len(listed - pictured):
        notes.append(f"{counted(unseen, 'participant has', 'participants have')} no image in anat")
    rowless = [name for name, person in chosen.items() if person not in rows]
    dropped += [LeftOut(name, "images whose participant's row does not hold or is left out") for name in rowless]
    return Listing(
        tuple(_entry(name, class_names.index(label), rows[chosen[name]]) for name, label in labels.items()),
        class_names,
        tuple(notes),
        left_out=tuple(dropped),
        refusals=refusals,
        target=task.target,
        volumes=True,
        decoder=NIFTI,
    )


def _segmented(store: Store, options: ReaderOptions) -> Listing:
    """Returns every anatomical image that has a mask; a table of participants, if there is one, adds site and sex."""
    images = _images(store)
    chosen, dropped, mixed = _of_kinds(images, options)
    rows: dict[str, Row] = {}
    if PARTICIPANTS in store or options.labels is not None:
        table = _table(store, options)
        rows = {row.values[ID]: row for row in reversed(table.rows)}
    masks = masks_of(store, chosen)
    refusals = options.refused([*mixed, *masks.refusals])
    return Listing(
        tuple(_masked(name, chosen[name], mask, rows) for name, mask in sorted(masks.of_image.items())),
        masks.class_names,
        _strays(store, images),
        left_out=(*dropped, *masks.left_out),
        refusals=refusals,
        target=Target.MASKS,
        volumes=True,
        decoder=NIFTI,
    )


def _masked(name: str, person: str, mask: str, rows: Mapping[str, Row]) -> Entry:
    entry = _entry(name, 0, rows[person]) if person in rows else Entry(name, 0, person)
    return replace(entry, mask=(mask,))


def _participants(store: Store, options: ReaderOptions) -> tuple[Table, str]:
    """Returns the table with ids as folders have them, and the column of the label."""
    if PARTICIPANTS not in store and options.labels is None:
        raise DataError(
            f"the layout bids must look like {EXPECTED}, but there is no {PARTICIPANTS}.", code="data-bids"
        )
    table = _table(store, options)
    column = next((column for column in LABEL_COLUMNS if column in table.columns), None)
    if column is None:
        raise _refused(f"a column of {', '.join(LABEL_COLUMNS)} in {table.name}", ", ".join(table.columns))
    return table, column


def _table(store: Store, options: ReaderOptions) -> Table:
    """Returns the table of participants, with ids as folders have them."""
    table = table_of(store, PARTICIPANTS, options, (ID,))
    return replace(table, rows=tuple(replace(row, values=row.values | {ID: _id(row)}) for row in table.rows))


def _id(row: Row) -> str:
    who = folded(row.values[ID]).removeprefix("sub-")
    return who if names_nobody(who) else f"sub-{who}"


def _images(store: Store) -> dict[str, tuple[str, str]]:
    """Returns the participant and the kind of every anatomical image."""
    images = {}
    for name in store.names():
        ending = next((ending for ending in reversed(ENDINGS) if name.endswith(ending)), None)
        if ending is not None and (match := _IMAGE.fullmatch(name.removesuffix(ending))):
            images[name] = match[1], match[2]
    return images


def _strays(store: Store, images: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """Returns the note of volumes of participants that are not among the anatomical images."""
    count = sum(n.startswith("sub-") and n.endswith(ENDINGS) and n not in images for n in store.names())
    return passed_over(count, "volume", rest=" outside of anat, or not named as their folder's participant")


def _of_kinds(
    images: Mapping[str, tuple[str, str]], options: ReaderOptions
) -> tuple[dict[str, str], list[LeftOut], list[DataError]]:
    """Returns the participants of the images that the study chooses, the others, and the refusal of a missing choice.

    Where nothing is chosen, the images are those of the commonest kind.
    """
    counts = Counter(kind for _, kind in images.values())
    found = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    mixed = _refused(
        'one kind of images, or a choice by `[data] modalities`, such as ["T1w"] (`--modality T1w` of `wardround '
        "data check`)",
        found,
    )
    commonest = tuple(kind for kind, _ in counts.most_common(1))
    wanted = commonest if options.modalities is None else options.modalities
    chosen = {name: person for name, (person, kind) in images.items() if kind in wanted}
    if images and not chosen:
        raise _refused(f"images of the kinds that `[data] modalities` names, {', '.join(wanted)}", found)
    cause = f"images of another kind than {' or '.join(wanted)}"
    is_mixed = options.modalities is None and len(counts) > 1
    return chosen, [LeftOut(name, cause) for name in images if name not in chosen], [mixed] if is_mixed else []


def _contradictions(rows: Iterable[Row]) -> list[str]:
    """Returns a problem for each row that says something else than an earlier one of the same participant."""
    first: dict[str, Row] = {}
    return [
        f"line {row.line} contradicts line {earlier.line}, which has the same {ID}"
        for row in rows
        if (earlier := first.setdefault(row.values[ID], row)).values != row.values
    ]


def _entry(name: str, label: int, row: Row) -> Entry:
    sex = row.get("sex")
    return Entry(name, label, row.values[ID], site=row.get("site"), groups=(("sex", sex),) if sex else ())


def _refused(must: str, came: str) -> DataError:
    return DataError(f"the layout bids must have {must}, got {came}. It is {EXPECTED}.", code="data-bids")


READER = Reader(read_bids, EXPECTED, (Task.CLASSIFICATION, Task.BINARY, Task.GRADING, Task.SEGMENTATION))
