"""pydicom's own sample files, read as the library reads them: values, orientation, spacing, every compression."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from tests.cases import family

from wardround.errors import DataError
from wardround.images.dicom.decoder import DicomDecoder
from wardround.images.dicom.series import survey
from wardround.images.entries import Entry
from wardround.images.store import open_store

pydicom = pytest.importorskip("pydicom")

VOLUMES, PICTURES = DicomDecoder(volumes=True), DicomDecoder(volumes=False)


def content(name):
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} comes with the package pydicom-data")
    with open(path, "rb") as file:
        return file.read()


def directly(name):
    return pydicom.dcmread(io.BytesIO(content(name)))


def decoded(decoder, name, frame=None):
    return decoder.decode(Entry("p/s", 0, "p", frame=frame), [content(name)], [], None)


def test_a_ct_slice_has_its_hounsfield_units_spacing_and_orientation():
    found = directly("CT_small.dcm")
    raw = decoded(VOLUMES, "CT_small.dcm")
    units = found.pixel_array * float(found.RescaleSlope) + float(found.RescaleIntercept)
    # Rows run to the left and columns to the back: both turn around on the way to right and front.
    assert found.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    np.testing.assert_array_equal(raw.values[0, :, :, 0], units[::-1, ::-1].T.astype(np.float32))
    rows, columns = found.PixelSpacing
    np.testing.assert_allclose(np.linalg.norm(raw.affine[:3, :3], axis=0), [columns, rows, found.SliceThickness])
    x, y, z = map(float, found.ImagePositionPatient)
    last = raw.affine @ [raw.values.shape[1] - 1, raw.values.shape[2] - 1, 0, 1]
    np.testing.assert_allclose(last[:3], [-x, -y, z], atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_one_slice_in_every_transfer_syntax_is_one_volume(name):
    plain, other = decoded(VOLUMES, "MR_small.dcm"), decoded(VOLUMES, name)
    np.testing.assert_array_equal(other.values, plain.values)
    np.testing.assert_allclose(other.affine, plain.affine)


def test_an_mr_slice_has_the_stored_values():
    raw = decoded(VOLUMES, "MR_small.dcm")
    assert sorted(raw.values.ravel()) == sorted(directly("MR_small.dcm").pixel_array.ravel())


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_small_odd.dcm",
        "SC_rgb_small_odd_big_endian.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb.dcm",
        "SC_ybr_full_uncompressed.dcm",
        "US1_J2KR.dcm",
        "color3d_jpeg_baseline.dcm",
    ],
)
def test_colours_are_those_that_the_library_gives(name):
    expected = pydicom.pixels.pixel_array(directly(name), index=0)
    raw = decoded(PICTURES, name, frame=0)
    if directly(name).get("SequenceOfUltrasoundRegions") is None:
        np.testing.assert_array_equal(raw.values, expected.transpose(2, 0, 1))
    assert raw.values.dtype == np.uint8


@pytest.mark.parametrize("name", ["SC_rgb_16bit.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_32bit.dcm"])
def test_deep_colours_become_eight_bits(name):
    found = directly(name)
    expected = np.rint(found.pixel_array / (2.0**found.BitsStored - 1) * 255)
    np.testing.assert_array_equal(decoded(PICTURES, name).values, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["examples_palette.dcm"])
def test_a_palette_becomes_colours(name):
    found = directly(name)
    colours = pydicom.pixels.apply_color_lut(found.pixel_array, found)[..., :3]
    expected = colours if colours.dtype == np.uint8 else np.rint(colours / 257)
    found_regions = found.get("SequenceOfUltrasoundRegions")
    raw = decoded(PICTURES, name)
    if not found_regions:
        np.testing.assert_array_equal(raw.values, expected.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "name",
    family(
        [
            "RG1_UNCR.dcm",
            "RG1_J2KR.dcm",
            "RG3_UNCR.dcm",
            "JPGExtended.dcm",
            "JPEG-LL.dcm",
            "JPEG2000.dcm",
            "vlut_04.dcm",
            "mlut_18.dcm",
        ],
        keep=["RG3_UNCR.dcm", "JPEG-LL.dcm", "vlut_04.dcm", "mlut_18.dcm"],
    ),
)
def test_a_grey_picture_is_the_library_s_own_windowing(name):
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    found = directly(name)
    values = apply_modality_lut(found.pixel_array, found)
    shown = apply_voi_lut(values if found.get("VOILUTSequence") is None else np.rint(values).astype(int), found)
    ramp = shown.astype(float)
    raw = decoded(PICTURES, name).values[0].astype(float)
    if found.PhotometricInterpretation == "MONOCHROME1":
        raw = 255 - raw
    # Both run between ends that differ by a scale and a shift.
    inner = (raw > 0) & (raw < 255)
    if inner.sum() > 2 and np.ptp(ramp[inner]) > 0:
        scale, shift = np.polyfit(ramp[inner], raw[inner], 1)
        assert np.abs(ramp[inner] * scale + shift - raw[inner]).max() < 1
        assert scale > 0


@pytest.mark.parametrize("name", ["emri_small.dcm", "emri_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm"])
def test_every_frame_of_a_plain_multi_frame_file_is_a_picture_and_without_positions_no_volume(name):
    frames = directly("emri_small.dcm").pixel_array
    for number in (0, 4, 9):
        frame = frames[number].astype(float)
        raw = decoded(PICTURES, name, frame=number).values[0].astype(float)
        inner = (raw > 0) & (raw < 255)
        assert np.corrcoef(raw[inner], frame[inner])[0, 1] > 0.999
    with pytest.raises(DataError, match="without position"):
        decoded(VOLUMES, name)
    with pytest.raises(DataError, match="fewer"):
        decoded(PICTURES, name, frame=10)


def test_an_enhanced_file_has_its_frames_where_their_functional_groups_say():
    found = directly("eCT_Supplemental.dcm")
    groups = found.PerFrameFunctionalGroupsSequence
    heights = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups]
    raw = decoded(VOLUMES, "eCT_Supplemental.dcm")
    assert raw.values.shape[1:] == (found.Columns, found.Rows, len(heights))
    assert raw.affine is not None
    np.testing.assert_allclose(np.linalg.norm(raw.affine[:3, 2]), abs(heights[1] - heights[0]))
    lowest = int(np.argmin(heights))
    rescale = groups[lowest].get("PixelValueTransformationSequence") or (
        found.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    )
    units = found.pixel_array[lowest] * float(rescale[0].RescaleSlope) + float(rescale[0].RescaleIntercept)
    np.testing.assert_allclose(sorted(raw.values[0, :, :, 0].ravel()), sorted(units.ravel()))


def test_a_truncated_file_is_damaged():
    with pytest.raises(DataError, match="damaged"):
        decoded(VOLUMES, "MR_truncated.dcm")


@pytest.mark.thorough
def test_every_sample_is_read_or_refused_with_one_sentence(tmp_path):
    from pydicom.data import get_testdata_file

    folders = {
        Path(str(get_testdata_file(name, download=False))).parent for name in ("CT_small.dcm", "emri_small.dcm")
    }
    for number, path in enumerate(found for folder in folders for found in folder.glob("*.dcm")):
        (tmp_path / f"{number}.x").write_bytes(path.read_bytes())
    store = open_store(tmp_path)
    seen = survey(store, lambda kind, value: f"{kind} {value}", reviewed=True)
    used = (*seen.pictures, *seen.slices)
    assert {"patient 4MR1", "patient 1CT1"} <= {header.patient for header in used}
    read = 0
    for header in used:
        for frame in range(header.frames):
            with contextlib.suppress(DataError):
                entry = Entry(header.source, 0, "p", frame=frame)
                raw = PICTURES.decode(entry, [store.read(header.source)], [], None)
                assert raw.values.dtype == np.uint8
                read += 1
    assert read > len(used) / 2
