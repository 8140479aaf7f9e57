"""Pictures of any shape at the one shape that a network reads; for fundus photographs, the disc first.

A place in a picture is counted in pixels from its upper left corner, so that the first pixel reaches from 0 to 1.
Every number here is a public constant or the picture's own.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from PIL import Image

from wardround.errors import DataError
from wardround.images.decode.pillow import MAX_PIXELS, Picture

DISC_THRESHOLD = 0.1
"""Height above the dark end of a picture's values, as a part of their range, from which pixels are of the disc."""

VALUE_QUANTILES = (0.01, 0.99)
"""The dark and the bright end of a picture's values, past a few stray pixels."""

DISC_LEAST_RANGE = 10
"""A picture whose ends lie closer than this (of 255) shows no disc: it is all dark, or all one shade."""

DISC_LEAST_EXTENT = 0.25
"""A disc narrower than this part of the picture's shorter side is none: a reflex, or lettering."""

DISC_LEAST_LINE = 0.05
"""Bright pixels, as a part of the shorter side, that a row or column of the disc has at least; dust has fewer."""

SEARCH_SIDE = 512
"""The disc is sought among at least so many rows and columns; finer than that only its seam would show."""


class Fit(StrEnum):
    """Treatments of a picture whose sides are in another ratio than the ones asked for."""

    CROP = "crop"
    """The middle is kept; what juts out on the longer side is lost."""
    PAD = "pad"
    """All of it is kept, between black borders."""
    STRETCH = "stretch"
    """All of it is kept, and shapes change."""


@dataclass(frozen=True)
class Circle:
    """The bright disc of a fundus photograph; it may reach beyond the picture, where a camera has cut it.

    Args:
        row: of its centre, in pixels from the upper edge.
        column: of its centre, in pixels from the left edge.
        radius: in pixels.
    """

    row: float
    column: float
    radius: float


