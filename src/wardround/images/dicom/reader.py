"""An export from a hospital's archive: any nesting, any file names; every patient under a pseudonym.

    **/*            DICOM files of any kind; what holds no picture is passed over and counted
    labels.csv      label, and one of patient_id, study_uid, series_uid, sop_uid, file[, site[, split]]

Identities of persons stop here. An entry is called `p-<patient>/s-<series>[/<number>[/<frame>]]` by pseudonyms
under the hospital's own key; its sources are files as the store counts them. Notes count and give reasons; they name
no file and no person. X-rays, mammograms and ultrasound are pictures, every frame one; series of CT, MR and PT are
volumes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from wardround.boundary.text import counted
from wardround.errors import DataError, as_one
from wardround.images.class_names import numbers_first
from wardround.images.decode.quiet import require_pydicom
from wardround.images.dicom.decoder import DicomDecoder
from wardround.images.dicom.headers import MODALITIES, Header
from wardround.images.dicom.labels import LABELS, Label, LabelTable, read_labels
from wardround.images.dicom.pseudonyms import KEY_BYTES, pseudonym
from wardround.images.dicom.series import (
    Survey,
    Unit,
    called,
    patient_of,
    pictures,
    shared_series,
    survey,
    volumes,
)
from wardround.images.entries import Entry, Target, Task
from wardround.images.findings import LeftOut, causes
from wardround.images.identity import several
from wardround.images.listing import NO_LABEL, ByPattern, Listing, ReaderOptions
from wardround.images.naming import TABLE
from wardround.images.store import Store

EXPECTED = f"DICOM files in any folders, and {LABELS} (label, patient_id) or segmentations"
MAX_SEGMENTS = 255

_UNMATCHED_MASKS = "segmentations that belong to no series that is read, or to several"
_WITHOUT_MASK = "volumes without a segmentation"
_UNMATCHED = "rows of the table of labels that match nothing that is read"
_LOOKS_ALIKE = (
    "rows of the table of labels whose patient_id is that of a picture but for leading zeros, case or dashes, as "
    "spreadsheets change them; write ids there as text"
)


def read_dicom(store: Store, task: Task, *, key: bytes, options: ReaderOptions) -> Listing:
    """Returns every picture or volume of an export that has a patient, and a label or a segmentation.

    The task is classification, binary or grading by a table of labels, or segmentation by DICOM SEG; `key` is the
    hospital's own, from `load_or_create_key`.

    Raises:
        DataError: there is nothing to train on, or the table of labels does not hold. Nothing is quoted.
        MissingExtra: pydicom or a decoder is not installed.
    """
    require_pydicom()
    if len(key) != KEY_BYTES:
        raise DataError(
            f"the key for pseudonyms must have {KEY_BYTES} bytes, got {len(key)}. Use load_or_create_key."
        )
    if isinstance(options.names, ByPattern):
        raise DataError(
            "`[site] patients.pattern` must not go with DICOM, whose files have pseudonyms for names. Leave it out, or "
            f"name persons in a {TABLE} (picture, patient) by the files' own names.",
            code="data-pattern",
        )
    target = task.target
    name_for = partial(pseudonym, key)
    table, wrong = (None, []) if target is Target.MASKS else _table(store, options, name_for)
    if wrong and not options.looking:
        raise as_one(wrong)
    seen = survey(
        store,
        name_for,
        reviewed=options.reviewed,
        modalities=_chosen(options.modalities),
        are_named=options.names is not None or TABLE in store,
        looking=options.looking,
    )
    seen, mixed = _of_one_kind(seen)
    refusals = options.refused([*wrong, *mixed])
    found = _units(seen)
    units, gone, notes = found.used, found.gone, found.notes
    gone_out = [LeftOut(_called(unit), cause) for unit, cause in gone]
    if target is Target.MASKS:
        if not seen.slices:
            pictures_only = (
                "segmentations must belong to series of CT, MR or PT, got pictures. Choose another task."
            )
            raise as_one([*refusals, DataError(pictures_only)])
        listing = _segmented(units, seen.segmentations, options.segments, notes)
        listing = replace(listing, left_out=(*listing.left_out, *gone_out))
    elif table is None:
        listing = _unlabelled(units, gone_out, target, notes, are_volumes=bool(seen.slices))
    else:
        if seen.segmentations:
            notes.append(
                f"passed over: {counted(len(seen.segmentations), 'segmentation')}, for the task is {task.value}"
            )
        listing = _labelled(units, gone, table, target, notes, are_volumes=bool(seen.slices))
    left_out = (*listing.left_out, *seen.passed_over)
    listing = replace(
        listing,
        alike=found.alike,
        shared_series=found.shared_series,
        called=lambda patient: called(name_for("patient", patient)),
        left_out=left_out,
        refusals=(*refusals, *listing.refusals),
    )
    if not listing.entries:
        why = causes(left_out) or "; ".join(listing.notes) or "no DICOM file lies there"
        nothing = DataError(
            f"a DICOM export must hold something to train on, got {counted(seen.num_files, 'file')} and "
            f"nothing of use: {why}.",
            code="data-nothing-left",
        )
        if not (options.looking and units):
            raise as_one([*listing.refusals, nothing])
        looked_at = _unlabelled(units, gone_out, target, notes, are_volumes=bool(seen.slices))
        return replace(looked_at, left_out=(*gone_out, *seen.passed_over), refusals=(*listing.refusals, nothing))
    return listing


def _table(
    store: Store, options: ReaderOptions, name_for: Callable[[str, str], str]
) -> tuple[LabelTable | None, list[DataError]]:
    """Returns the table of labels, or the reason why there is none."""
    try:
        table = read_labels(store, options, name_for)
    except DataError as error:
        return None, [error]
    none = DataError(
        f"DICOM without segmentations must come with a table of labels, got none. Add {LABELS} (label, and one of "
        "patient_id, study_uid, series_uid, sop_uid, file)."
    )
    return table, [] if table else [none]


def _of_one_kind(seen: Survey) -> tuple[Survey, list[DataError]]:
    """Returns the files of pictures, or those of slices where there are more, and the refusal of a mixture."""
    if not (seen.slices and seen.pictures):
        return seen, []
    mixed = DataError(
        f"a data set must hold pictures or volumes, got pictures ({_modalities(seen.pictures)}) and slices of "
        f'volumes ({_modalities(seen.slices)}). Choose by `[data] modalities`, such as ["CT"] (`--modality CT` '
        "of `wardround data check`), or lay them into two folders.",
        code="data-modalities",
    )
    are_slices = len(seen.slices) > len(seen.pictures)
    others = seen.pictures if are_slices else seen.slices
    cause = (
        f"files of {'pictures beside slices of volumes' if are_slices else 'slices of volumes beside pictures'}"
    )
    left_out = (*seen.passed_over, *(LeftOut(header.source, cause) for header in others))
    kept = replace(seen, pictures=()) if are_slices else replace(seen, slices=())
    return replace(kept, passed_over=left_out), [mixed]


def _chosen(modalities: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Returns modalities as headers have them."""
    chosen = None if modalities is None else tuple(modality.upper() for modality in modalities)
    if strange := set(chosen or ()) - set(MODALITIES):
        raise DataError(
            f"modalities of a DICOM export must be of {', '.join(MODALITIES)}, got {', '.join(sorted(strange))}. "
            "Choose among them.",
            code="data-modality",
        )
    return chosen


