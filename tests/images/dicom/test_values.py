"""Values of pixels against pydicom's own reading: padding, bits in cells, UIDs that repeat, bare files, aspect."""

import io

import numpy as np
import pytest
from tests.cases import family
from tests.images.dicom.write import write_dicom, write_picture

from wardround.errors import DataError
from wardround.images import store
from wardround.images.dicom.decoder import DicomDecoder
from wardround.images.dicom.parse import is_dicom
from wardround.images.entries import Entry
from wardround.images.rows.fit import Fit
from wardround.images.rows.recipe import PictureRecipe, VolumeRecipe

pydicom = pytest.importorskip("pydicom")

PICTURES, VOLUMES = DicomDecoder(volumes=False), DicomDecoder(volumes=True)
ENTRY = Entry("p/s/1", 0, "p")
NOISE = np.random.default_rng(4).integers(-900, 900, (6, 7)).astype(np.int16)


def sample(name):
    from pydicom.data import get_testdata_file

    with open(str(get_testdata_file(name, download=False)), "rb") as file:
        return file.read()


def as_bytes(found, **options):
    stream = io.BytesIO()
    found.save_as(stream, **options)
    return stream.getvalue()


def padded(decoder, stored, value, vr, *, limit=None, bits=16, name="CT_small.dcm", implicit=False):
    """A sample with other pixels and a padding value, written in a VR that need not be the pixels' own, decoded."""
    found = pydicom.dcmread(io.BytesIO(sample(name)))
    found.Rows, found.Columns = stored.shape
    found.BitsStored, found.HighBit = bits, bits - 1
    found.PixelRepresentation = int(stored.dtype.kind == "i")
    found.PixelData = stored.tobytes()
    found.RescaleSlope, found.RescaleIntercept = 1, 0
    for keyword, element in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
        if keyword in found:
            del found[keyword]
        if element is not None:
            found.add_new(keyword, vr, element)
    if implicit:
        found.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return decoder.decode(ENTRY, [as_bytes(found)], [], None)


PADDING = [
    (np.int16, 16, -2000, None, -2000, "SS"),
    (np.int16, 16, -2000, None, 63536, "US"),
    (np.int16, 16, -2000, -1900, 63536, "US"),
    (np.int16, 12, -2048, None, 63488, "US"),
    (np.int16, 12, -2000, None, 2096, "US"),
    (np.uint16, 16, 65535, None, -1, "SS"),
    (np.uint16, 16, 0, 3, 0, "US"),
    (np.uint16, 12, 4095, 4000, 4095, "US"),
]


@pytest.mark.parametrize(
    ("dtype", "bits", "value", "limit", "written", "vr", "implicit"),
    family(
        [(*case, implicit) for implicit in (False, True) for case in PADDING],
        keep=[*((*case, False) for case in PADDING), (*PADDING[1], True)],
    ),
)
def test_padding_is_black_and_outside_of_percentiles_whatever_vr_it_has(
    dtype, bits, value, limit, written, vr, implicit
):
    stored = (NOISE if dtype == np.int16 else NOISE + 1900).astype(dtype)
    is_padding = np.zeros(stored.shape, dtype=bool)
    is_padding[:3, :4] = True
    stored[is_padding] = value
    if limit is not None:
        stored[0, 0] = limit
    written_limit = limit if limit is None or vr == "SS" else limit % 2**16
    raw = padded(VOLUMES, stored, written, vr, limit=written_limit, bits=bits, implicit=implicit)
    there = is_padding[::-1, ::-1].T[..., None]
    np.testing.assert_array_equal(raw.padding, there)
    np.testing.assert_array_equal(raw.values[0][~there], stored[::-1, ::-1].T[..., None][~there])
    assert raw.values.min() == stored[~is_padding].min()
    levels = VolumeRecipe((7, 6, 1)).prepare(raw).rows[0, 0]
    own = stored[~is_padding].astype(np.float64)
    low, high = np.percentile(own.astype(np.float32), (0.5, 99.5))
    expected = np.clip(np.rint((own - low) * 255 / (high - low)), 0, 255)
    assert not levels[there].any()
    assert np.abs(np.sort(levels[~there]) - np.sort(expected)).max() <= 1
    windowed = VolumeRecipe((7, 6, 1), window=(-5000.0, 5000.0)).prepare(raw).rows[0, 0]
    assert not windowed[there].any()
    assert windowed[~there].min() > 90
    picture = padded(PICTURES, stored, written, vr, limit=written_limit, bits=bits, implicit=implicit).values[0]
    assert not picture[is_padding].any()
    assert picture[~is_padding].max() == 255


