"""A synthetic series or picture as DICOM files; nothing is written about a person but the PatientID that is given."""

import numpy as np

from wardround.images.decode.quiet import QUIET

VOLUMES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
X_RAY = "1.2.840.10008.5.1.4.1.1.1.1"
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_dicom(values, affine, folder, *, patient_id, modality="MR", slope=1.0, intercept=0.0):
    """A volume (x, y, z) as one series, a file a slice along the third axis, in that order; rounded to `slope`."""
    from pydicom.uid import generate_uid

    matrix = TO_LPS @ affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    axes = matrix[:3, :3] / spacing
    steps = np.rint((values - intercept) / slope)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-4), "axes at right angles"
    assert np.abs(steps).max() <= 32767, "values that 16 bits hold"
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    paths = []
    for number in range(values.shape[2]):
        made = _new(VOLUMES[modality], modality, patient_id, study, series, number + 1)
        made.FrameOfReferenceUID = frame
        made.ImagePositionPatient = _decimals(matrix[:3, 3] + number * matrix[:3, 2])
        made.ImageOrientationPatient = _decimals(np.concatenate([axes[:, 0], axes[:, 1]]))
        made.PixelSpacing = _decimals(spacing[[1, 0]])
        (made.SliceThickness,) = _decimals(spacing[2:])
        made.RescaleSlope, made.RescaleIntercept = _decimals(np.array([slope, intercept]))
        paths.append(_saved(made, steps[:, :, number].T.astype(np.int16)[None], folder / f"{number + 1:04d}.dcm"))
    return tuple(paths)


def write_picture(picture, path, *, patient_id, modality="DX"):
    """One grey or RGB picture, uint8 (channel, height, width); returns its path."""
    from pydicom.uid import generate_uid

    made = _new(X_RAY, modality, patient_id, generate_uid(), generate_uid(), 1)
    made.BurnedInAnnotation = "NO"
    path.parent.mkdir(parents=True, exist_ok=True)
    return _saved(made, picture, path)


def _new(sop_class, modality, patient_id, study, series, number):
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


def _decimals(numbers):
    """Numbers as DICOM's decimal strings, which have 16 characters."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(number), auto_format=True) for number in numbers]


def _saved(made, pixels, path):
    """Writes pixels, (channel, rows, columns), with the rest of the file."""
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
    with QUIET:
        made.save_as(path, enforce_file_format=True)
    return path
