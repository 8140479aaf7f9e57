"""Stored values against tifffile's, Pillow's and nibabel's own reading: depth, white as zero, stacks, EXIF, slopes."""

import gzip
import io

import numpy as np
import pytest
from PIL import Image

from wardround.errors import DataError
from wardround.images.decode.nifti import NIFTI
from wardround.images.decode.pillow import PILLOW, decode_in_thread
from wardround.images.entries import Entry
from wardround.images.rows.recipe import PictureRecipe

ENTRY = Entry("a", 0, "p")
NOISE = np.random.default_rng(6).integers(0, 65536, (6, 9)).astype(np.uint16)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def as_bytes(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(values, **options):
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_is_zero_is_the_negative_at_every_depth(byteorder, dtype, compression):
    values = NOISE.astype(dtype)
    negative = np.iinfo(dtype).max - values
    plain = tiff(values, photometric="minisblack", byteorder=byteorder, compression=compression)
    written = tiff(negative, photometric="miniswhite", byteorder=byteorder, compression=compression)
    np.testing.assert_array_equal(decode_in_thread(plain)[0], values)
    if (byteorder, dtype) == (">", np.uint16):  # Pillow has no such file: a sentence, and never the negative
        with pytest.raises(DataError, match="16 bits in big-endian order of which 0 is white"):
            decode_in_thread(written)
    else:
        np.testing.assert_array_equal(decode_in_thread(written)[0], values)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_signed_values_are_never_read_as_unsigned_ones(byteorder, dtype, compression):
    values = NOISE.astype(dtype)
    with pytest.raises(DataError, match=r"a fixed range of values|pixels that Pillow reads"):
        decode_in_thread(tiff(values, photometric="minisblack", byteorder=byteorder, compression=compression))


def test_a_tiff_that_declares_twelve_bits_reaches_white():
    ramp = np.linspace(0, 4095, 48).astype(np.uint16).reshape(4, 12)
    pairs = ramp.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").tobytes()
    content = b"".join(packed[k + 1 : k + 4] for k in range(0, len(packed), 4))
    header = b"II*\0\x08\0\0\0"
    tags = [(256, 12), (257, 4), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, 4),
            (279, len(content))]  # fmt: skip
    table = len(tags).to_bytes(2, "little") + b"".join(
        tag.to_bytes(2, "little")
        + (4).to_bytes(2, "little")
        + (1).to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, value in tags
    )
    found = decode_in_thread(header + table + bytes(4) + content)[0]
    np.testing.assert_array_equal(found >> 4, ramp)
    assert (found.min(), found.max()) == (0, 65535)


@pytest.mark.parametrize("pages", [2, 3, 30])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_stack_is_refused_with_its_number_of_pages(pages, dtype):
    with pytest.raises(DataError, match=f"one page, this file has {pages}"):
        decode_in_thread(tiff(np.zeros((pages, 6, 9), dtype), photometric="minisblack"))


def test_stacks_that_imagej_only_describes_and_moving_pngs_are_refused():
    described = tiff(NOISE, description="ImageJ=1.53\nimages=40\nslices=40\n", metadata=None)
    with pytest.raises(DataError, match="this file has 40"):
        decode_in_thread(described)
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 90)]
    with pytest.raises(DataError, match="this file has 2"):
        decode_in_thread(as_bytes(frames[0], save_all=True, append_images=frames[1:]))


