"""Two-dimensional modalities: windows, inversion, colour, padding, the mask of ultrasound, and what is refused."""

import numpy as np
import pytest

from wardround.errors import DataError
from wardround.images.dicom.decoder import DicomDecoder
from wardround.images.dicom.pixels import windowed
from wardround.images.entries import Entry

pydicom = pytest.importorskip("pydicom")

PICTURES = DicomDecoder(volumes=False)
ENTRY = Entry("p/s/1", 0, "p")
RAMP = np.linspace(0, 4095, 6 * 7).astype(np.uint16).reshape(6, 7)


@pytest.fixture
def ramp(dicom, tmp_path):
    """A 12-bit picture of rising values, with elements set, decoded."""

    def decode(stored=RAMP, **elements):
        path = dicom.picture(tmp_path, "one.dcm", "x")
        found = pydicom.dcmread(path)
        found.BitsAllocated, found.BitsStored, found.HighBit = 16, 12, 11
        found.PixelData = stored.tobytes()
        found["PixelData"].VR = "OW"
        for keyword, value in elements.items():
            if keyword == "PixelPaddingValue":
                found.add_new(keyword, "US", value)
            else:
                setattr(found, keyword, value)
        found.save_as(path)
        return PICTURES.decode(ENTRY, [path.read_bytes()], [], None).values[0]

    return decode


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(1000, 500), (2000, 4096), (40, 1)])
def test_windows_are_those_of_pydicom(function, center, width):
    from pydicom.pixels.processing import apply_windowing

    found = pydicom.Dataset()
    found.WindowCenter, found.WindowWidth = center, width
    found.VOILUTFunction = function
    found.PhotometricInterpretation, found.BitsStored, found.PixelRepresentation = "MONOCHROME2", 12, 0
    expected = np.asarray(apply_windowing(RAMP, found)) / 4095
    shown = windowed(RAMP.astype(np.float64), center, width, function)
    np.testing.assert_allclose(shown, expected, atol=1e-12)


def test_the_first_window_is_applied_after_rescaling(ramp):
    found = ramp(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[500, 9], WindowWidth=[1001, 9])
    expected = np.clip((RAMP * 2.0 - 1000 - 499.5) / 1000 + 0.5, 0, 1)
    np.testing.assert_array_equal(found, np.rint(255 * expected))