def fitted(picture: Picture, size: tuple[int, int], channels: int, fit: Fit) -> Picture:
    """Returns a picture at the size and with the channels asked for, uint8 (channels, *size).

    Reduction averages over areas, so that fine structure fades instead of aliasing; enlargement is bilinear.
    Colour becomes grey by ITU-R 601 luminance; grey becomes three equal channels.

    Args:
        picture: decoded, (channel, height, width) with one channel or three.
        size: (height, width) of the result.
        channels: 1 or 3.
        fit: treatment of sides in another ratio.

    Raises:
        DataError: `picture` has another shape.
    """
    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or 0 in picture.shape:
        raise DataError(
            f"a picture must have the axes (channel, height, width) with 1 or 3 channels, got shape "
            f"{picture.shape}. Use wardround.images.decode.pillow."
        )
    image = Image.fromarray(picture[0] if picture.shape[0] == 1 else picture.transpose(1, 2, 0))
    mode = "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    height, width = size
    box, (left, top, wide, high) = box_of(image.size, (width, height), fit)
    made = _scaled(image, (wide, high), box)
    if (wide, high) != (width, height):
        padded = Image.new(image.mode, (width, height))
        padded.paste(made, (left, top))
        made = padded
    array = np.asarray(made)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def box_of(
    outer: tuple[int, int], size: tuple[int, int], fit: Fit
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Returns the box of a picture that is kept, (left, top, right, bottom), and its place in the result.

    The place is (left, top, width, height). Sizes are (width, height).
    """
    whole = (0, 0, *outer)
    if fit is Fit.CROP:
        return _middle(outer, size), (0, 0, *size)
    if fit is Fit.STRETCH:
        return whole, (0, 0, *size)
    _, _, wide, high = _middle(size, outer, at_origin=True)
    return whole, ((size[0] - wide) // 2, (size[1] - high) // 2, wide, high)


def squared_size(height: int, width: int, aspect: float) -> tuple[int, int]:
    """Returns (width, height) with square pixels, of pixels that are `aspect` times as high as wide."""
    if 0.99 < aspect < 1.01:
        return width, height
    return (width, round(height * aspect)) if aspect > 1 else (round(width / aspect), height)


def squared(values: npt.NDArray[np.uint8], aspect: float, filtered: Image.Resampling) -> npt.NDArray[np.uint8]:
    """Returns a picture or mask with square pixels: the axis along which pixels are longer has more of them.

    Args:
        values: (channel, height, width).
        aspect: height of a pixel by its width; within a hundredth of 1 nothing changes.
        filtered: how new pixels are made.

    Raises:
        DataError: pixels that are more than ten times as long as wide, or too many of them.
    """
    if 0.99 < aspect < 1.01:
        return values
    height, width = values.shape[1:]
    size = squared_size(height, width, min(max(aspect, 0.1), 10))
    if not 0.1 <= aspect <= 10 or size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"pixels must be at most ten times as long as wide, and square ones at most {MAX_PIXELS:,}, got the aspect "
            f"{aspect:g}. Leave the picture out, or set fit to stretch."
        )
    return np.stack([np.asarray(Image.fromarray(channel).resize(size, filtered)) for channel in values])


def find_circle(picture: Picture) -> Circle | None:
    """Returns the bright disc of a fundus photograph, or None where there is none.

    The threshold lies at `DISC_THRESHOLD` of the range of the picture's own values. The longer extent is the
    diameter; along the shorter one, where the picture's edge has cut the disc on one side, the other side tells the
    centre.

    Args:
        picture: (channel, height, width).
    """
    height, width = picture.shape[1:]
    step = max(1, min(height, width) // SEARCH_SIDE)
    light = picture[:, ::step, ::step].max(axis=0)
    dark, bright = np.quantile(light, VALUE_QUANTILES)
    if bright - dark < DISC_LEAST_RANGE:
        return None
    inside = light > dark + DISC_THRESHOLD * (bright - dark)
    shorter = min(inside.shape)
    least = max(1.0, DISC_LEAST_LINE * shorter)
    left, right = _longest_run(inside.sum(axis=0) >= least)
    # Lettering in a corner shares rows with the disc, or columns, but never both.
    top, bottom = _longest_run(inside[:, left:right].sum(axis=1) >= least)
    left, right = _longest_run(inside[top:bottom].sum(axis=0) >= least)
    diameter = max(bottom - top, right - left)
    if diameter < DISC_LEAST_EXTENT * shorter:
        return None
    row = _centre(top, bottom, inside.shape[0], diameter)
    column = _centre(left, right, inside.shape[1], diameter)
    return Circle(row * step, column * step, diameter / 2 * step)


def within(values: npt.NDArray[np.uint8], circle: Circle) -> npt.NDArray[np.uint8]:
    """Returns the square around a circle, zero outside of the circle and of the picture.

    Args:
        values: (channel, height, width).
        circle: in pixels of `values`.

    Returns:
        (channel, side, side), side being the diameter in whole pixels.
    """
    side, first = side_and_corner(circle)
    made = np.zeros((len(values), side, side), dtype=np.uint8)
    take, put = [slice(None)], [slice(None)]
    for start, has in zip(first, values.shape[1:], strict=True):
        low, high = max(start, 0), min(start + side, has)
        take.append(slice(low, max(low, high)))
        put.append(slice(low - start, max(low, high) - start))
    made[tuple(put)] = values[tuple(take)]
    rows, columns = ((np.arange(side) + 0.5 + start) for start in first)
    far = np.square(rows - circle.row)[:, None] + np.square(columns - circle.column) > circle.radius**2
    made[:, far] = 0
    return made


def side_and_corner(circle: Circle) -> tuple[int, tuple[int, int]]:
    """Returns the side of the square around a circle, and the row and column of its first pixel."""
    corner = (round(circle.row - circle.radius), round(circle.column - circle.radius))
    return max(1, round(2 * circle.radius)), corner


def _scaled(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Returns a box (left, top, right, bottom) of an image at (width, height)."""
    reduces = box[2] - box[0] >= size[0] and box[3] - box[1] >= size[1]
    # Pillow's bilinear filter averages along an axis that it reduces; its box filter, where it enlarges, repeats.
    kind = Image.Resampling.BOX if reduces else Image.Resampling.BILINEAR
    # Rows first, then columns, each rounded to whole levels: Pillow 13 takes some pictures the other way round
    # (https://github.com/python-pillow/Pillow/pull/9549), and the page has one order.
    across = image.resize((size[0], image.height), kind, box=(box[0], 0, box[2], image.height))
    return across.resize(size, kind, box=(0, box[1], size[0], box[3]))


def _middle(
    outer: tuple[int, int], ratio: tuple[int, int], *, at_origin: bool = False
) -> tuple[int, int, int, int]:
    """Returns the largest box (left, top, right, bottom) of a ratio in the middle of a rectangle (width, height)."""
    width, height = outer
    if width * ratio[1] <= height * ratio[0]:
        height = min(height, max(1, (2 * width * ratio[1] + ratio[0]) // (2 * ratio[0])))
    else:
        width = min(width, max(1, (2 * height * ratio[0] + ratio[1]) // (2 * ratio[1])))
    left, top = (0, 0) if at_origin else ((outer[0] - width) // 2, (outer[1] - height) // 2)
    return left, top, left + width, top + height


def _longest_run(flags: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Returns the start of the longest row of true values, and one past its end; (0, 0) where all are false."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    starts, ends = changes[::2], changes[1::2]
    if not len(starts):
        return 0, 0
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])


def _centre(first: int, last: int, length: int, diameter: int) -> float:
    """Returns the disc's centre along one axis, from its visible part and the edge it may have been cut by."""
    is_cut_before, is_cut_after = first == 0, last == length
    if is_cut_before and not is_cut_after:
        return last - diameter / 2
    if is_cut_after and not is_cut_before:
        return first + diameter / 2
    return (first + last) / 2
