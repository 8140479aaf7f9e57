"""Masks from DICOM SEG: on the volume's grid, in any orientation, by label."""

import numpy as np
import pytest

from wardround.errors import DataError
from wardround.images.entries import Region, Target, Task

pydicom = pytest.importorskip("pydicom")

AFFINE = np.array([[0, 0, 4.0, -20], [-2.0, 0, 0, 7], [0, 3.0, 0, 1], [0, 0, 0, 1]])
"""Sagittal slices, no axis where RAS+ has it."""


def item(**elements):
    made = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def write_seg(path, slices, masks, *, fractional=False, flip=False, labelmap=False, of_series=True):
    """A segmentation of a series: `masks` by label, boolean (x, y, z) as the series was written; empty frames left out.

    With `flip` the frames run backwards along rows, as another program may write them.
    """
    headers = [pydicom.dcmread(slice_) for slice_ in slices]
    made = pydicom.Dataset()
    made.update({element.tag: element for element in headers[0] if element.keyword in COPIED})
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.66.{7 if labelmap else 4}"
    made.SOPInstanceUID, made.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.Modality, made.SegmentationType = "SEG", "FRACTIONAL" if fractional else "BINARY"
    made.MaximumFractionalValue = 200
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    bits = 8 if fractional or labelmap else 1
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit = bits - 1
    made.SegmentSequence = [item(SegmentNumber=n, SegmentLabel=label) for n, label in enumerate(masks, start=1)]
    first = headers[0]
    across = np.array(first.ImageOrientationPatient[:3], float)
    step = across * first.PixelSpacing[1]
    orientation = [*(-across if flip else across), *first.ImageOrientationPatient[3:]]
    made.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[float(v) for v in orientation])],
            PixelMeasuresSequence=[item(PixelSpacing=first.PixelSpacing)],
        )
    ]
    frames, groups = [], []
    stacked = [sum(n * mask for n, mask in enumerate(masks.values(), start=1))] if labelmap else masks.values()
    for number, mask in enumerate(stacked, start=1):
        for k, header in enumerate(headers):
            frame = mask[:, :, k].T
            if not frame.any():
                continue
            position = np.array(header.ImagePositionPatient, float)
            if flip:
                frame, position = frame[:, ::-1], position + step * (frame.shape[1] - 1)
            frames.append(frame)
            group = item(PlanePositionSequence=[item(ImagePositionPatient=position.tolist())])
            if not labelmap:
                group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=number)]
            groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    made.NumberOfFrames = len(frames)
    pixels = np.stack(frames)
    if bits == 1:
        made.PixelData = pydicom.pixels.pack_bits(pixels.astype(np.uint8))
    else:
        made.PixelData = (pixels * (1 if labelmap else 120)).astype(np.uint8).tobytes()
        if fractional:  # below a half is background
            made.PixelData = bytes(made.PixelData).replace(b"\0", b"\x63")
    if len(made.PixelData) % 2:
        made.PixelData += b"\0"
    made["PixelData"].VR = "OB"
    if of_series:
        made.ReferencedSeriesSequence = [item(SeriesInstanceUID=first.SeriesInstanceUID)]
    made.save_as(path, enforce_file_format=True)
    return path


COPIED = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")


@pytest.fixture
def cases(dicom, tmp_path):
    """Two volumes, and boolean masks of two segments in the index order they were written in."""
    made = []
    for number in range(2):
        paths, values = dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number, affine=AFFINE)
        liver, tumour = values > 0, values > 700
        made.append((paths, values, {"tumour": tumour, "liver": liver & ~tumour}))
    return made


def expected_of(raw, values, masks):
    """The classes where the values say they are: voxels are told apart by value."""
    place = {value: index for index, value in np.ndenumerate(values)}
    assert len(place) == values.size, "values are all different"
    classes = 1 * masks["liver"] + 2 * masks["tumour"]
    return np.vectorize(lambda value: classes[place[value]])(raw.values[0].astype(float))


