"""Files to pictures and volumes: all looked at once, patients told apart, slices of a series made one volume."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from hashlib import sha256

from wardround.boundary.text import counted
from wardround.errors import DataError
from wardround.images.decode.quiet import QUIET, sealed
from wardround.images.dicom.geometry import UNPLACED, NoStack, Plane, grid_of
from wardround.images.dicom.headers import Header, Kind, read_header
from wardround.images.dicom.labels import LABELS
from wardround.images.dicom.parse import whole
from wardround.images.dicom.pixels import MAX_VOXELS, stored
from wardround.images.findings import LeftOut
from wardround.images.naming import TABLE
from wardround.images.store import Store

_TOO_LARGE = f"more than {MAX_VOXELS:,} voxels"
_USED = (Kind.PICTURE, Kind.SLICE, Kind.SEGMENTATION)
_DAMAGED = "damaged DICOM files"
_NOBODYS = "files without a PatientID, which a patients.csv can name"


@dataclass(frozen=True)
class Survey:
    """The content of an export: files of pictures, of slices (CT, MR, PT) and of masks, and sentences with counts.

    `passed_over` are files that nothing is known of; `refused` show a name perhaps, each with the reason in its header.
    """

    pictures: tuple[Header, ...]
    slices: tuple[Header, ...]
    segmentations: tuple[Header, ...]
    notes: tuple[str, ...]
    num_files: int
    passed_over: tuple[LeftOut, ...]
    refused: tuple[Header, ...]


def survey(
    store: Store,
    name_for: Callable[[str, str], str],
    *,
    reviewed: bool,
    modalities: Collection[str] | None = None,
    are_named: bool = False,
    looking: bool = False,
) -> Survey:
    """Looks at every header.

    `name_for` makes a pseudonym of a kind and a value; `reviewed` says that somebody has looked at pictures that may
    show a name; pictures and slices of other modalities than `modalities` are passed over, as are files without a
    PatientID unless the site names persons by itself (`are_named`). Somebody who is `looking` at the data sees what a
    study refuses until it is reviewed.

    Raises:
        MissingExtra: a compression needs a decoder that is not installed.
    """
    names = [name for name in store.names() if name.lower() not in (LABELS, TABLE)]
    passed_over = []
    headers = []
    with QUIET:
        for name in names:
            cause = None
            try:
                header = read_header(store, name, name_for)
            except DataError:
                cause = _DAMAGED
            else:
                if header.kind not in _USED:
                    cause = header.kind.value
                elif not (modalities is None or header.modality in modalities or header.kind is Kind.SEGMENTATION):
                    cause = f"files of another modality than {' or '.join(modalities)}"
                elif header.patient is None and not are_named:
                    cause = _NOBODYS
            if cause is None:
                headers.append(header)
            else:
                passed_over.append(LeftOut(store.alias(name), cause))
    counts = Counter(one.cause for one in passed_over)
    kept, shared = without_repeats(store, headers)
    repeats = len(headers) - len(kept)
    refused = Counter(header.refusal for header in kept if header.refusal is not None)
    notes = [f"passed over: {what} ({count:,})" for what, count in sorted(counts.items())]
    if repeats:
        notes.append(f"passed over: {counted(repeats, 'file')} with an image that was there before")
    if shared:
        notes.append(
            f"{counted(shared, 'image has', 'images have')} the SOPInstanceUID of another one and other pixels: "
            "the export gave several images one UID. They are kept; ask for an export in which each has its own"
        )
    for reason, count in sorted(refused.items()):
        refused_for = "refused until they are looked at and reviewed is set"
        verdict = (
            "let in as reviewed" if reviewed else f"shown here, and {refused_for}" if looking else refused_for
        )
        notes.append(f"{verdict}: {counted(count, 'image')} ({reason})")
    used = [header for header in kept if reviewed or looking or header.refusal is None]
    silent = sum(header.is_silent for header in used if header.kind is not Kind.SEGMENTATION)
    if silent:
        notes.append(
            f"{counted(silent, 'image does', 'images do')} not say whether text is burned in; look at some of them"
        )
    pictures, slices, segmentations = (tuple(h for h in used if h.kind is kind) for kind in _USED)
    kept_out = () if reviewed else tuple(header for header in kept if header.refusal is not None)
    return Survey(pictures, slices, segmentations, tuple(notes), len(names), tuple(passed_over), kept_out)


def without_repeats(store: Store, headers: Iterable[Header]) -> tuple[list[Header], int]:
    """Returns files without those that repeat one, and the number that only share a UID with one.

    A file repeats one of the same patient, series and SOPInstanceUID whose decoded pixels and places are equal.
    """
    alike: dict[tuple[str | None, str, str], list[Header]] = defaultdict(list)
    for header in headers:
        alike[header.patient, header.series, header.image].append(header)
    kept, shared = [], 0
    for several in alike.values():
        if len(several) > 1:
            different: dict[tuple[object, str], Header] = {}
            for header in several:
                different.setdefault((header.planes, _pixels_sha256(store, header)), header)
            several = [*different.values()]
            shared += len(several) - 1
        kept += several
    return kept, shared


def _pixels_sha256(store: Store, header: Header) -> str:
    """Returns the SHA-256 of a file's decoded pixels.

    Of a file that cannot be decoded it is that of its bytes; a file that cannot be read is equal to no other.
    """
    try:
        content = store.read(header.source)
    except DataError:
        return header.source

    def decoded() -> str:
        pixels = stored(whole(content))
        made = sha256(f"{pixels.shape} {pixels.dtype.kind}".encode())
        for frame in pixels:  # eight bytes a pixel, for one frame at a time
            made.update(frame.astype("<i8").tobytes())
        return made.hexdigest()

    try:
        return sealed(decoded, "damaged")
    except DataError:
        return sha256(content).hexdigest()


@dataclass(frozen=True)
class Unit:
    """One picture or volume; every name is a pseudonym.

    `file` is its name in findings; files of a volume are in the order of their slices; `frame` is that of a file with
    many.
    """

    file: str
    patient: str
    headers: tuple[Header, ...]
    frame: int | None = None

    def named(self, kind: str) -> set[str]:
        """Returns the names that a table of labels may have for it."""
        return {str(getattr(header, kind)) for header in self.headers}


def patient_of(header: Header) -> str:
    """Returns the patient of a file: the PatientID alone, or nobody.

    One PatientID from two issuers may be two persons, and is one patient. Were they told apart where both are there,
    the files of one would decide the name of the other, and with it the other's place and account.
    """
    return "nobody" if header.patient is None else called(header.patient)


def called(patient: str) -> str:
    """Returns the name of the patient of a pseudonym."""
    return f"p-{patient}"


def pictures(headers: Iterable[Header]) -> list[Unit]:
    """Returns every frame of every file as a picture of its own."""
    units = []
    for (who, name), found in _by_series(headers).items():
        ordered = sorted(found, key=lambda header: (header.number, header.image))
        for number, header in enumerate(ordered, start=1):
            file = f"{who}/s-{name}/{number:04d}"
            frames = (None,) if header.frames == 1 else range(header.frames)
            for frame in frames:
                ending = "" if frame is None else f"/{frame + 1:04d}"
                units.append(Unit(file + ending, who, (header,), frame))
    return sorted(units, key=lambda unit: unit.file)


def volumes(headers: Iterable[Header]) -> tuple[list[Unit], list[tuple[Unit, str]]]:
    """Returns every series that makes a volume, and the others, each with the reason.

    Files of two patients under one SeriesInstanceUID are a series of each: no patient's volume depends on another's.
    """
    units, left_out = [], []
    for (who, name), found in _by_series(headers).items():
        file = f"{who}/s-{name}"
        try:
            units.append(Unit(file, who, _in_order(found)))
        except NoStack as error:
            left_out.append((Unit(file, who, tuple(found)), error.reason))
    return sorted(units, key=lambda unit: unit.file), left_out


def _in_order(found: list[Header]) -> tuple[Header, ...]:
    """Returns files by their first slice; raises `NoStack` where they are no volume."""
    owners: list[Header] = []
    planes: list[Plane] = []
    for header in found:
        if header.planes is None:
            raise NoStack(UNPLACED)
        owners += [header] * len(header.planes)
        planes += header.planes
    if sum(plane.size[0] * plane.size[1] for plane in planes) > MAX_VOXELS:
        raise NoStack(_TOO_LARGE)
    grid = grid_of(planes)
    return tuple({owners[index].source: owners[index] for index in grid.order}.values())


def shared_series(headers: Iterable[Header]) -> tuple[tuple[str, ...], ...]:
    """Returns each series that has files of two patients or more, with these patients."""
    owners: dict[str, set[str]] = defaultdict(set)
    for header in headers:
        owners[header.series].add(patient_of(header))
    return tuple((f"s-{name}", *sorted(people)) for name, people in sorted(owners.items()) if len(people) > 1)


def _by_series(headers: Iterable[Header]) -> dict[tuple[str, str], list[Header]]:
    """Returns files by patient and series: a UID that the export gave to several patients joins none of them."""
    found: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        found[patient_of(header), header.series].append(header)
    return found