SERIES = [
    # Stored padding of slice k; written value, limit and VR; slope and intercept; photometric interpretation.
    (lambda k: -2000 + 30 * k, 63536, 63636, "US", -2.0, 1000.0, "MONOCHROME1"),
    (lambda k: 500, 500, None, "US", 0.5, -50.0, "MONOCHROME2"),
    (lambda k: -10 + 5 * k, 65526, 5, "US", 1.0, 0.0, "MONOCHROME2"),
]


@pytest.mark.parametrize(("value", "written", "limit", "vr", "slope", "intercept", "photometric"), SERIES)
def test_padding_of_a_series_is_what_pydicom_reads_as_padding(
    tmp_path, value, written, limit, vr, slope, intercept, photometric
):
    generator = np.random.default_rng(6)
    planes, expected, is_padding = [], [], []
    for k, path in enumerate(write_dicom(np.zeros((9, 8, 4)), np.diag([1.0, 1, 2, 1]), tmp_path, patient_id="a")):
        found = pydicom.dcmread(path)
        stored = generator.integers(100, 900, (8, 9)).astype(np.int16)
        stored[:3, :4] = value(k)
        found.PixelData, found.RescaleSlope, found.RescaleIntercept = stored.tobytes(), slope, intercept
        found.PhotometricInterpretation = photometric
        found.add_new("PixelPaddingValue", vr, written)
        if limit is not None:
            found.add_new("PixelPaddingRangeLimit", vr, limit)
        planes.append(as_bytes(found))
        again = pydicom.dcmread(io.BytesIO(planes[-1]))
        ends = [(end + 2**15) % 2**16 - 2**15 for end in (written, written if limit is None else limit)]
        expected.append(again.pixel_array.T * float(again.RescaleSlope) + float(again.RescaleIntercept))
        is_padding.append(((again.pixel_array >= min(ends)) & (again.pixel_array <= max(ends))).T)
    units, outside = np.stack(expected, axis=2), np.stack(is_padding, axis=2)
    raw = VOLUMES.decode(ENTRY, planes[::-1], [], None)
    np.testing.assert_array_equal(raw.padding, outside)
    np.testing.assert_array_equal(raw.values[0][~outside], units[~outside])
    for window in (None, (-2000.0, 3000.0)):
        levels = VolumeRecipe(units.shape, window=window).prepare(raw).rows[0, 0]
        low, high = window or np.percentile(units[~outside].astype(np.float32), (0.5, 99.5))
        np.testing.assert_array_equal(levels[outside], 0)
        difference = levels[~outside] - np.clip((units[~outside] - low) * 255 / (high - low), 0, 255)
        assert np.abs(difference).max() <= 0.51


def test_padding_stays_black_where_a_volume_is_resampled():
    stored = NOISE.copy()
    stored[:, :3] = -2000
    raw = padded(VOLUMES, stored, -2000, "SS")
    made = VolumeRecipe((8, 8, 8), spacing=(0.5, 0.5, 5.0)).prepare(raw).rows[0, 0]
    assert raw.padding.mean() == pytest.approx(3 / 7)
    assert made.any()
    assert not made[-2:].any()


def test_a_padding_value_that_no_pixel_has_changes_nothing():
    raw = padded(VOLUMES, NOISE, -2000, "SS")
    assert raw.padding is None
    for name in ("693_UNCR.dcm", "693_J2KI.dcm", "693_UNCI.dcm"):
        found = pydicom.dcmread(io.BytesIO(sample(name)))
        raw, direct = VOLUMES.decode(ENTRY, [sample(name)], [], None), found.pixel_array
        is_padding = direct == found.PixelPaddingValue
        assert (0 if raw.padding is None else raw.padding.sum()) == is_padding.sum()
        units = direct * float(found.RescaleSlope) + float(found.RescaleIntercept)
        assert raw.values.min() == units[~is_padding].min()
        assert raw.values.max() == units[~is_padding].max()


CELLS = [(16, 12, 15), (16, 12, 13), (16, 10, 14), (16, 8, 15), (8, 6, 7)]