@pytest.mark.parametrize(
    "how", [{}, {"flip": True}, {"fractional": True}, {"labelmap": True}, {"of_series": False}]
)
def test_a_mask_lies_where_its_segments_do(dicom, tmp_path, how):
    values = np.random.default_rng(0).permutation(4 * 5 * 6).reshape(4, 5, 6).astype(float) - 60
    from tests.images.dicom.write import write_dicom

    masks = {"tumour": values > 40, "liver": (values > 0) & (values <= 40)}
    paths = write_dicom(values, AFFINE, tmp_path / "s", patient_id="ann")
    write_seg(tmp_path / "seg", paths, masks, **how)
    listing = dicom.read(tmp_path, Task.SEGMENTATION)
    assert listing.class_names == ("background", "liver", "tumour")
    assert listing.target is Target.MASKS
    assert listing.regions == (Region("liver", (1,)), Region("tumour", (2,)))
    (raw,) = dicom.decode(tmp_path, listing)
    assert raw.mask.dtype == np.uint8
    np.testing.assert_array_equal(raw.mask, expected_of(raw, values, masks))


def test_each_volume_gets_its_own_mask_and_one_without_is_left_out(dicom, tmp_path, cases):
    for number, (paths, _, masks) in enumerate(cases):
        write_seg(tmp_path / f"seg{number}", paths, masks)
    paths, _ = dicom.volume(tmp_path, "alone", "patient 9")
    (tmp_path / "lost").mkdir()
    stray, _ = dicom.volume(tmp_path / "lost", "x", "patient 8")
    write_seg(tmp_path / "stray", stray, {"liver": np.ones((4, 5, 6), bool)})
    for path in stray:
        path.unlink()
    listing = dicom.read(tmp_path, Task.SEGMENTATION)
    assert len(listing.entries) == 2
    for note in ("volumes without a segmentation (1)", "to several (1)"):
        assert any(found.endswith(note) for found in listing.notes)
    for raw in dicom.decode(tmp_path, listing):
        np.testing.assert_array_equal(raw.mask > 0, raw.values[0] > 0)
        np.testing.assert_array_equal(raw.mask == 2, raw.values[0] > 700)


def test_named_segments_fix_the_classes_whatever_a_hospital_has(dicom, tmp_path, cases):
    paths, _, masks = cases[0]
    write_seg(tmp_path / "seg", paths, masks)
    listing = dicom.read(tmp_path, Task.SEGMENTATION, segments=("vessel", "tumour"))
    assert listing.class_names == ("background", "vessel", "tumour")
    (raw,) = dicom.decode(tmp_path, listing)
    np.testing.assert_array_equal(raw.mask, 2 * (raw.values[0] > 700))


def test_where_segments_overlap_the_higher_class_stands(dicom, tmp_path, cases):
    paths, values, _ = cases[0]
    write_seg(tmp_path / "seg", paths, {"b": values > -9999, "a": values > 0})
    (raw,) = dicom.decode(tmp_path, dicom.read(tmp_path, Task.SEGMENTATION))
    assert (raw.mask == 2).all()


def test_a_segmentation_of_another_patient_is_not_taken(dicom, tmp_path, cases):
    paths, _, masks = cases[0]
    dicom.edit(write_seg(tmp_path / "seg", paths, masks), PatientID="somebody else")
    with pytest.raises(DataError, match="belong to no series"):
        dicom.read(tmp_path, Task.SEGMENTATION)


@pytest.mark.parametrize(("shift", "what"), [(0.5, "lies between"), (40.0, "reaches beyond")])
def test_a_segmentation_off_the_grid_is_unreadable(dicom, tmp_path, cases, shift, what):
    paths, _, masks = cases[0]
    for path in paths:
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        dicom.edit(path, ImagePositionPatient=[x + shift * 4, y, z])
    moved = write_seg(tmp_path / "seg", paths, masks)
    for path in paths:
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        dicom.edit(path, ImagePositionPatient=[x - shift * 4, y, z])
    assert moved.is_file()
    with pytest.raises(DataError, match=what):
        dicom.decode(tmp_path, dicom.read(tmp_path, Task.SEGMENTATION))