def _modalities(headers: Sequence[Header]) -> str:
    """Returns the modalities with the numbers of their files, as `CR 1, CT 32`."""
    counts = Counter(header.modality or "another" for header in headers)
    return ", ".join(f"{modality} {count}" for modality, count in sorted(counts.items()))


def _called(unit: Unit) -> str:
    """Returns a name by which the hospital finds what was left out: pseudonyms, and the first file as counted."""
    return f"{unit.file}, from {unit.headers[0].source}"


@dataclass(frozen=True)
class _Units:
    """Pictures or volumes, those left out with causes, notes, and groups of names that `Listing` describes."""

    used: list[Unit]
    gone: list[tuple[Unit, str]]
    notes: list[str]
    alike: tuple[tuple[str, ...], ...]
    shared_series: tuple[tuple[str, ...], ...]


def _units(seen: Survey) -> _Units:
    used = seen.slices or seen.pictures
    notes = list(seen.notes)
    if len({header.modality for header in used}) > 1:
        notes.append(
            f"the files are of several modalities: {_modalities(used)}; `[data] modalities` leaves some of them out"
        )
    owners: dict[str, set[str]] = {}
    issuers: dict[str, set[str]] = {}
    for header in used:
        owners.setdefault(header.study, set()).add(patient_of(header))
        issuers.setdefault(patient_of(header), set()).update(filter(None, [header.issuer]))
    if shared := sum(len(people) > 1 for study, people in owners.items() if study):
        notes.append(
            f"{counted(shared, 'study stands', 'studies stand')} under two patients or more, who may be one person"
        )
    if numbers := sum(len(named) > 1 for named in issuers.values()):
        notes.append(
            f"{counted(numbers, 'PatientID is', 'PatientIDs are')} of two issuers or more and may be of two persons, "
            "who are one patient here; a patients.csv tells them apart"
        )
    like_another = several((header.kin, patient_of(header)) for header in used if header.kin is not None)
    gone = [
        (unit, f"images refused: {unit.headers[0].refusal}; look at them, and set reviewed to let them in")
        for unit in pictures(seen.refused)
    ]
    if not seen.slices:
        return _Units(pictures(used), gone, notes, like_another, shared_series(used))
    units, left_out = volumes(used)
    counts = Counter(reason for _, reason in left_out)
    notes += [f"series left out: {reason} ({count:,})" for reason, count in sorted(counts.items())]
    gone += [(unit, f"series left out: {reason}") for unit, reason in left_out]
    return _Units(units, gone, notes, like_another, shared_series(used))


