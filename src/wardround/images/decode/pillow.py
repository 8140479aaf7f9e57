"""One file to one uint8 array, trusting nothing the file says.

Size is judged from the header before a pixel is decoded; a file that cannot be decoded to its end is an
error, never a half-grey picture. Pillow's settings are left alone: its own limits and `LOAD_TRUNCATED_IMAGES`
are global to the process and belong to its user.

16-bit greys stay 0..65535, and the recipe scales all of them alike, so that two exposures stay comparable; a TIFF
that declares 12 bits is brought to that range. Transparent pixels become black.

A picture with a mask is turned by its EXIF orientation only together with its mask: where the two have another
orientation, their sizes must tell which of them was drawn on which, or they are refused.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from wardround.errors import DataError
from wardround.images.decode.jpeg import size_of_jpeg
from wardround.images.decode.raw import Decoder, Extent, Hint, Mask, Raw
from wardround.images.entries import Entry

MAX_PIXELS = 50_000_000
"""A larger picture is refused. The largest mammograms have about 30 million pixels."""

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")

Picture = npt.NDArray[np.uint8]
"""One decoded picture, (channel, height, width) with one channel or three, 0..255."""

Decoded = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""As `Picture`, or of 16 bits: one channel, 0..65535."""

_MOST_PAGES = 10_000
_GREY = ("1", "L", "LA", "La")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_JPEG_MARK = b"\xff\xd8\xff"
_TIFF_MARKS = (b"II*\0", b"MM\0*")
_PHOTOMETRIC, _BITS, _DESCRIPTION, _KIND, _SAMPLE_FORMAT = 262, 258, 270, 254, 339
"""Tags of TIFF: PhotometricInterpretation (0 for MinIsWhite), BitsPerSample, ImageDescription, NewSubfileType, and
SampleFormat (2 for signed numbers)."""

_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip
"""Errors that Pillow's readers let through on damaged files."""


def decode_in_thread(
    data: bytes, *, least_side: int | None = None, is_grey: bool = False, is_upright: bool = True
) -> Decoded:
    """Returns one picture from the content of a file; for threads within `decode.quiet.QUIET`.

    Args:
        data: the whole file.
        least_side: a JPEG may be decoded at a half, a quarter or an eighth as long as neither side gets
            shorter than this; None decodes every pixel.
        is_grey: the colours of a JPEG, which stores luminance by itself, are not decoded.
        is_upright: turned as its EXIF orientation says.

    Raises:
        DataError: not a picture in one of `FORMATS`, damaged, too large, a stack, or without a fixed range of values.
    """
    with _opened(data) as image:
        if least_side is not None or is_grey:
            # Pillow never goes below the size asked for.
            size = image.size if least_side is None else (least_side, least_side)
            image.draft("L" if is_grey else None, size)
        image.load()
        if _tag(image, _SAMPLE_FORMAT) == 2:
            raise _open_range("signed numbers")  # Pillow takes those of 8 bits for unsigned ones
        array = _as_array(_upright(image) if is_upright else image, is_png=image.format == "PNG")
        is_deep_tiff = image.format == "TIFF" and array.dtype == np.uint16
        return _of_tiff(np.asarray(array, dtype=np.uint16), image) if is_deep_tiff else array


def decode_mask(data: bytes, *, is_upright: bool) -> Mask:
    """Returns the class of each pixel from the content of a file, (height, width); for threads, as above.

    A palette's numbers are the classes, in any colours; a picture of 0 and 255 alone is background and class 1.

    Raises:
        DataError: as `decode`, or a picture in colour, whose colours have no known meaning.
    """
    with _opened(data) as image:
        image.load()
        if image.mode not in ("1", "L", "P"):
            raise DataError(
                f"a mask must be one number a pixel (grey or with a palette), got mode {image.mode!r}. "
                "Save it as an 8-bit grey PNG whose values are the classes."
            )
        upright = _upright(image) if is_upright else image
        classes = np.asarray(upright.convert("L") if image.mode == "1" else upright)
    is_black_and_white = image.mode != "P" and np.isin(classes, (0, 255)).all()
    return (classes > 0).astype(np.uint8) if is_black_and_white else classes.astype(np.uint8)


@dataclass(frozen=True)
class PillowDecoder(Decoder):
    """JPEG, PNG, TIFF and BMP, one file a picture."""

    key: str = "files-4"

    def extent(self, entry: Entry, heads: Sequence[bytes], num_bytes: int) -> Extent:
        """See `Decoder`."""
        del entry, num_bytes
        return Extent(_most_values(heads[0]))

    def decode(self, entry: Entry, contents: Sequence[bytes], masks: Sequence[bytes], hint: Hint | None) -> Raw:
        """See `Decoder`. A picture with a mask is decoded whole, so that the two stay pixel on pixel."""
        hint = hint or Hint()
        least_side = None if masks else hint.least_side
        is_upright = not masks or _are_turned(contents[0], masks[0])
        values = decode_in_thread(contents[0], least_side=least_side, is_grey=hint.is_grey, is_upright=is_upright)
        return Raw(values, decode_mask(masks[0], is_upright=is_upright) if masks else None)


