"""Answers as DICOM objects, by highdicom: a Structured Report of a class, a segmentation of a mask.

Both copy the patient and the study from the picture's own header, as the standard wants; they are for the archive
that the picture came from. Classes are coded under the private scheme 99WARDROUND by their place and name.
Sources: DICOM PS3.16 TID 1500 (measurement report), PS3.3 A.51 (segmentation).
"""

import io
import warnings
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wardround import __version__
from wardround.boundary.extras import needed
from wardround.errors import DataError
from wardround.images.arrays import open_container
from wardround.images.decode.quiet import sealed
from wardround.images.dicom.geometry import grid_of, planes_of, turned_back
from wardround.images.dicom.parse import is_dicom, whole
from wardround.images.loose import open_given
from wardround.inference.answers import Classified, Segmented, Sources
from wardround.inference.model import Model

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SCHEME = "99WARDROUND"
_MAKER, _SERIES = "wardround", 900
_LONGEST_MEANING, _LONGEST_LABEL = 64, 64
_REQUIRED = (
    "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
    "ReferringPhysicianName", "Manufacturer",
)  # fmt: skip
"""Elements that may be empty and must be there; an export often leaves them out."""


def dicom_of(model: Model, answer: Classified | Segmented) -> bytes | None:
    """Returns the file of one DICOM object about an answer; None where the picture is no DICOM.

    Raises:
        MissingExtra: highdicom is not installed.
        DataError: the picture's header lacks what the object needs (code `data-dicom-result`).
    """
    with needed("dicom-results", "An answer as DICOM object"):
        import highdicom  # noqa: F401
    sources = _datasets(answer.sources)
    if not sources:
        return None

    def made() -> bytes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _segmentation(model, answer, sources) if isinstance(answer, Segmented) else None
            found = found if found is not None else _report(model, answer, sources)
        stream = io.BytesIO()
        found.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    fault = "the picture's header lacks what a DICOM object about it needs. Write a table with --csv instead."
    try:
        return sealed(made, fault)
    except DataError as error:
        raise DataError(str(error), code="data-dicom-result") from None


def _datasets(sources: Sources | None) -> "list[Dataset]":
    """Returns the data sets of an answer's files; none where they are no DICOM."""
    if sources is None:
        return []
    paths: list[Path] = [Path(name) for name in sources.files]
    with closing(open_given(paths) if sources.root is None else open_container(sources.root)) as store:
        contents = [store.read(name) for name in sources.files]
    if not all(map(is_dicom, contents)):
        return []
    found = [sealed(partial(whole, content), "damaged") for content in contents]
    for one in found:
        for keyword in _REQUIRED:
            if keyword not in one:
                setattr(one, keyword, None)
    return found


def _segmentation(model: Model, answer: Segmented, sources: "list[Dataset]") -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian

    algorithm = hd.AlgorithmIdentificationSequence(
        name=model.card.study.name[:_LONGEST_LABEL], version=model.card.weights.sha256[:16],
        family=codes.DCM.ArtificialIntelligence,
    )  # fmt: skip
    present = [index for index in range(1, len(model.card.classes)) if (answer.mask == index).any()]
    described = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=model.card.classes[index][:_LONGEST_LABEL],
            segmented_property_category=codes.SCT.Tissue, segmented_property_type=_code(model, index),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm_identification=algorithm,
        )
        for number, index in enumerate(present or [1], start=1)
    ]  # fmt: skip
    frames = np.zeros(answer.mask.shape, dtype=np.uint8)
    for number, index in enumerate(present, start=1):
        frames[answer.mask == index] = number
    return hd.seg.Segmentation(
        source_images=sources, pixel_array=_frames(answer, frames, sources),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY, segment_descriptions=described,
        series_instance_uid=hd.UID(), series_number=_SERIES, sop_instance_uid=hd.UID(), instance_number=1,
        manufacturer=_MAKER, manufacturer_model_name=_MAKER, software_versions=__version__, device_serial_number="0",
        transfer_syntax_uid=ExplicitVRLittleEndian, omit_empty_frames=bool(present),
    )  # fmt: skip


def _frames(answer: Segmented, mask: npt.NDArray[np.uint8], sources: "list[Dataset]") -> npt.NDArray[np.uint8]:
    """Returns the mask frame by frame in the order of the sources, (frame, row, column)."""
    if answer.affine is None:
        return mask[None]
    planes = [plane for one in sources for plane in planes_of(one)]
    grid = grid_of(planes)
    volume = turned_back(mask, grid.affine)
    place = {index: number for number, index in enumerate(grid.order)}
    return np.stack([volume[:, :, place[index]].T for index in range(len(planes))])


def _report(model: Model, answer: Classified | Segmented, sources: "list[Dataset]") -> Any:
    import highdicom as hd
    from highdicom.sr.templates import DeviceObserverIdentifyingAttributes, ObserverContext
    from pydicom.sr.codedict import codes

    assert isinstance(answer, Classified), "a mask is a segmentation"
    sha256 = model.card.weights.sha256
    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=hd.UID.from_uuid(f"{sha256[:8]}-{sha256[8:12]}-4{sha256[13:16]}-8{sha256[17:20]}-{sha256[20:32]}"),
            name=_MAKER, model_name=model.card.study.name[:_LONGEST_LABEL],
        ),
    )  # fmt: skip
    index = model.card.classes.index(answer.label)
    uncertain = hd.sr.CodedConcept("uncertain", SCHEME, "Uncertain by the stated rule")
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier="class"),
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(one) for one in sources[:1]],
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=model.card.study.name[:_LONGEST_LABEL], version=sha256[:16],
            parameters=[f"probabilities: {model.calibration}", *answer.findings],
        ),
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(name=codes.DCM.Finding, value=_code(model, index)),
            hd.sr.QualitativeEvaluation(name=uncertain, value=codes.SCT.Yes if answer.uncertain else codes.SCT.No),
        ],
        measurements=[
            hd.sr.Measurement(
                name=_code(model, number), value=round(value, 6), unit=codes.UCUM.NoUnits,
            )
            for number, value in enumerate(answer.probabilities.values())
        ],
    )  # fmt: skip
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.CodedConcept("imaging", SCHEME, "Imaging procedure"),
        imaging_measurements=[group],
    )
    return hd.sr.Comprehensive3DSR(
        evidence=sources, content=report[0], series_instance_uid=hd.UID(), series_number=_SERIES,
        sop_instance_uid=hd.UID(), instance_number=1, manufacturer=_MAKER, is_complete=True, is_final=False,
        is_verified=False,
    )  # fmt: skip


def _code(model: Model, index: int) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(f"class-{index}", SCHEME, model.card.classes[index][:_LONGEST_MEANING])