def _labelled(
    units: Sequence[Unit],
    gone: Sequence[tuple[Unit, str]],
    table: LabelTable,
    target: Target,
    notes: list[str],
    *,
    are_volumes: bool,
) -> Listing:
    """Returns the units that have one label; the classes are all of the table, so that none vanishes."""
    what = "volumes" if are_volumes else "pictures"
    matched: set[str] = set()
    labelled, left_out = [], []

    def labels_of(unit: Unit) -> set[Label]:
        keys = unit.named(table.kind) & table.rows.keys()
        matched.update(keys)
        return {replace(table.rows[key], line=0, likeness=None) for key in keys}

    for unit in units:
        found = labels_of(unit)
        if len(found) == 1:
            labelled.append((unit, found.pop()))
        else:
            cause = f"{what} with {'two labels' if found else 'no label'}"
            left_out.append(LeftOut(_called(unit), cause))
    counts = Counter(one.cause for one in left_out)
    notes += [f"left out: {cause} ({count:,})" for cause, count in sorted(counts.items())]
    for unit, cause in gone:
        names = {row.label for row in labels_of(unit)}
        left_out.append(LeftOut(_called(unit), cause, names.pop() if len(names) == 1 else None))
    without = {header.likeness for unit in units if not labels_of(unit) for header in unit.headers} - {None}
    causes_of: dict[str, list[Label]] = {}
    for key, row in table.rows.items():
        if key not in matched:
            causes_of.setdefault(_LOOKS_ALIKE if row.likeness in without else _UNMATCHED, []).append(row)
    for cause, unmatched in sorted(causes_of.items()):
        notes.append(f"{cause} ({len(unmatched):,})")
        left_out += [LeftOut(f"line {row.line}", cause, row.label) for row in unmatched]
    class_names = tuple(sorted({row.label for row in table.rows.values()}, key=numbers_first))
    number = {name: label for label, name in enumerate(class_names)}
    entries = tuple(_entry(unit, number[row.label], row.site, row.split) for unit, row in labelled)
    return Listing(
        entries,
        class_names,
        (*table.notes, *notes),
        left_out=tuple(left_out),
        refusals=table.refusals,
        target=target,
        volumes=are_volumes,
        decoder=DicomDecoder(are_volumes),
    )


def _unlabelled(
    units: Sequence[Unit], left_out: Sequence[LeftOut], target: Target, notes: list[str], *, are_volumes: bool
) -> Listing:
    """Returns all units as one class, for a person who looks at an export whose labels are refused."""
    return Listing(
        tuple(_entry(unit, 0, None, None) for unit in units),
        (NO_LABEL,),
        tuple(notes),
        left_out=tuple(left_out),
        target=Target.CLASSES if target is Target.MASKS else target,
        volumes=are_volumes,
        decoder=DicomDecoder(are_volumes),
    )


def _segmented(
    units: Sequence[Unit], segmentations: Sequence[Header], wanted: tuple[str, ...] | None, notes: list[str]
) -> Listing:
    masks: dict[str, list[Header]] = {}
    unmatched = []
    for found in segmentations:
        of = [unit for unit in units if _belongs(found, unit)]
        if len(of) == 1:
            masks.setdefault(of[0].file, []).append(found)
        else:
            unmatched.append(LeftOut(found.source, _UNMATCHED_MASKS))
    chosen = [unit for unit in units if unit.file in masks]
    overlaid = sum(len(several) > 1 for several in masks.values())
    counts = {
        f"passed over: {_UNMATCHED_MASKS}": len(unmatched),
        f"left out: {_WITHOUT_MASK}": len(units) - len(chosen),
        "volumes with several segmentations, laid over each other": overlaid,
    }
    notes += [f"{what} ({count:,})" for what, count in counts.items() if count]
    labels = {label for several in masks.values() for found in several for label in found.segments if label}
    left_out = (*unmatched, *(LeftOut(_called(unit), _WITHOUT_MASK) for unit in units if unit.file not in masks))
    segments = tuple(sorted(labels)) if wanted is None else wanted
    if len(segments) > MAX_SEGMENTS or len(set(segments)) != len(segments):
        raise DataError(
            f"segments must be at most {MAX_SEGMENTS} different labels, got {len(segments)}. Name them."
        )
    class_names = ("background", *segments)
    return Listing(
        tuple(_entry(unit, 0, None, None, masks[unit.file]) for unit in chosen),
        class_names,
        tuple(notes),
        left_out=left_out,
        target=Target.MASKS,
        volumes=True,
        decoder=DicomDecoder(True, segments),
    )


def _belongs(found: Header, unit: Unit) -> bool:
    first = unit.headers[0]
    frames = {found.frame_of_reference, first.frame_of_reference} - {None}
    if found.patient != first.patient or len(frames) > 1:
        return False
    return first.series in found.of_series if found.of_series else bool(frames)


def _entry(unit: Unit, label: int, site: str | None, split: str | None, masks: Sequence[Header] = ()) -> Entry:
    return Entry(
        unit.file,
        label,
        None if unit.headers[0].patient is None else unit.patient,
        site=site,
        split=split,
        sources=tuple(header.source for header in unit.headers),
        mask=tuple(header.source for header in masks),
        frame=unit.frame,
        num_values=sum(
            header.pixels * (1 if unit.frame is not None else header.frames) for header in unit.headers
        ),
    )