@pytest.mark.parametrize(
    ("cell", "bits", "high", "signed", "syntax"),
    family(
        [(*cell, signed, syntax) for cell in CELLS for signed in (0, 1) for syntax in ("plain", "rle")],
        keep=[case for cell in CELLS for case in ((*cell, 0, "plain"), (*cell, 1, "rle"))],
    ),
)
def test_bits_are_read_where_high_bit_says(tmp_path, cell, bits, high, signed, syntax):
    generator = np.random.default_rng(bits)
    values = generator.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (6, 7)) + (0 if signed else 2 ** (bits - 1))
    junk = generator.integers(0, 2**cell, (6, 7))
    keep = (2**bits - 1) << (high - bits + 1)
    cells = (junk & ~keep & (2**cell - 1)) | ((values << (high - bits + 1)) & keep)
    path = write_picture(cells[None].astype(f"u{cell // 8}"), tmp_path / "a.dcm", patient_id="x")
    found = pydicom.dcmread(path)
    if syntax == "rle":
        found.compress(pydicom.uid.RLELossless)
    found.BitsStored, found.HighBit, found.PixelRepresentation = bits, high, signed
    found.WindowCenter, found.WindowWidth, found.VOILUTFunction = (
        0 if signed else 2 ** (bits - 1),
        2**bits,
        "LINEAR_EXACT",
    )
    shown = PICTURES.decode(ENTRY, [as_bytes(found)], [], None).values[0]
    offset = 2 ** (bits - 1) if signed else 0
    np.testing.assert_array_equal(shown, np.rint((values + offset) / 2**bits * 255))


@pytest.mark.parametrize("high", [3, 10, 16])
def test_a_high_bit_that_no_cell_has_is_refused(tmp_path, high):
    path = write_picture(NOISE.astype(np.uint16)[None], tmp_path / "a.dcm", patient_id="x")
    found = pydicom.dcmread(path)
    found.BitsStored, found.HighBit = 12, high
    with pytest.raises(DataError, match="HighBit from BitsStored - 1 to BitsAllocated - 1"):
        PICTURES.decode(ENTRY, [as_bytes(found)], [], None)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_monochrome1_is_the_negative_at_every_depth(tmp_path, bits):
    stored = (np.arange(42).reshape(1, 6, 7) * (2**bits - 1) // 41).astype(np.uint8 if bits == 8 else np.uint16)
    found = pydicom.dcmread(write_picture(stored, tmp_path / "a.dcm", patient_id="x"))
    found.BitsStored, found.HighBit = bits, bits - 1
    plain = PICTURES.decode(ENTRY, [as_bytes(found)], [], None).values
    found.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(PICTURES.decode(ENTRY, [as_bytes(found)], [], None).values, 255 - plain)


def one_uid(dicom, paths, uid="0"):
    for path in paths:
        dicom.edit(path, SOPInstanceUID=uid)


@pytest.mark.parametrize("uid", family(["0", "1.2.3", "2.25.0"]))
def test_slices_that_share_a_uid_are_all_kept_and_the_export_is_named(dicom, tmp_path, uid):
    for number in range(2):
        paths, values = dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number)
    one_uid(dicom, paths, uid)
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")
    listing = dicom.read(tmp_path)
    assert [len(entry.sources) for entry in listing.entries] == [6, 6]
    assert {tuple(raw.values.shape) for raw in dicom.decode(tmp_path, listing)} == {(1, *values.shape)}
    [note] = [note for note in listing.notes if "SOPInstanceUID" in note]
    assert note.startswith("5 images have the SOPInstanceUID of another one and other pixels: the export")


def test_equal_pixels_at_another_place_are_no_repeat_and_a_real_copy_is_one(dicom, tmp_path):
    for number in range(2):
        paths, _ = dicom.volume(tmp_path, f"s{number}", f"patient {number}", seed=number)
    first = pydicom.dcmread(paths[0])
    for path in paths:  # empty slices, as above the head, are alike
        dicom.edit(path, SOPInstanceUID="0", PixelData=first.PixelData)
    (tmp_path / "copy").write_bytes(paths[2].read_bytes())
    again = pydicom.dcmread(paths[3])
    again.InstitutionName = "elsewhere"
    again.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    again.save_as(tmp_path / "the same, compressed")
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")
    listing = dicom.read(tmp_path)
    assert [len(entry.sources) for entry in listing.entries] == [6, 6]
    assert any(note.startswith("passed over: 2 files with an image") for note in listing.notes)


def test_images_that_share_a_uid_and_are_too_large_to_be_read_are_all_kept(dicom, tmp_path, monkeypatch):
    for number in range(3):
        dicom.picture(tmp_path, f"x{number}", "a", level=9, SOPInstanceUID="0", SeriesInstanceUID="0")
    dicom.picture(tmp_path, "y", "b")
    dicom.labels(tmp_path, "label,patient_id", "ill,a", "well,b")
    assert len(dicom.read(tmp_path).entries) == 2
    monkeypatch.setattr(store, "MAX_BYTES", 200)
    assert len(dicom.read(tmp_path).entries) == 4


def test_pictures_that_share_every_uid_are_kept_and_their_names_do_not_follow_other_patients(dicom, tmp_path):
    def export(people, root):
        for person in people:
            for number in range(3):
                dicom.picture(root, f"{person}{number}", person, level=30 * number + 9, SOPInstanceUID="0",
                              SeriesInstanceUID="0", InstanceNumber=1)  # fmt: skip
        return dicom.read(dicom.labels(root, "label,patient_id", "ill,a", "well,b", "well,c"))

    all_three = export("abc", tmp_path / "abc")
    two = export("ac", tmp_path / "ac")
    assert (len(all_three.entries), len(two.entries)) == (9, 6)
    assert {entry.file for entry in two.entries} < {entry.file for entry in all_three.entries}


