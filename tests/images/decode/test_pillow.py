"""One file to one array, whatever the file holds."""

import contextlib
import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile
from tests.images.png_files import png_claiming

from wardround.errors import DataError
from wardround.images.decode import pillow
from wardround.images.decode.pillow import decode_in_thread
from wardround.images.decode.quiet import QUIET
from wardround.images.rows.recipe import of_eight_bits

SHADES = np.arange(4 * 5, dtype=np.uint8).reshape(4, 5) * 10


def decode(data, **options):
    with QUIET:
        return of_eight_bits(decode_in_thread(data, **options), 16)


def as_bytes(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_a_grey_picture_has_one_channel_and_keeps_its_values():
    np.testing.assert_array_equal(decode(as_bytes(Image.fromarray(SHADES))), SHADES[None])


def test_a_colour_picture_has_three_channels_in_front():
    colours = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(decode(as_bytes(Image.fromarray(colours))), colours.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("mode", "kind", "channels"),
    [
        ("1", "PNG", 1),
        ("L", "JPEG", 1),
        ("LA", "PNG", 1),
        ("RGB", "JPEG", 3),
        ("RGBA", "PNG", 3),
        ("P", "PNG", 3),
        ("CMYK", "JPEG", 3),
        ("YCbCr", "JPEG", 3),
        ("RGB", "BMP", 3),
        ("CMYK", "TIFF", 3),
    ],
)
def test_every_mode_becomes_one_or_three_channels_of_bytes(mode, kind, channels):
    picture = decode(as_bytes(Image.new("RGB", (5, 4), (200, 200, 200)).convert(mode), kind))
    assert picture.shape == (channels, 4, 5)
    assert picture.dtype == np.uint8
    if mode != "1":
        assert abs(picture.astype(int) - 200).max() <= 6  # JPEG and the palette round a little


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_by_the_full_range(kind):
    wide = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(decode(as_bytes(Image.fromarray(wide), kind)), [[[0, 1, 128, 255]]])


def test_sixteen_bits_stay_comparable_between_a_dark_and_a_bright_picture():
    dark = decode(as_bytes(Image.fromarray(np.full((2, 2), 4095, dtype=np.uint16))))
    assert dark.max() == 16


@pytest.mark.parametrize("mode", ["F", "I"])
def test_a_mode_without_a_fixed_range_is_refused(mode):
    with pytest.raises(DataError, match="fixed range"):
        decode(as_bytes(Image.new(mode, (3, 2)), "TIFF"))


def test_transparent_pixels_become_black_whatever_colour_hides_below():
    hidden = np.full((2, 2, 4), 255, dtype=np.uint8)
    hidden[0, :, 3] = 0
    picture = decode(as_bytes(Image.fromarray(hidden)))
    assert picture[:, 0].max() == 0
    assert picture[:, 1].min() == 255


def test_a_transparent_palette_colour_becomes_black():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 255, 255, 9, 9, 9])
    assert decode(as_bytes(image, transparency=0)).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_pictures_are_turned_upright(orientation, deep):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = SHADES.astype(np.uint16) * 257 if deep else SHADES
    expected = {
        1: SHADES,
        2: SHADES[:, ::-1],
        3: SHADES[::-1, ::-1],
        4: SHADES[::-1],
        5: SHADES.T,
        6: np.rot90(SHADES, -1),
        7: SHADES[::-1, ::-1].T,
        8: np.rot90(SHADES),
    }
    turned = decode(as_bytes(Image.fromarray(stored), exif=exif))
    np.testing.assert_array_equal(turned[0], expected[orientation])


def test_a_huge_picture_is_refused_from_its_header():
    with pytest.raises(DataError, match="at most 50,000,000 pixels"):
        decode(png_claiming(60_000, 60_000))


def test_a_picture_over_our_limit_and_under_pillows_is_refused_as_well():
    with pytest.raises(DataError, match="got 8000 x 7000"):
        decode(png_claiming(8_000, 7_000))


def test_a_picture_that_pillow_only_warns_about_raises_no_warning():
    with pytest.raises(DataError, match="got 10000 x 10000"):
        decode(png_claiming(10_000, 10_000))


def test_a_truncated_jpeg_is_an_error_and_no_half_grey_picture():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    whole = as_bytes(Image.fromarray(noise), "JPEG")
    with pytest.raises(DataError, match="decode to its end"):
        decode(whole[: len(whole) // 2])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_no_damage_gets_past_the_one_exception(kind, monkeypatch):
    monkeypatch.setattr(pillow, "MAX_PIXELS", 100_000)
    generator = np.random.default_rng(1)
    whole = as_bytes(Image.fromarray(generator.integers(0, 256, (24, 31, 3), dtype=np.uint8)), kind)
    for _ in range(150):
        damaged = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        for place in generator.integers(0, len(damaged), 4):
            damaged[place] = generator.integers(0, 256)
        with contextlib.suppress(DataError):
            assert decode(bytes(damaged)).shape[0] in (1, 3)


@pytest.mark.parametrize("data", [b"", b"patient,label\n", b"GIF89a" + bytes(40), b"%PDF-1.4"])
def test_what_is_no_picture_is_refused_with_the_formats_named(data):
    with pytest.raises(DataError, match="JPEG, PNG, TIFF, BMP"):
        decode(data)


def test_a_broken_exif_block_gives_the_picture_and_no_warning():
    data = as_bytes(Image.fromarray(SHADES), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert decode(data).shape == (1, 4, 5)


def test_pillows_settings_and_the_warning_filters_stay_as_they_were():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    decode(as_bytes(Image.fromarray(SHADES)))
    with pytest.raises(DataError):
        decode(b"nothing")
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


def test_a_large_jpeg_may_be_decoded_smaller_but_never_below_the_side_asked_for():
    data = as_bytes(Image.new("L", (640, 480), 90), "JPEG")
    assert decode(data).shape == (1, 480, 640)
    assert decode(data, least_side=100).shape == (1, 120, 160)
    assert decode(data, least_side=480).shape == (1, 480, 640)
