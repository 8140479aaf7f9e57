"""Stored pixels to pictures and physical values.

A picture (X-ray, mammography, ultrasound ...) goes through the modality look-up table or rescaling, then through its
first VOI look-up table or window, to 0..255; MONOCHROME1 is inverted, colours become RGB. Without a window, pictures
of 8 bits are taken as they are, and others run from the smallest to the largest value of the picture itself, so
that two exposures are not comparable. What the header calls padding becomes black, and so does everything outside the
regions of an ultrasound picture, where names are written.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.images.decode.pillow import MAX_PIXELS, Picture
from wardround.images.dicom.codestream import RLE, check_frames
from wardround.images.dicom.parse import UNCOMPRESSED
from wardround.images.dicom.values import (
    first_with,
    grouped,
    groups_of,
    items,
    num_frames,
    numbers,
    text,
    value_of,
    whole_number,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_VOXELS = 400_000_000
"""A series with more is refused; 1,500 slices of 512 x 512 have as many."""

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_CELLS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_Array = npt.NDArray[Any]
_Physical = npt.NDArray[np.float64]


def stored(found: "Dataset", frame: int | None = None) -> _Array:
    """Returns decoded pixels, (rows, columns[, 3]) of one frame, or (frames, rows, columns) of all; not to be written.

    Of a cell only the bits up to HighBit are read, BitsStored of them. Source: DICOM PS3.5 8.1.1.

    Raises:
        DataError: more pixels than are decoded, a compressed frame of another size than the header's, or bits that
            do not lie in their cell.
    """
    frames = num_frames(found)
    rows, columns = whole_number(found, "Rows", 0), whole_number(found, "Columns", 0)
    check_size(rows, columns, 1 if frame is not None else frames)
    if whole_number(found, "SamplesPerPixel", 1) not in (1, 3):
        raise DataError("a picture must have one sample a pixel or three, this one has not. Leave it out.")
    if frame is not None and not 0 <= frame < frames:
        raise DataError("a file must have the frame that is read, this one has fewer. Restore the file.")
    pixels = _viewed(found, frame, frames)
    if pixels is None:
        pixels = _decoded(found, frame)
    if frame is None and frames == 1:
        pixels = pixels[None]
    expected = (rows, columns) if frame is not None else (frames, rows, columns)
    if pixels.shape not in (expected, (*expected, 3)):
        raise DataError(
            "a file must hold the pixels that its header promises, this one does not. Restore the file."
        )
    return pixels


def _viewed(found: "Dataset", frame: int | None, frames: int) -> _Array | None:
    """Returns uncompressed grey pixels as `_decoded` does, mostly a view of the file; None of others, and in doubt.

    pydicom asks the header for everything once more, which takes longer than to copy the pixels.
    """
    numbers = [value_of(found, keyword) for keyword in _CELLS]
    if str(found.file_meta.TransferSyntaxUID) not in UNCOMPRESSED or any(
        type(number) is not int for number in numbers
    ):
        return None
    rows, columns, samples, cell, bits, high, sign = numbers
    data, kind = value_of(found, "PixelData"), value_of(found, "PhotometricInterpretation")
    num_bytes = rows * columns * frames * cell // 8
    is_usual = (
        samples == 1 and cell in (8, 16) and 0 < bits == high + 1 <= cell and sign in (0, 1) and kind in _GREY
    )
    if not is_usual or type(data) is not bytes or len(data) != num_bytes + num_bytes % 2:
        return None
    if any(value_of(found, keyword) is not None for keyword in ("FloatPixelData", "DoubleFloatPixelData")):
        return None
    if not isinstance(
        value_of(found, "NumberOfFrames"), int | None
    ):  # of several numbers pydicom says what is wrong
        return None
    pixels: _Array = np.frombuffer(data, f"<{'ui'[sign]}{cell // 8}", num_bytes * 8 // cell)
    pixels = pixels.reshape(frames, rows, columns)
    if frames == 1 or frame is not None:
        pixels = pixels[frame or 0]
    return pixels if bits == cell else (pixels << (cell - bits)) >> (cell - bits)


def _decoded(found: "Dataset", frame: int | None) -> _Array:
    """Returns pixels as pydicom decodes them, (rows, columns[, 3]) of one frame or of the only one, else of all."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    syntax = found.file_meta.TransferSyntaxUID
    plugin = ""
    if syntax.is_encapsulated:
        check_frames(found, str(syntax), frame)
        if str(syntax) == RLE and "pylibjpeg" in get_decoder(syntax).available_plugins:
            plugin = "pylibjpeg"  # pydicom's own decoder, which is asked next, makes room for all that is claimed
    has_cells = not syntax.is_encapsulated or str(syntax) == RLE  # other codestreams hold numbers, not cells
    with _whole_cells(found, is_wanted=has_cells) as (above, below):
        pixels: _Array = pixel_array(found, index=frame, decoding_plugin=plugin, view_only=True)
    return (pixels << above) >> (above + below) if above or below else pixels