PILLOW = PillowDecoder()


def _most_values(head: bytes) -> int:
    """Returns the values of a picture by its first bytes: the most that are decoded where these do not tell."""
    if head.startswith(_JPEG_MARK) and (size := size_of_jpeg(head)) is not None:
        height, width, bands = size
        return min(height * width, MAX_PIXELS) * bands
    try:
        with Image.open(io.BytesIO(head), formats=FORMATS) as image:
            return min(image.width * image.height, MAX_PIXELS) * len(image.getbands())
    except (*_BROKEN, Image.DecompressionBombError):
        return MAX_PIXELS  # a TIFF has its size behind its pixels


def _are_turned(picture: bytes, mask: bytes) -> bool:
    """Returns True where picture and mask lie on each other once both are upright, False where they do as stored.

    Raises:
        DataError: neither, or both ways fit and give another result.
    """
    turns, stored, upright = [], [], []
    can_be_stored = True
    for data in (picture, mask):
        with _opened(data) as image:
            turn = image.getexif().get(_ORIENTATION, 1)
            other = image.size[::-1] if turn in _TURNS and turn >= 5 else image.size
            turns.append(turn)
            is_tiff = (
                image.format == "TIFF"
            )  # which Pillow turns by itself: its size is that of the upright picture
            stored.append(other if is_tiff else image.size)
            upright.append(image.size if is_tiff else other)
            can_be_stored &= not (is_tiff and turn in _TURNS)
    fits_stored, fits_upright = stored[0] == stored[1], upright[0] == upright[1]
    if not fits_stored and not fits_upright:
        (wide, high), (across, down) = upright
        raise DataError(
            f"a mask must be as large as its picture, {(high, wide)}, got {(down, across)}. Replace one of them."
        )
    if fits_stored and (turns[0] != turns[1] if fits_upright else not can_be_stored):
        raise DataError(
            f"a mask must have the EXIF orientation of its picture, {turns[0]}, got {turns[1]}: it may be drawn on the "
            "picture as stored or as shown. Save both without an orientation."
        )
    return fits_upright


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(f"{image.width} x {image.height}")
            if (pages := _pages(image)) > 1:
                raise DataError(
                    f"a picture must be one page, this file has {pages}. Save each page as a file of its own, or the "
                    "stack as a NIfTI volume."
                )
            yield image
    except UnidentifiedImageError:
        if data[:4] in _TIFF_MARKS:
            raise DataError(
                "a TIFF must have pixels that Pillow reads, this one has not, such as 16 bits in big-endian order of "
                "which 0 is white. Save it again as PNG."
            ) from None
        raise DataError(f"a picture must be one of {', '.join(FORMATS)}; this file is none of them.") from None
    except Image.DecompressionBombError:
        raise _too_large("more pixels than Pillow opens") from None
    except _BROKEN as error:
        raise DataError(f"a picture must decode to its end; this one is damaged ({error}).") from error


def _too_large(came: str) -> DataError:
    return DataError(f"a picture must have at most {MAX_PIXELS:,} pixels, got {came}. Scale it down.")


def _open_range(came: str) -> DataError:
    return DataError(
        f"a picture must have a fixed range of values, got {came} whose range is open. Convert it to 8 or 16 bits."
    )


def _pages(image: Image.Image) -> int:
    """Returns the number of pictures in a TIFF or PNG; smaller copies and masks of one are none.

    ImageJ describes more than it lists where a stack is long.
    """
    if image.format not in ("TIFF", "PNG"):  # a JPEG of a telephone has a second picture for its screen
        return 1
    frames = getattr(image, "n_frames", 1)
    if image.format == "PNG":
        return int(frames)
    described = re.match(r"ImageJ=[^\n]*\nimages=(\d{1,9})\b", str(_tag(image, _DESCRIPTION) or ""))
    pages = 0
    for frame in range(min(frames, _MOST_PAGES)):
        image.seek(frame)
        pages += not int(_tag(image, _KIND) or 0) & 0b101
    image.seek(0)
    return max(pages, int(described[1]) if described else 1)


def _tag(image: Image.Image, tag: int) -> Any:
    tags = getattr(image, "tag_v2", {})
    value = tags.get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def _of_tiff(values: npt.NDArray[np.uint16], image: Image.Image) -> npt.NDArray[np.uint16]:
    """Returns 16-bit greys over the whole range, white the highest; Pillow does so for 8 bits only."""
    if _tag(image, _BITS) == 12:
        values = (values * np.uint16(16)) | (values // np.uint16(256))
    return np.uint16(65535) - values if _tag(image, _PHOTOMETRIC) == 0 else values


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def _as_array(image: Image.Image, *, is_png: bool) -> Decoded:
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and is_png):
        return np.asarray(image).astype(np.uint16)[None]
    if image.mode in ("I", "F"):
        raise _open_range(f"mode {image.mode!r}")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        seen = Image.alpha_composite(Image.new("RGBA", solid.size, (0, 0, 0, 255)), solid).convert("RGB")
        image = seen.convert("L") if image.mode in _GREY else seen
    mode = "L" if image.mode in _GREY else "RGB"
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