def test_without_a_window_a_picture_runs_from_its_own_smallest_to_its_own_largest_value(ramp):
    found = ramp(stored=(RAMP // 4 + 100).astype(np.uint16))
    assert (found.min(), found.max()) == (0, 255)
    assert ramp(WindowCenter=10, WindowWidth=0).max() == 255  # a window of no width is none


def test_a_constant_picture_is_black(ramp):
    assert not ramp(stored=np.full_like(RAMP, 77)).any()


def test_monochrome1_is_inverted(ramp):
    np.testing.assert_array_equal(ramp(PhotometricInterpretation="MONOCHROME1"), 255 - ramp())


def test_padding_is_black_and_does_not_stretch_the_range(ramp):
    stored = RAMP.copy() // 2 + 1000
    stored[0] = 4095
    found = ramp(stored=stored.astype(np.uint16), PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1")
    assert not found[0].any()
    assert (found[1, 0], found[-1, -1]) == (255, 0)


def test_bits_above_those_stored_are_no_part_of_the_picture(ramp):
    # Old files keep overlays there, with names in them.
    written = RAMP | (np.arange(42).reshape(6, 7) % 2 << 13).astype(np.uint16)
    np.testing.assert_array_equal(ramp(stored=written.astype(np.uint16)), ramp())


def test_a_voi_table_goes_before_a_window(ramp):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = np.linspace(65535, 0, 4096).astype(np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    found = ramp(VOILUTSequence=[table], WindowCenter=1, WindowWidth=10)
    np.testing.assert_array_equal(found, np.rint(255 * (1 - RAMP / 4095.0)))


def test_a_modality_table_maps_stored_values(ramp):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = (np.arange(4096) ** 2 // 4096).astype(np.uint16).tobytes()
    table.ModalityLUTType = "US"
    table["LUTData"].VR = "OW"
    found = ramp(ModalityLUTSequence=[table], WindowCenter=2048, WindowWidth=4096)
    expected = np.clip((RAMP.astype(int) ** 2 // 4096 - 2047.5) / 4095 + 0.5, 0, 1)
    np.testing.assert_array_equal(found, np.rint(255 * expected))


def test_colour_keeps_its_channels(dicom, tmp_path):
    from tests.images.dicom.write import write_picture

    colours = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    path = write_picture(colours, tmp_path / "x.dcm", patient_id="x")
    np.testing.assert_array_equal(PICTURES.decode(ENTRY, [path.read_bytes()], [], None).values, colours)


def region(left, top, right, low):
    item = pydicom.Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, low
    return item


def test_ultrasound_is_black_outside_its_regions(dicom, tmp_path):
    path = dicom.picture(
        tmp_path, "us", "x", Modality="US", SequenceOfUltrasoundRegions=[region(1, 2, 3, 4), region(6, 5, 9, 9)]
    )
    expected = np.zeros((6, 7))
    expected[2:5, 1:4] = 100
    expected[5, 6] = 100
    np.testing.assert_array_equal(PICTURES.decode(ENTRY, [path.read_bytes()], [], None).values[0], expected)


def two_good_ones(dicom, root):
    for number in range(2):
        dicom.picture(root, f"good{number}", f"good {number}", level=50 + number)
    return dicom.labels(root, "label,patient_id", "ill,good 0", "well,good 1", "ill,suspect")


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "text is burned in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary captures"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, "secondary captures"),
        ({"ConversionType": "WSD"}, "secondary captures"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "saved screens"),
        ({"Modality": "US"}, "ultrasound without a mask"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "ultrasound without a mask"),
    ],
)
def test_what_may_show_a_name_is_refused_unless_reviewed(dicom, tmp_path, elements, reason):
    two_good_ones(dicom, tmp_path)
    dicom.picture(tmp_path, "bad", "suspect", **elements)
    listing = dicom.read(tmp_path)
    assert len(listing.entries) == 2
    assert any(note.startswith("refused") and "1 image (" in note and reason in note for note in listing.notes)
    assert len(dicom.read(tmp_path, reviewed=True).entries) == 3
    looked = dicom.read(tmp_path, looking=True)
    assert len(looked.entries) == 3, "somebody has to see what is to be reviewed"
    assert any(note.startswith("shown here, and refused until") and reason in note for note in looked.notes)
    assert [reason in one.cause for one in looked.left_out] == [True], "a study leaves it out"


def test_where_everything_is_refused_the_error_says_how_to_review(dicom, tmp_path):
    dicom.picture(tmp_path, "bad", "suspect", BurnedInAnnotation="YES")
    dicom.labels(tmp_path, "label,patient_id", "ill,suspect")
    with pytest.raises(DataError, match="look at them, and set reviewed"):
        dicom.read(tmp_path)


def test_files_that_do_not_say_whether_text_is_burned_in_are_counted(dicom, tmp_path):
    two_good_ones(dicom, tmp_path)
    dicom.edit(tmp_path / "good1", BurnedInAnnotation=None)
    assert any(note.startswith("1 image does not say whether") for note in dicom.read(tmp_path).notes)


@pytest.mark.parametrize("claimed", [(60_000, 60_000), (0, 7), (8000, 7000)])
def test_a_picture_of_more_pixels_than_are_decoded_is_damaged(dicom, tmp_path, claimed):
    two_good_ones(dicom, tmp_path)
    path = dicom.picture(tmp_path, "bad", "suspect", Rows=claimed[0], Columns=claimed[1])
    assert len(dicom.read(tmp_path).entries) == 2
    with pytest.raises(DataError):
        PICTURES.decode(ENTRY, [path.read_bytes()], [], None)


def test_a_refusal_keeps_nothing_of_its_file(dicom, tmp_path):
    """Its traceback leads to frames that hold the content, in a ring that waits for a search."""
    path = dicom.picture(tmp_path, "bad", "suspect", Rows=0)
    [refused] = PICTURES.decode_each([ENTRY], [path.read_bytes()], [], None)
    assert isinstance(refused, DataError)
    assert refused.__traceback__ is None
