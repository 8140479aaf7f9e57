"""One file to one uint8 array, trusting nothing the file says.

Size is judged from the header before a pixel is decoded; a file that cannot be decoded to its end is an
error, never a half-grey picture. Pillow's settings are left alone: its own limits and `LOAD_TRUNCATED_IMAGES`
are global to the process and belong to its user.

16-bit greys are scaled from 0..65535 to 0..255 in every picture, so that two exposures stay
comparable; 12-bit data stored without scaling comes out dark. Transparent pixels become black.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from wardround.errors import DataError
from wardround.images.decode.raw import Hint, Mask, Raw
from wardround.images.entries import Entry

MAX_PIXELS = 50_000_000
"""A larger picture is refused. The largest mammograms have about 30 million pixels."""

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")

Picture = npt.NDArray[np.uint8]
"""One decoded picture, (channel, height, width) with one channel or three, 0..255."""

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
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip
"""Errors that Pillow's readers let through on damaged files."""


@contextmanager
def pillow_kept_quiet() -> Iterator[None]:
    """Holds back Pillow's warnings about odd headers.

    Python's warning filters are global: enter this once around a pool of threads, never inside them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_in_thread(data: bytes, *, least_side: int | None = None, is_grey: bool = False) -> Picture:
    """Returns one picture from the content of a file, upright; for threads under one `pillow_kept_quiet`.

    Args:
        data: the whole file.
        least_side: a JPEG may be decoded at a half, a quarter or an eighth as long as neither side gets
            shorter than this; None decodes every pixel.
        is_grey: the colours of a JPEG, which stores luminance by itself, are not decoded.

    Raises:
        DataError: not a picture in one of `FORMATS`, damaged, too large, or without a fixed range of values.
    """
    with _opened(data) as image:
        if least_side is not None or is_grey:
            # Pillow never goes below the size asked for.
            size = image.size if least_side is None else (least_side, least_side)
            image.draft("L" if is_grey else None, size)
        image.load()
        return _as_array(_upright(image), is_png=image.format == "PNG")


def decode_mask(data: bytes) -> Mask:
    """Returns the class of each pixel from the content of a file, (height, width), upright; for threads, as above.

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
        upright = _upright(image)
        classes = np.asarray(upright.convert("L") if image.mode == "1" else upright)
    is_black_and_white = image.mode != "P" and np.isin(classes, (0, 255)).all()
    return (classes > 0).astype(np.uint8) if is_black_and_white else classes.astype(np.uint8)


@dataclass(frozen=True)
class PillowDecoder:
    """JPEG, PNG, TIFF and BMP, one file a picture."""

    key: str = "files-2"

    def decode(self, entry: Entry, contents: Sequence[bytes], masks: Sequence[bytes], hint: Hint | None) -> Raw:
        """See `Decoder`. A picture with a mask is decoded whole, so that the two stay pixel on pixel."""
        hint = hint or Hint()
        least_side = None if masks else hint.least_side
        values = decode_in_thread(contents[0], least_side=least_side, is_grey=hint.is_grey)
        if not masks:
            return Raw(values)
        mask = decode_mask(masks[0])
        if mask.shape != values.shape[1:]:
            raise DataError(
                f"a mask must be as large as its picture, {values.shape[1:]}, got {mask.shape}. Replace one of them."
            )
        return Raw(values, mask)


PILLOW = PillowDecoder()


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(f"{image.width} x {image.height}")
            yield image
    except UnidentifiedImageError:
        raise DataError(f"a picture must be one of {', '.join(FORMATS)}; this file is none of them.") from None
    except Image.DecompressionBombError:
        raise _too_large("more pixels than Pillow opens") from None
    except _BROKEN as error:
        raise DataError(f"a picture must decode to its end; this one is damaged ({error}).") from error


def _too_large(came: str) -> DataError:
    return DataError(f"a picture must have at most {MAX_PIXELS:,} pixels, got {came}. Scale it down.")


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def _as_array(image: Image.Image, *, is_png: bool) -> Picture:
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and is_png):
        wide = np.asarray(image).astype(np.uint32)
        return ((wide * 255 + 32767) // 65535).astype(np.uint8)[None]
    if image.mode in ("I", "F"):
        raise DataError(
            f"a picture must have a fixed range of values, got mode {image.mode!r} whose range is open. "
            "Convert it to 8 or 16 bits."
        )
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        seen = Image.alpha_composite(Image.new("RGBA", solid.size, (0, 0, 0, 255)), solid).convert("RGB")
        image = seen.convert("L") if image.mode in _GREY else seen
    array = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