@contextmanager
def _whole_cells(found: "Dataset", *, is_wanted: bool) -> Iterator[tuple[int, int]]:
    """Gives the unused bits above and below the value in each cell, where some are below; else (0, 0).

    pydicom reads the lowest BitsStored bits and ignores HighBit, so within the block it is told to read all of them.
    """
    cell, bits = whole_number(found, "BitsAllocated", 0), whole_number(found, "BitsStored", 0)
    high = whole_number(found, "HighBit", bits - 1)
    if not is_wanted or high == bits - 1:
        yield 0, 0
        return
    if not bits - 1 < high < cell:
        raise DataError(
            "a header must have a HighBit from BitsStored - 1 to BitsAllocated - 1, this one has not. Correct it."
        )
    found.BitsStored = cell
    try:
        yield cell - 1 - high, high - bits + 1
    finally:
        found.BitsStored = bits


def check_size(rows: int, columns: int, frames: int) -> None:
    """Raises `DataError` where a picture, or a volume, has more pixels than are decoded."""
    if min(rows, columns) < 1 or rows * columns > MAX_PIXELS or rows * columns * frames > MAX_VOXELS:
        raise DataError(
            f"a picture must have 1 to {MAX_PIXELS:,} pixels and a volume at most {MAX_VOXELS:,}, this has more or "
            "none. Leave it out."
        )


def picture_of(found: "Dataset", frame: int) -> Picture:
    """Returns one frame as a picture, uint8 (channel, rows, columns)."""
    kind = text(found, "PhotometricInterpretation")
    pixels = stored(found, frame)
    if kind in _GREY and pixels.ndim == 2:
        picture = _grey(pixels, found, groups_of(found, frame), is_inverted=kind == "MONOCHROME1")[None]
    elif kind == "PALETTE COLOR" and pixels.ndim == 2:
        picture = _coloured(_through_palette(pixels, found))
    elif kind in _COLOUR and pixels.ndim == 3:
        picture = _coloured(_eight_bits(pixels, whole_number(found, "BitsStored", 8)))
    else:
        raise DataError("a picture must be grey, RGB, YBR or of palette colours, this one is not. Leave it out.")
    return _regions_only(picture, found)


def aspect_of(found: "Dataset", frame: int) -> float:
    """Returns the height of a pixel by its width, 1 where the header says nothing. Source: DICOM PS3.3 C.7.6.3.1.7."""
    groups = groups_of(found, frame)
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        place, sides = first_with(groups, keyword), None
        with suppress(ValueError, TypeError):  # a spacing that is no number says nothing
            sides = None if place is None else numbers(place, keyword)
        if sides and len(sides) == 2 and min(sides) > 0:
            return sides[0] / sides[1]
    return 1.0


