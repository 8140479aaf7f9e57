"""NIfTI volumes from bytes: what nibabel reads, in RAS+, and nothing that a hostile header asks for."""

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.testing import data_path
from tests.cases import examples
from tests.images.nifti_files import nifti_bytes

from wardround.errors import DataError
from wardround.images.decode import nifti
from wardround.images.decode.nifti import NIFTI, read_nifti
from wardround.images.entries import Entry
from wardround.images.rows.recipe import VolumeRecipe

ENTRY = Entry("a.nii.gz", 0, "a")
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def volume(shape=(4, 5, 6), seed=0):
    return np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)


@given(
    st.permutations([0, 1, 2]),
    st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3),
    st.lists(st.floats(0.3, 5.0), min_size=3, max_size=3),
)
@examples(40)
def test_a_voxel_keeps_its_place_in_the_body_whatever_the_axes_of_the_file(order, signs, spacing):
    affine = np.zeros((4, 4))
    for column, axis in enumerate(order):
        affine[axis, column] = signs[column] * spacing[column]
    affine[:, 3] = [7, -8, 9, 1]
    values = volume()
    read, placed, _ = read_nifti(nifti_bytes(values, affine))
    assert nibabel.aff2axcodes(placed) == ("R", "A", "S")
    for voxel in ((0, 0, 0), (3, 4, 5), (1, 2, 3)):
        where = affine @ [*voxel, 1]
        found = np.rint(np.linalg.inv(placed) @ where).astype(int)[:3]
        assert read[(0, *found)] == values[voxel]
    np.testing.assert_allclose(sorted(np.linalg.norm(placed[:3, :3], axis=0)), sorted(spacing), rtol=1e-5)


