"""The part of a header that is kept: pseudonyms, geometry and counts. The header itself is forgotten once read."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from wardround.errors import DataError, MissingExtra
from wardround.images.decode.quiet import sealed
from wardround.images.dicom.decoder import SEGMENTATIONS, labels_of
from wardround.images.dicom.geometry import Plane, planes_of
from wardround.images.dicom.parse import header_of
from wardround.images.dicom.pixels import check_size
from wardround.images.dicom.values import items, num_frames, text, texts, whole_number
from wardround.images.identity import folded, likeness, likeness_of_person, names_nobody
from wardround.images.store import Store

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class Kind(Enum):
    """The content of a file."""

    NO_DICOM = "files that are not DICOM"
    NO_PICTURE = "DICOM files without pictures (directories, reports, plans, doses)"
    UNKNOWN_COMPRESSION = "pictures compressed in a way that is not read, such as video"
    LOCALIZER = "localizers, which only show where slices lie"
    PICTURE = "pictures"
    SLICE = "slices"
    SEGMENTATION = "segmentations"


@dataclass(frozen=True)
class Header:
    """One file; every name is a pseudonym.

    Args:
        source: the file as the store counts it.
        kind: of its content; where that is nothing to train on, the rest is empty.
        patient: by PatientID alone; None where there is none, or one that names no person.
        likeness: shared by patients whose ids look alike (`identity.likeness`).
        kin: shared by patients who may be one person (`identity.likeness_of_person`).
        modality: one of `MODALITIES`; else empty, for a header may have any text there.
        issuer: of the PatientID, where the header says so.
        number: its place in the series as the scanner counted, to order pictures only.
        pixels: of one frame.
        planes: places of its frames, for slices and segmentations; None where it does not say.
        frame_of_reference: origin of its positions.
        refusal: reason to look at it first.
        is_silent: does not say whether text is burned in.
        of_series: the series that a segmentation belongs to.
        segments: labels of a segmentation, which are public.
    """

    source: str
    kind: Kind
    patient: str | None = None
    likeness: str | None = None
    kin: str | None = None
    modality: str = ""
    issuer: str | None = None
    study: str = ""
    series: str = ""
    image: str = ""
    number: int = 0
    frames: int = 1
    pixels: int = 0
    planes: tuple[Plane, ...] | None = None
    frame_of_reference: str | None = None
    refusal: str | None = None
    is_silent: bool = False
    of_series: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()


def read_header(store: Store, name: str, name_for: Callable[[str, str], str]) -> Header:
    """Returns the part of one file that is kept.

    `name_for` makes a pseudonym of a kind and a value.

    Raises:
        DataError: damaged, or beyond a limit.
        MissingExtra: its compression needs a decoder that is not installed.
    """
    source = store.alias(name)
    return sealed(
        lambda: _header(store, name, source, name_for),
        f"a DICOM file must have a header that can be read; {source} is damaged. Export it again.",
    )


def _header(store: Store, name: str, source: str, name_for: Callable[[str, str], str]) -> Header:
    read = header_of(store, name, _KEYWORDS)
    if read is None:
        return Header(source, Kind.NO_DICOM)
    found, has_pixels = read
    sop_class = text(found, "SOPClassUID") or text(found.file_meta, "MediaStorageSOPClassUID")
    kind = _kind(found, sop_class, has_pixels)
    if kind not in (Kind.PICTURE, Kind.SLICE, Kind.SEGMENTATION):
        return Header(source, kind)

    def named(what: str, keyword: str) -> str | None:
        value = text(found, keyword)
        return name_for(what, value) if value else None

    planes = None
    if kind is not Kind.PICTURE:
        with contextlib.suppress(DataError):
            planes = planes_of(found)
    frames = num_frames(found)
    rows, columns = whole_number(found, "Rows", 0), whole_number(found, "Columns", 0)
    check_size(rows, columns, 1 if kind is Kind.PICTURE else frames)
    _check_frames(found, frames, rows * columns, store.size(name))
    patient = text(found, "PatientID")
    is_named = not names_nobody(patient)
    image = named("image", "SOPInstanceUID") or name_for("file", name)  # its place among others would follow them
    return Header(
        source,
        kind,
        patient=name_for("patient", patient) if is_named else None,
        likeness=name_for("likeness", likeness(folded(patient))) if is_named else None,
        kin=name_for("kin", likeness_of_person(folded(patient))) if is_named else None,
        modality=modality if (modality := text(found, "Modality").upper()) in MODALITIES else "",
        issuer=named("issuer", "IssuerOfPatientID"),
        study=named("study", "StudyInstanceUID") or "",
        # A file of no series is one of its own.
        series=named("series", "SeriesInstanceUID") or name_for("series of file", image),
        image=image,
        number=whole_number(found, "InstanceNumber", 0),
        frames=frames,
        pixels=rows * columns * whole_number(found, "SamplesPerPixel", 1),
        planes=planes,
        frame_of_reference=named("frame", "FrameOfReferenceUID"),
        refusal=None if kind is Kind.SEGMENTATION else refusal(found, sop_class),
        is_silent=not text(found, "BurnedInAnnotation"),
        of_series=tuple(
            name_for("series", text(item, "SeriesInstanceUID"))
            for item in items(found, "ReferencedSeriesSequence")
        ),
        segments=labels_of(found) if kind is Kind.SEGMENTATION else (),
    )


def _check_frames(found: "Dataset", frames: int, pixels: int, num_bytes: int) -> None:
    """Refuses more frames than a file has room for, before any of them becomes a picture that is decoded."""
    syntax = found.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        least = _LEAST_OF_FRAGMENT * frames
    elif syntax.is_deflated:
        least = 0
    else:
        least = frames * pixels * whole_number(found, "BitsAllocated", 8) // 8
    if least > num_bytes:
        raise DataError(
            "a file must hold the frames that its header promises, this one does not. Restore the file."
        )


def _kind(found: "Dataset", sop_class: str, has_pixels: bool) -> Kind:
    modality = text(found, "Modality").upper()
    if not has_pixels or not whole_number(found, "Rows", 0) or modality in _NO_PICTURES:
        return Kind.NO_PICTURE
    if not _is_readable(found):
        return Kind.UNKNOWN_COMPRESSION
    if sop_class in SEGMENTATIONS:
        return Kind.SEGMENTATION
    if modality == "SEG":
        return Kind.NO_PICTURE
    if "LOCALIZER" in [value.upper() for value in texts(found, "ImageType")]:
        return Kind.LOCALIZER
    return Kind.SLICE if modality in _VOLUMES else Kind.PICTURE


def _is_readable(found: "Dataset") -> bool:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(found.file_meta.TransferSyntaxUID)
    except NotImplementedError:
        return False
    if not decoder.is_available:
        raise MissingExtra(
            "The pictures are compressed and need decoders that are not installed. Install them with: "
            "pip install 'wardround[dicom]'."
        )
    return True


def refusal(found: "Dataset", sop_class: str) -> str | None:
    """Returns the reason to look at a picture before it is used, which may show a name in its pixels; or None."""
    if text(found, "BurnedInAnnotation").upper() == "YES":
        return BURNED_IN
    if _is_of(sop_class, _CAPTURES) or text(found, "ConversionType"):
        return CAPTURED
    image_type = [value.upper() for value in texts(found, "ImageType")]
    if image_type[:2] == ["DERIVED", "SECONDARY"] or any("SCREEN" in value for value in image_type):
        return DERIVED
    is_ultrasound = text(found, "Modality").upper() in _ULTRASOUND_MODALITIES or _is_of(sop_class, _ULTRASOUND)
    if is_ultrasound and not items(found, "SequenceOfUltrasoundRegions"):
        return WITHOUT_REGIONS
    return None


def _is_of(sop_class: str, families: tuple[str, ...]) -> bool:
    return any(sop_class == family or sop_class.startswith(f"{family}.") for family in families)


BURNED_IN = "their header says that text is burned in"
CAPTURED = "secondary captures of a screen, a film or a document"
DERIVED = "derived secondary images, as saved screens are"
WITHOUT_REGIONS = "ultrasound without a mask of its regions"

_CAPTURES = ("1.2.840.10008.5.1.4.1.1.7",)
_ULTRASOUND = ("1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.6")
_ULTRASOUND_MODALITIES = ("US", "IVUS")

_LEAST_OF_FRAGMENT = 8
"""Bytes of an empty fragment: a frame that is compressed has at least one."""

_VOLUMES = ("CT", "MR", "PT")
MODALITIES = (
    "AR", "BI", "BMD", "CR", "CT", "DG", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM", "OAM", "OCT",
    "OP", "OPM", "OPT", "OT", "PT", "PX", "RF", "RG", "RTIMAGE", "SM", "TG", "US", "XA", "XC",
)  # fmt: skip
"""Defined terms of DICOM PS3.3 C.7.3.1.1.1 that stand for pictures; no other text of a header is quoted."""

_NO_PICTURES = (
    "SR", "PR", "KO", "REG", "DOC", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "ECG", "AU", "HD", "RWV",
)  # fmt: skip
_KEYWORDS = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "ConversionType", "PatientID", "IssuerOfPatientID",
    "SliceThickness", "SpacingBetweenSlices", "SequenceOfUltrasoundRegions", "StudyInstanceUID", "SeriesInstanceUID",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID",
    "ReferencedSeriesSequence", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated",
    "PixelSpacing",
    "BurnedInAnnotation",
    "SegmentSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