def test_smaller_copies_and_a_telephones_second_picture_are_no_stack():
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(NOISE, photometric="minisblack")
        writer.write(NOISE[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(decode_in_thread(stream.getvalue())[0], NOISE)
    small, large = Image.new("RGB", (8, 8), 3), Image.new("RGB", (64, 64), (9, 9, 9))
    telephone = as_bytes(large, "MPO", save_all=True, append_images=[small])
    assert decode_in_thread(telephone).shape == (3, 64, 64)


def turned(shape, orientation, kind="PNG"):
    """A picture with one bright corner, and the mask of that corner, as stored."""
    values = np.zeros(shape, dtype=np.uint8)
    values[: shape[0] // 2, : shape[1] // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    return as_bytes(Image.fromarray(values), kind, exif=exif), values


def lies_on(picture, mask):
    raw = PILLOW.decode(ENTRY, [picture], [mask], None)
    assert raw.mask is not None
    return raw.values.shape[1:] == raw.mask.shape and np.array_equal(raw.values[0] > 127, raw.mask > 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(16, 24), (16, 16)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_a_mask_lies_on_a_turned_picture_or_is_refused(orientation, shape, kind):
    picture, values = turned(shape, orientation, kind)
    same, _ = turned(shape, orientation)
    raw_mask = as_bytes(Image.fromarray(values))
    assert lies_on(picture, same)  # both say how they are turned
    is_told = shape[0] != shape[1] and orientation >= 5
    if orientation == 1 or (is_told and kind != "TIFF"):  # Pillow has no TIFF as stored
        assert lies_on(picture, raw_mask)
    else:
        with pytest.raises(DataError, match="EXIF orientation of its picture"):
            lies_on(picture, raw_mask)
    if is_told:  # drawn on what a viewer shows
        shown = PILLOW.decode(ENTRY, [picture], [], None).values[0] > 127
        assert lies_on(picture, as_bytes(Image.fromarray(shown * np.uint8(255))))


def test_bits_say_what_is_white_and_a_brighter_value_is_no_clipping():
    twelve = (NOISE >> 4).astype(np.uint16)
    raw = PILLOW.decode(ENTRY, [as_bytes(Image.fromarray(twelve))], [], None)
    for bits in (12, 13, 16):
        made = PictureRecipe(6, 1, bits=bits).prepare(raw).rows[0, 0]
        expected = np.floor(twelve.astype(float)[:, 1:7] * 255 / (2**bits - 1) + 0.5)
        assert np.abs(made - expected).max() <= 1
    with pytest.raises(DataError, match=r"up to 1023 for bits = 10.*Correct \[data\] bits"):
        PictureRecipe(6, 1, bits=10).prepare(raw)
    eight = PILLOW.decode(ENTRY, [as_bytes(Image.fromarray((NOISE >> 8).astype(np.uint8)))], [], None)
    same = [PictureRecipe(6, 1, bits=bits).prepare(eight).rows.tobytes() for bits in (12, 16)]
    assert same[0] == same[1]
    for wrong in (8, 17):
        with pytest.raises(DataError, match="bits must lie between 9 and 16"):
            PictureRecipe(6, 1, bits=wrong)


def nifti(values, slope=None, intercept=0.0, kind="Nifti1Image"):
    nibabel = pytest.importorskip("nibabel")
    image = getattr(nibabel, kind)(values, AFFINE)
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    return gzip.compress(image.to_bytes())


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize(
    ("shape", "channels"),
    [((4, 5, 6), 1), ((4, 5, 6, 1), 1), ((4, 5, 6, 1, 1), 1), ((4, 5, 6, 1, 1, 1, 1), 1), ((4, 5, 6, 2, 1), 2),
     ((4, 5, 6, 1, 3), 3)],
)  # fmt: skip
def test_axes_of_length_one_are_none(shape, channels, kind):
    values = np.random.default_rng(1).integers(0, 900, shape).astype(np.int16)
    mask = np.zeros((*shape[:3], *(1 for _ in shape[3:])), np.uint8)
    raw = NIFTI.decode(ENTRY, [nifti(values, kind=kind)], [nifti(mask, kind=kind)], None)
    expected = np.moveaxis(values.reshape(4, 5, 6, channels), 3, 0)
    np.testing.assert_array_equal(raw.values, expected)
    assert raw.mask is not None
    assert raw.mask.shape == (4, 5, 6)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2, 3), (4, 5, 6, 1, 3, 2), (4, 5, 6, 65)])
def test_a_series_is_one_sentence(shape):
    with pytest.raises(DataError, match="axes x, y, z"):
        NIFTI.decode(ENTRY, [nifti(np.zeros(shape, np.int16))], [], None)


@pytest.mark.parametrize("classes", [2, 3, 6, 11])
def test_a_mask_that_a_library_scaled_has_its_labels(classes):
    nibabel = pytest.importorskip("nibabel")
    labels = np.random.default_rng(2).integers(0, classes, (4, 5, 6))
    labels.flat[:classes] = range(classes)
    image = nibabel.Nifti1Image(labels.astype(np.float32), AFFINE)
    image.set_data_dtype(np.uint8)  # the library finds the slope: the largest label over 255
    content = gzip.compress(image.to_bytes())
    stored = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    np.testing.assert_array_equal(np.rint(stored.get_fdata()), labels)
    raw = NIFTI.decode(ENTRY, [nifti(labels.astype(np.int16))], [content], None)
    np.testing.assert_array_equal(raw.mask, labels)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 0.0), (1.0, 0.25), (1.0, -1.0), (100.0, 0.0)])
def test_a_mask_whose_values_are_no_labels_is_refused(slope, intercept):
    stored = np.random.default_rng(2).integers(0, 4, (4, 5, 6)).astype(np.uint8)
    with pytest.raises(DataError, match="whole numbers from 0 to 255"):
        NIFTI.decode(ENTRY, [nifti(stored.astype(np.int16))], [nifti(stored, slope, intercept)], None)