def test_a_file_reads_as_the_library_reads_it_with_its_own_scaling():
    image = nibabel.Nifti1Image(volume(), AFFINE)
    image.header.set_slope_inter(0.5, -3)
    read, _, _ = read_nifti(image.to_bytes())
    again = nibabel.Nifti1Image.from_bytes(image.to_bytes())
    np.testing.assert_array_equal(read[0], again.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(read[0], volume() * 0.5 - 3)


@pytest.mark.parametrize(("unit", "mm"), [("unknown", 1.0), ("mm", 1.0), ("meter", 1000.0), ("micron", 0.001)])
def test_spacing_is_in_millimetres_in_any_unit_of_the_file(unit, mm, tmp_path):
    image = nibabel.Nifti1Image(volume(), np.diag([0.5, 2.0, 0.25, 1.0]) @ AFFINE / [[mm], [mm], [mm], [1.0]])
    image.header.set_xyzt_units(unit, "sec")
    data = image.to_bytes()
    (tmp_path / "a.nii").write_bytes(data)
    np.testing.assert_allclose(read_nifti(data)[1], np.diag([0.5, 4.0, 0.75, 1.0]), rtol=1e-6)
    assert nifti.spacing_of(tmp_path / "a.nii") == pytest.approx((0.5, 4.0, 0.75))
    assert NIFTI.extent(ENTRY, [data], len(data)).voxel_mm3 == pytest.approx(1.5)


def test_the_librarys_own_sample_reads_right():
    path = Path(str(data_path)) / "example4d.nii.gz"
    image: Any = nibabel.as_closest_canonical(nibabel.load(path))
    read, affine, _ = read_nifti(path.read_bytes())
    assert read.shape == (2, 128, 96, 24)
    np.testing.assert_allclose(affine, image.affine)
    np.testing.assert_array_equal(read, np.moveaxis(image.get_fdata(dtype=np.float32), 3, 0))


def test_four_channels_come_first_and_two_versions_of_the_format_are_one():
    values = volume((3, 4, 5, 4))
    first = read_nifti(nibabel.Nifti1Image(values, AFFINE).to_bytes())
    second = read_nifti(gzip.compress(nibabel.Nifti2Image(values, AFFINE).to_bytes()))
    np.testing.assert_array_equal(first[0], np.moveaxis(values, 3, 0))
    np.testing.assert_array_equal(first[0], second[0])


def test_what_is_no_number_becomes_the_smallest_one():
    values = np.array([[[np.nan, 2.0], [np.inf, -4.0]]], dtype=np.float32)
    read, _, _ = read_nifti(nifti_bytes(values, AFFINE))
    assert read.ravel().tolist() == [-4.0, 2.0, -4.0, -4.0]


def test_what_is_no_number_is_black_and_outside_of_percentiles():
    values = volume().astype(np.float32) + 2000
    outside = np.zeros(values.shape, dtype=np.bool_)
    outside[:2], outside[3, 4] = True, True
    raw = NIFTI.decode(ENTRY, [nifti_bytes(np.where(outside, np.nan, values), AFFINE)], [], None)
    for window in ((1000.0, 3000.0), None):
        levels = VolumeRecipe(values.shape, window=window).prepare(raw).rows[0, 0]
        low, high = window or np.percentile(values[~outside], (0.5, 99.5))
        expected = np.clip(np.rint((values - low) * 255 / (high - low)), 0, 255)
        np.testing.assert_array_equal(levels, np.where(outside, 0, expected))
    other = np.where(outside & (values > 2000), np.inf, values)  # a voxel that one channel has measured is none
    both = NIFTI.decode(
        ENTRY, [nifti_bytes(np.where(outside, np.nan, values), AFFINE), nifti_bytes(other, AFFINE)], [], None
    )
    np.testing.assert_array_equal(both.padding, outside & (values > 2000))


def test_a_mask_must_lie_on_its_volume():
    values, mask = volume(), (volume() > 0).astype(np.uint8)
    raw = NIFTI.decode(ENTRY, [nifti_bytes(values, AFFINE)], [nifti_bytes(mask, AFFINE)], None)
    np.testing.assert_array_equal(raw.mask, mask)
    for wrong, affine in ((mask[:3], AFFINE), (mask, np.diag([1.0, 2.0, 4.0, 1.0]))):
        with pytest.raises(DataError, match="must lie on its volume's grid"):
            NIFTI.decode(ENTRY, [nifti_bytes(values, AFFINE)], [nifti_bytes(wrong, affine)], None)
    with pytest.raises(DataError, match="whole numbers from 0 to 255"):
        NIFTI.decode(ENTRY, [nifti_bytes(values, AFFINE)], [nifti_bytes(mask * np.float32(0.5), AFFINE)], None)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32]
)
@pytest.mark.parametrize("flip", [1, -1])
def test_a_mask_of_any_type_has_the_classes_of_its_floats(dtype, flip):
    affine = np.diag([flip * 1.0, 2.0, 3.0, 1.0])
    mask = np.random.default_rng(3).integers(0, 100, (4, 5, 6)).astype(dtype)
    data = nibabel.Nifti1Image(mask, affine, dtype=dtype).to_bytes()
    raw = NIFTI.decode(ENTRY, [nifti_bytes(volume(), affine)], [data], None)
    np.testing.assert_array_equal(raw.mask, read_nifti(data)[0][0])
    assert raw.mask is not None
    assert raw.mask.dtype == np.uint8
    assert raw.mask.flags.c_contiguous


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(-1, np.int8), (256, np.int16), (2**31 + 1, np.uint32), (-(2**40), np.int64), (256, np.float32)],
)
def test_a_class_that_a_byte_does_not_hold_is_refused_in_any_type(value, dtype):
    mask = np.zeros((4, 5, 6), dtype=dtype)
    mask[3, 4, 5] = value
    data = nibabel.Nifti1Image(mask, AFFINE, dtype=dtype).to_bytes()
    with pytest.raises(DataError, match="whole numbers from 0 to 255"):
        NIFTI.decode(ENTRY, [nifti_bytes(volume(), AFFINE)], [data], None)


def test_a_mask_with_a_scale_has_scaled_classes():
    image = nibabel.Nifti1Image((volume() > 0).astype(np.uint8), AFFINE)
    image.header.set_slope_inter(2, 1)
    raw = NIFTI.decode(ENTRY, [nifti_bytes(volume(), AFFINE)], [image.to_bytes()], None)
    np.testing.assert_array_equal(raw.mask, 1 + 2 * (volume() > 0))


