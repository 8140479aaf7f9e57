"""An export from a hospital's archive: any nesting, any file names; every patient under a pseudonym.

    **/*            DICOM files of any kind; what holds no picture is passed over and counted
    labels.csv      label, and one of patient_id, study_uid, series_uid, sop_uid[, site[, split]]

Identities of persons stop here. An entry is called `p-<patient>/s-<series>[/<number>[/<frame>]]` by pseudonyms
under the hospital's own key; its sources are files as the store counts them. Notes count and give reasons; they name
no file and no person. X-rays, mammograms and ultrasound are pictures, every frame one; series of CT, MR and PT are
volumes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from wardround.errors import DataError
from wardround.images.dicom.decoder import DicomDecoder
from wardround.images.dicom.headers import Header
from wardround.images.dicom.labels import LABELS, LabelTable, read_labels
from wardround.images.dicom.pseudonyms import KEY_BYTES, pseudonym
from wardround.images.dicom.quiet import require_pydicom
from wardround.images.dicom.series import Survey, Unit, patients_of, pictures, survey, volumes
from wardround.images.entries import Entry, Region, Target, Task
from wardround.images.identity import several
from wardround.images.listing import Listing, ReaderOptions
from wardround.images.store import Store
from wardround.images.table import numbers_first

EXPECTED = f"DICOM files in any folders, and {LABELS} (label, patient_id) or segmentations"
MAX_SEGMENTS = 255


_TARGETS = {
    Task.CLASSIFICATION: Target.CLASSES,
    Task.BINARY: Target.CLASSES,
    Task.GRADING: Target.GRADES,
    Task.SEGMENTATION: Target.MASKS,
}


def read_dicom(store: Store, task: Task, *, key: bytes, options: ReaderOptions) -> Listing:
    """Returns every picture or volume of an export that has a patient, and a label or a segmentation.

    The task is classification, binary or grading by a table of labels, or segmentation by DICOM SEG; `key` is the
    hospital's own, from `load_or_create_key`.

    Raises:
        DataError: there is nothing to train on, or the table of labels does not hold. Nothing is quoted.
        MissingExtra: pydicom or a decoder is not installed.
    """
    require_pydicom()
    if task not in _TARGETS:
        raise DataError(
            f"the task for DICOM must be one of {', '.join(_TARGETS)}, got {task.value!r}. Choose one."
        )
    if len(key) != KEY_BYTES:
        raise DataError(
            f"the key for pseudonyms must have {KEY_BYTES} bytes, got {len(key)}. Use load_or_create_key."
        )
    target = _TARGETS[task]
    name_for = partial(pseudonym, key)
    table = None if target is Target.MASKS else read_labels(store, options.labels, name_for, options.leave_out)
    if table is None and target is not Target.MASKS:
        raise DataError(f"DICOM without segmentations must come with a table of labels, got none. Add {LABELS}.")
    seen = survey(store, name_for, reviewed=options.reviewed)
    if options.modalities is not None:
        seen = seen.of(options.modalities)
    if seen.slices and seen.pictures:
        raise DataError(
            f"a data set must hold pictures or volumes, got {len(seen.pictures)} files of pictures and "
            f"{len(seen.slices)} of slices ({seen.modalities}). Choose: modalities in [data] of the study, such as "
            '["CT"], or data check --modality CT.',
            code="data-modalities",
        )
    units, notes, like_another = _units(seen, name_for)
    if table is None:
        if not seen.slices:
            raise DataError(
                "segmentations must belong to series of CT, MR or PT, got pictures. Choose another task."
            )
        listing = _segmented(units, seen.segmentations, options.segments, notes)
    else:
        if seen.segmentations:
            notes.append(f"{len(seen.segmentations)} segmentations were passed over: the task is {task.value}")
        listing = _labelled(units, table, target, notes, are_volumes=bool(seen.slices))
    if not listing.entries:
        why = "; ".join(listing.notes) or "no DICOM file lies there"
        raise DataError(
            f"a DICOM export must hold something to train on, got {seen.num_files} files and nothing of use: {why}."
        )
    listing = replace(listing, alike=like_another)
    few = (task is Task.BINARY and len(listing.class_names) != 2) or len(listing.class_names) < 2
    if few and options.classes is None:
        raise DataError(
            f"the task {task.value} must have {'two' if task is Task.BINARY else 'two or more'} classes, got "
            f"{len(listing.class_names)}. Complete the table of labels, or choose another task."
        )
    return listing


def _units(
    seen: Survey, name_for: Callable[[str, str], str]
) -> tuple[list[Unit], list[str], tuple[tuple[str, ...], ...]]:
    """Returns pictures or volumes, notes, and groups of patients whose ids look alike."""
    used = seen.slices or seen.pictures
    patient = patients_of((*used, *seen.segmentations), name_for)
    notes = list(seen.notes)
    if len({header.modality for header in used}) > 1:
        notes.append(f"the files are of several modalities: {seen.modalities}")
    owners: dict[str, set[str]] = {}
    for header in used:
        owners.setdefault(header.study, set()).add(patient(header))
    if shared := sum(len(people) > 1 for study, people in owners.items() if study):
        notes.append(f"{shared} studies stand under two patients or more, who may be one person")
    like_another = several((header.likeness, patient(header)) for header in used if header.likeness is not None)
    if not seen.slices:
        return pictures(used, patient), notes, like_another
    units, left_out = volumes(used, patient)
    notes += [f"{count} series were left out: {reason}" for reason, count in sorted(left_out.items())]
    return units, notes, like_another


def _labelled(
    units: Sequence[Unit], table: LabelTable, target: Target, notes: list[str], *, are_volumes: bool
) -> Listing:
    kind, rows = table
    matched: set[str] = set()
    labelled = []
    counts: Counter[str] = Counter()
    for unit in units:
        keys = unit.named(kind) & rows.keys()
        matched |= keys
        found = {rows[key] for key in keys}
        if len(found) == 1:
            labelled.append((unit, found.pop()))
        else:
            counts["two labels" if found else "no label"] += 1
    what = "volumes" if are_volumes else "pictures"
    notes += [f"{count} {what} have {why} and were left out" for why, count in sorted(counts.items())]
    if unmatched := len(rows) - len(matched):
        notes.append(f"{unmatched} rows of the table of labels match nothing that is read")
    class_names = tuple(sorted({row.label for _, row in labelled}, key=numbers_first))
    number = {name: label for label, name in enumerate(class_names)}
    entries = tuple(_entry(unit, number[row.label], row.site, row.split) for unit, row in labelled)
    return Listing(
        entries,
        class_names,
        tuple(notes),
        target=target,
        volumes=are_volumes,
        channels=1 if are_volumes else None,
        decoder=DicomDecoder(are_volumes),
    )


def _segmented(
    units: Sequence[Unit], segmentations: Sequence[Header], wanted: tuple[str, ...] | None, notes: list[str]
) -> Listing:
    masks: dict[str, list[Header]] = {}
    unmatched = 0
    for found in segmentations:
        of = [unit for unit in units if _belongs(found, unit)]
        if len(of) == 1:
            masks.setdefault(of[0].file, []).append(found)
        else:
            unmatched += 1
    chosen = [unit for unit in units if unit.file in masks]
    overlaid = sum(len(several) > 1 for several in masks.values())
    counts = {
        "segmentations belong to no series that is read, or to several, and were passed over": unmatched,
        "volumes have no segmentation and were left out": len(units) - len(chosen),
        "volumes have several segmentations, laid over each other": overlaid,
    }
    notes += [f"{count} {what}" for what, count in counts.items() if count]
    labels = {label for several in masks.values() for found in several for label in found.segments if label}
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
        target=Target.MASKS,
        volumes=True,
        channels=1,
        regions=tuple(Region(name, (index,)) for index, name in enumerate(class_names) if index),
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
        unit.patient,
        site=site,
        split=split,
        sources=tuple(header.source for header in unit.headers),
        mask=tuple(header.source for header in masks),
        frame=unit.frame,
    )
