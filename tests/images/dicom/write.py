"""A synthetic series or picture as DICOM files: for phantoms, and for tests of the way back.

Every identifier is fresh; nothing is written about a person but the PatientID that the caller gives.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.images.decode.pillow import Picture
from wardround.images.decode.raw import Affine
from wardround.images.dicom.quiet import QUIET, require_pydicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_VOLUMES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
_X_RAY = "1.2.840.10008.5.1.4.1.1.1.1"
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_dicom(
    values: npt.NDArray[np.floating],
    affine: Affine,
    folder: Path,
    *,
    patient_id: str,
    modality: str = "MR",
    slope: float = 1.0,
    intercept: float = 0.0,
) -> tuple[Path, ...]:
    """Writes a volume as one series, a file a slice along the third axis; returns the files in that order.

    Args:
        values: (x, y, z), in physical units.
        affine: from voxel indices to mm in RAS+, axes at right angles.
        folder: created if missing; files are named 0001.dcm, 0002.dcm and so on.
        patient_id: written as PatientID.
        modality: CT, MR or PT.
        slope: physical units a stored step; values are rounded to it.
        intercept: physical value of the stored 0.

    Raises:
        DataError: values that 16 bits do not hold, axes that are not at right angles, or an unknown modality.
        MissingExtra: pydicom is not installed.
    """
    require_pydicom()
    if values.ndim != 3 or 0 in values.shape or modality not in _VOLUMES:
        raise DataError(
            f"a series must be a volume (x, y, z) of {', '.join(_VOLUMES)}, got {values.shape}, {modality}."
        )
    matrix = _TO_LPS @ affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    axes = matrix[:3, :3] / spacing
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise DataError("the axes of a series must be at right angles, these are not. Resample the volume.")
    steps = np.rint((values - intercept) / slope)
    if not np.isfinite(steps).all() or np.abs(steps).max() > 32767:
        raise DataError("the values of a series must fit into 16 bits, these do not. Choose another slope.")
    from pydicom.uid import generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    paths = []
    for number in range(values.shape[2]):
        made = _new(_VOLUMES[modality], modality, patient_id, study, series, number + 1)
        made.FrameOfReferenceUID = frame
        made.ImagePositionPatient = _decimals(matrix[:3, 3] + number * matrix[:3, 2])
        made.ImageOrientationPatient = _decimals(np.concatenate([axes[:, 0], axes[:, 1]]))
        made.PixelSpacing = _decimals(spacing[[1, 0]])
        (made.SliceThickness,) = _decimals(spacing[2:])
        made.RescaleSlope, made.RescaleIntercept = _decimals(np.array([slope, intercept]))
        _put(made, steps[:, :, number].T.astype(np.int16)[None])
        paths.append(_saved(made, folder / f"{number + 1:04d}.dcm"))
    return tuple(paths)


def write_picture(picture: Picture, path: Path, *, patient_id: str, modality: str = "DX") -> Path:
    """Writes one grey or RGB picture, uint8 (channel, height, width); returns its path.

    Raises:
        DataError: another shape or type.
        MissingExtra: pydicom is not installed.
    """
    require_pydicom()
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] not in (1, 3):
        raise DataError(f"a picture must be uint8 with 1 or 3 channels, got {picture.dtype} {picture.shape}.")
    from pydicom.uid import generate_uid

    made = _new(_X_RAY, modality, patient_id, generate_uid(), generate_uid(), 1)
    made.BurnedInAnnotation = "NO"
    _put(made, picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _saved(made, path)


def _new(sop_class: str, modality: str, patient_id: str, study: str, series: str, number: int) -> "Dataset":
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UID(sop_class)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    made.Modality, made.PatientID, made.InstanceNumber = modality, patient_id, number
    made.SpecificCharacterSet = "ISO_IR 192"
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    return made


def _put(made: "Dataset", pixels: npt.NDArray[np.uint8] | npt.NDArray[np.int16]) -> None:
    """Pixels, (channel, rows, columns)."""
    channels, made.Rows, made.Columns = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    made.SamplesPerPixel = channels
    made.PhotometricInterpretation = "MONOCHROME2" if channels == 1 else "RGB"
    if channels == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit = bits - 1
    made.PixelRepresentation = int(pixels.dtype == np.int16)
    content = np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(pixels.dtype.newbyteorder("<")).tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)
    made["PixelData"].VR = "OW" if bits == 16 else "OB"


def _decimals(numbers: npt.NDArray[np.float64]) -> list[object]:
    """Numbers as DICOM's decimal strings, which have 16 characters."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(number), auto_format=True) for number in numbers]


def _saved(made: "Dataset", path: Path) -> Path:
    with QUIET:
        made.save_as(path, enforce_file_format=True)
    return path