@pytest.mark.parametrize(
    "name", ["ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "OT-PAL-8-face.dcm", "rtstruct.dcm"]
)
def test_the_librarys_files_without_preamble_are_dicom(name):
    assert is_dicom(sample(name))


@pytest.mark.parametrize("kind", ["meta", "explicit", "implicit", "big"])
def test_a_file_without_preamble_reads_as_with_it(dicom, tmp_path, kind):
    for number in range(3):
        dicom.picture(tmp_path, f"x{number}", f"patient {number}", level=50 * number + 20)
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1", "well,patient 2")
    listing = dicom.read(tmp_path)
    whole = {
        entry.file: raw.values.tolist()
        for entry, raw in zip(listing.entries, dicom.decode(tmp_path, listing), strict=True)
    }
    for number in range(3):
        path = tmp_path / f"x{number}"
        if kind == "meta":
            path.write_bytes(path.read_bytes()[132:])
            continue
        found = pydicom.dcmread(path)
        plain = pydicom.Dataset(found)
        is_little = kind != "big"
        pydicom.dcmwrite(path, plain, implicit_vr=kind == "implicit", little_endian=is_little)
    bare = dicom.read(tmp_path)
    assert {
        e.file: raw.values.tolist() for e, raw in zip(bare.entries, dicom.decode(tmp_path, bare), strict=True)
    } == whole


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        b"\x02\x00",
        b"8BPS and text",
        b"\x08\x00\x05\x00" + b"\xff" * 200,
        b"\x08\x00\x00\x08AB",
        b"label,file",
    ],
)
def test_what_only_begins_like_dicom_is_passed_over_or_damaged(dicom, tmp_path, content):
    for number in range(2):
        dicom.picture(tmp_path, f"x{number}", f"patient {number}")
    (tmp_path / "other").write_bytes(content)
    dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")
    listing = dicom.read(tmp_path)
    assert len(listing.entries) == 2
    assert any(note.startswith("passed over: ") and note.endswith(" (1)") for note in listing.notes)


ASPECTS = [
    ({"PixelSpacing": [0.2, 0.1]}, 2.0),
    ({"PixelSpacing": [0.1, 0.3]}, 1 / 3),
    ({"ImagerPixelSpacing": [0.3, 0.2]}, 1.5),
    ({"PixelAspectRatio": ["4", "3"]}, 4 / 3),
    ({"PixelSpacing": [0.1, 0.1], "PixelAspectRatio": ["4", "3"]}, 1.0),
    ({}, 1.0),
]


@pytest.mark.parametrize(("elements", "aspect"), ASPECTS)
def test_a_disc_of_long_pixels_is_round_in_the_row(dicom, tmp_path, elements, aspect):
    height, width = (60, round(60 * aspect)) if aspect >= 1 else (round(60 / aspect), 60)
    y, x = np.mgrid[:height, :width]
    disc = ((y + 0.5 - height / 2) * aspect) ** 2 + (x + 0.5 - width / 2) ** 2 <= (0.4 * width) ** 2
    path = write_picture((disc * np.uint8(255))[None], tmp_path / "a.dcm", patient_id="x")
    raw = PICTURES.decode(ENTRY, [dicom.edit(path, **elements).read_bytes()], [], None)
    assert raw.aspect == pytest.approx(aspect)
    row = PictureRecipe(40, 1, Fit.CROP).prepare(raw).rows[0, 0] > 127
    wide, high = (np.ptp(np.flatnonzero(row.any(axis=axis))) + 1 for axis in (0, 1))
    assert abs(int(wide) - int(high)) <= 1
    stretched = PictureRecipe(40, 1, Fit.STRETCH).prepare(raw).rows
    assert stretched.shape == (1, 1, 40, 40)


def test_the_librarys_colour_sample_has_its_aspect_and_a_mad_one_is_refused(dicom, tmp_path):
    try:
        content = sample("color-pl.dcm")
    except (OSError, TypeError):
        pytest.skip("pydicom-data is not installed")
    assert PICTURES.decode(ENTRY, [content], [], None).aspect == pytest.approx(4 / 3)
    path = dicom.picture(tmp_path, "a", "x", PixelSpacing=[1, 0.001])
    with pytest.raises(DataError, match="ten times as long"):
        PictureRecipe(40, 1).prepare(PICTURES.decode(ENTRY, [path.read_bytes()], [], None))