@pytest.mark.parametrize(
    ("dtype", "slope", "kept"), [(np.int16, 1, np.int16), (np.int16, 2, np.float32), (np.float64, 1, np.float32)]
)
def test_a_mask_takes_no_more_memory_than_a_volume(dtype, slope, kept):
    """The room that a file is given counts four bytes a voxel."""
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), dtype), AFFINE)
    image.header.set_slope_inter(slope, 0)
    assert nifti._read(image.to_bytes(), is_mask=True)[0].dtype == kept


def with_header(**fields):
    data = bytearray(nibabel.Nifti1Image(volume(), AFFINE).to_bytes())
    header = np.frombuffer(data, dtype=nibabel.nifti1.header_dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no volume",
        b"\x1f\x8b damaged",
        with_header(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]),
        with_header(dim=[3, -4, 5, 6, 1, 1, 1, 1]),
        with_header(dim=[5, 4, 5, 6, 1, 2, 1, 1]),
        with_header(vox_offset=-400),
        with_header(vox_offset=np.nan),
        with_header(magic=b"ni1"),
        with_header(datatype=128),
        with_header(datatype=9999),
        with_header(srow_x=0, srow_y=0, srow_z=0, sform_code=1),
    ],
)
def test_a_file_that_is_none_or_lies_about_itself_is_one_sentence(data):
    with pytest.raises(DataError, match="must"):
        read_nifti(data)


def test_a_file_that_unpacks_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(nifti, "_MOST_BEHIND", 1000)
    whole = nibabel.Nifti1Image(volume(), AFFINE).to_bytes()
    assert read_nifti(gzip.compress(whole + bytes(1000)))[0].shape == read_nifti(whole)[0].shape
    with pytest.raises(DataError, match="must end where its header says"):
        read_nifti(gzip.compress(whole + bytes(5_000_000)))
    monkeypatch.setattr(nifti, "MAX_VOXELS", 50)
    with pytest.raises(DataError, match="at most 50 voxels, got 120"):
        read_nifti(whole)


def test_a_file_that_was_packed_in_pieces_is_one_file_and_what_follows_it_is_read_to_its_end():
    whole = nibabel.Nifti1Image(volume(), AFFINE).to_bytes()
    torn = bytearray(gzip.compress(b"more"))
    torn[-8] ^= 1
    for end in (b"", bytes(9), gzip.compress(b"more")):
        for packed in (gzip.compress(whole), gzip.compress(whole[:400]) + bytes(3) + gzip.compress(whole[400:])):
            np.testing.assert_array_equal(read_nifti(packed + end)[0], read_nifti(whole)[0])
            for bad in (b"no member", bytes(torn)):
                with pytest.raises(DataError, match="unpack to its end"):
                    read_nifti(packed + end + bad)


def test_a_checksum_behind_the_voxels_is_compared():
    packed = bytearray(gzip.compress(nibabel.Nifti1Image(volume(), AFFINE).to_bytes()))
    packed[-8] ^= 1
    with pytest.raises(DataError, match="damaged"):
        read_nifti(bytes(packed))


def test_the_extent_is_that_of_the_volume_and_its_mask():
    data = nifti_bytes(np.zeros((1, 4, 5, 6), np.int16), AFFINE)
    extent = NIFTI.extent(ENTRY, [data[:200], data], len(data))
    assert extent.values == 240
    assert extent.voxel_mm3 == pytest.approx(6)
    assert NIFTI.extent(ENTRY, [b"no volume"], 9).values == 0


def test_damaged_files_are_refused_or_read_and_nothing_else():
    whole = nibabel.Nifti1Image(volume(), AFFINE).to_bytes()
    packed = gzip.compress(whole)
    generator = np.random.default_rng(1)
    for number in range(300):
        data = bytearray(packed if number % 3 == 0 else whole)
        for _ in range(int(generator.integers(1, 12))):
            data[int(generator.integers(0, min(len(data), 400)))] = int(generator.integers(0, 256))
        if number % 5 == 0:
            del data[int(generator.integers(0, len(data))) :]
        try:
            values, affine, _ = read_nifti(bytes(data))
        except DataError:
            continue
        assert values.ndim == 4
        assert np.isfinite(values).all()
        assert np.isfinite(affine).all()