def physical_of(found: "Dataset") -> list[npt.NDArray[np.float32]]:
    """Returns every frame in physical units (Hounsfield, activity, the scanner's own), float32 (rows, columns).

    What the header calls padding is NaN.
    """
    if text(found, "PhotometricInterpretation") not in _GREY or (frames := stored(found)).ndim != 3:
        raise DataError("a volume must be made of grey slices, this one is not. Leave it out.")
    made = [
        _rescaled(pixels, groups).astype(np.float32) for pixels, groups in zip(frames, grouped(found), strict=True)
    ]
    for values, pixels in zip(made, frames, strict=True):
        values[_padding(pixels, found)] = np.nan
    return made


def windowed(values: _Physical, center: float, width: float, function: str) -> _Physical:
    """Values through a window, 0..1. Source: DICOM PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3 (SIGMOID, LINEAR_EXACT).

    >>> windowed(np.array([-160.0, 40.0, 240.0]), 40, 401, "LINEAR").round(3)
    array([0.001, 0.501, 1.   ])
    """
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _grey(
    pixels: _Array, found: "Dataset", groups: "list[Dataset]", *, is_inverted: bool
) -> npt.NDArray[np.uint8]:
    """Returns grey levels of every pixel; computed once for each value that occurs, where values are few."""
    if pixels.dtype.kind not in "iu" or pixels.size == 0:
        return _grey_each(pixels, found, groups, is_inverted=is_inverted)
    lowest, highest = int(pixels.min()), int(pixels.max())
    if highest - lowest >= min(pixels.size, 1 << 17):
        return _grey_each(pixels, found, groups, is_inverted=is_inverted)
    values = np.arange(lowest, highest + 1).astype(pixels.dtype)
    if "PixelPaddingValue" in found:  # the smallest value beside the padding is one that occurs
        occurs = np.zeros(len(values), dtype=np.bool_)
        occurs[pixels.ravel().astype(np.intp) - lowest] = True
        values = values[occurs]
    levels = _grey_each(values, found, groups, is_inverted=is_inverted)
    if np.array_equal(levels, values) and pixels.dtype == np.uint8:
        return pixels
    table = np.zeros(highest - lowest + 1, dtype=np.uint8)
    table[values.astype(np.intp) - lowest] = levels
    return table.take(pixels.astype(np.intp) - lowest)


def _grey_each(
    pixels: _Array, found: "Dataset", groups: "list[Dataset]", *, is_inverted: bool
) -> npt.NDArray[np.uint8]:
    is_padding = _padding(pixels, found)
    values = _rescaled(pixels, groups)
    shown = _through_table(values, found)
    if shown is None:
        shown = _through_window(values, groups)
    if shown is None:
        shown = _as_it_stands(values, pixels, found, is_padding)
    levels = np.rint(255 * shown).astype(np.uint8)
    if is_inverted:
        levels = 255 - levels
    levels[is_padding] = 0
    return levels


def _rescaled(pixels: _Array, groups: "list[Dataset]") -> _Physical:
    from pydicom.pixels.processing import apply_modality_lut

    found = groups[-1]
    place = first_with(groups, "RescaleSlope", "RescaleIntercept")
    if items(found, "ModalityLUTSequence"):
        values = apply_modality_lut(pixels, found).astype(np.float64)
    elif place is None:
        values = pixels.astype(np.float64)
    else:
        slope, intercept = numbers(place, "RescaleSlope", 1), numbers(place, "RescaleIntercept", 1)
        assert slope is not None, "both are there"
        assert intercept is not None, "both are there"
        values = pixels * slope[0] + intercept[0]
    if not np.isfinite(values).all():
        raise DataError("physical values must be finite, these are not. Leave the file out.")
    return values


def _through_table(values: _Physical, found: "Dataset") -> _Physical | None:
    from pydicom.pixels.processing import apply_voi

    tables = items(found, "VOILUTSequence")
    if not tables or not all(value_of(tables[0], keyword) for keyword in ("LUTDescriptor", "LUTData")):
        return None
    bits = int(tables[0].LUTDescriptor[2])
    looked_up = apply_voi(np.rint(values).astype(np.int64), found)
    return np.clip(looked_up.astype(np.float64) / (2.0**bits - 1), 0, 1)


def _through_window(values: _Physical, groups: "list[Dataset]") -> _Physical | None:
    place = first_with(groups, "WindowCenter", "WindowWidth")
    if place is None:
        return None
    centers, widths = numbers(place, "WindowCenter"), numbers(place, "WindowWidth")
    function = text(place, "VOILUTFunction").upper() or "LINEAR"
    # A window of no width is written by some that mean none.
    if not centers or not widths or (widths[0] < 1 and (function == "LINEAR" or widths[0] <= 0)):
        return None
    return windowed(values, centers[0], widths[0], function)


def _as_it_stands(
    values: _Physical, pixels: _Array, found: "Dataset", is_padding: npt.NDArray[np.bool_]
) -> _Physical:
    bits = whole_number(found, "BitsStored", 16)
    if bits <= 8 and whole_number(found, "PixelRepresentation", 0) == 0:
        return pixels.astype(np.float64) / (2.0**bits - 1)
    kept = values[~is_padding]
    low, high = (kept.min(), kept.max()) if kept.size else (0.0, 0.0)
    if high <= low:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)


def _padding(pixels: _Array, found: "Dataset") -> npt.NDArray[np.bool_]:
    """Returns the padding that the header declares. Source: DICOM PS3.3 C.7.5.1.1.2."""
    padding = numbers(found, "PixelPaddingValue", 1)
    if padding is None:
        return np.zeros(pixels.shape, dtype=np.bool_)
    limit = numbers(found, "PixelPaddingRangeLimit", 1) or padding
    low, high = sorted(_as_stored(value[0], found) for value in (padding, limit))
    return np.asarray((pixels >= low) & (pixels <= high))


def _as_stored(value: float, found: "Dataset") -> float:
    """Returns a value of the header as pixels have it: many write -2000 as 63536, and 65535 as -1.

    A value that no pixel can have is read as the same bits of a cell, then of the bits stored.
    """
    bits, is_signed = whole_number(found, "BitsStored", 16), whole_number(found, "PixelRepresentation", 0) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    for size in (whole_number(found, "BitsAllocated", 16), bits):
        if not low <= value <= high:
            turned = value % 2**size
            value = turned - 2**size if is_signed and turned >= 2 ** (size - 1) else turned
    return value


def _through_palette(pixels: _Array, found: "Dataset") -> _Array:
    from pydicom.pixels.processing import apply_color_lut

    if "SegmentedRedPaletteColorLookupTableData" in found:
        # Tables that refer to themselves can grow without end.
        raise DataError("a palette must be a plain table, this one is in segments. Leave the file out.")
    colours = apply_color_lut(pixels, found)[..., :3]
    return _eight_bits(colours, 8 * colours.dtype.itemsize)


def _eight_bits(pixels: _Array, bits: int) -> npt.NDArray[np.uint8]:
    if bits == 8:
        return np.clip(pixels, 0, 255).astype(np.uint8)
    return np.rint(np.clip(pixels / (2.0**bits - 1), 0, 1) * 255).astype(np.uint8)


def _coloured(pixels: npt.NDArray[np.uint8]) -> Picture:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _regions_only(picture: Picture, found: "Dataset") -> Picture:
    """Blackens all but the regions of ultrasound, whose corners are both inside. Source: DICOM PS3.3 C.8.5.5.1.1."""
    regions = items(found, "SequenceOfUltrasoundRegions")
    if not regions:
        return picture
    shown = np.zeros_like(picture)
    for region in regions:
        left, top, right, low = (whole_number(region, keyword, -1) for keyword in _CORNERS)
        if not (0 <= left <= right and 0 <= top <= low):
            raise DataError("regions of ultrasound must have four corners, this one has not. Leave the file out.")
        place = (slice(None), slice(top, low + 1), slice(left, right + 1))
        shown[place] = picture[place]
    return shown


_CORNERS = (
    "RegionLocationMinX0",
    "RegionLocationMinY0",
    "RegionLocationMaxX1",
    "RegionLocationMaxY1",
)
