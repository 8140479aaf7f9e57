"""From a decoded picture to a model's input: one way, for training, evaluation and inference alike.

Nothing here looks at the data set. Constants that came from private pictures would be a release of their own.
"""

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError
from wardround.images.decode.pillow import Picture
from wardround.images.rows.fit import Fit, fitted
from wardround.types import Pictures

PUBLIC_MEAN = 0.5
"""Subtracted after scaling to 0..1. A public constant, not the mean of anyone's pictures."""

PUBLIC_STD = 0.25
"""Divided by after that. A public constant as well."""


def preprocess(picture: Picture, *, image_size: int, channels: int) -> Picture:
    """The centred square of a picture, scaled to `image_size`, uint8 (channels, image_size, image_size).

    The shorter side is kept whole and the aspect ratio is kept. Reduction averages over areas, so that
    fine structure fades instead of aliasing; enlargement is bilinear. Colour becomes grey by ITU-R 601
    luminance; grey becomes three equal channels.

    Args:
        picture: decoded, (channel, height, width) with one channel or three.
        image_size: height and width of the result.
        channels: 1 or 3.

    Raises:
        DataError: `picture` has another shape, or `image_size` or `channels` is out of range.
    """
    check_shape(image_size, channels)
    return fitted(picture, (image_size, image_size), channels, Fit.CROP, circle=False)


def check_shape(image_size: int, channels: int) -> None:
    """Raise `DataError` unless pictures of this shape can be made."""
    if not 1 <= image_size <= 4096:
        raise DataError(f"image_size must lie between 1 and 4096, got {image_size}. Choose 64 to begin with.")
    if channels not in (1, 3):
        raise DataError(f"channels must be 1 or 3, got {channels}. Choose 1 for radiographs.")


def normalise(pictures: Pictures) -> npt.NDArray[np.float32]:
    """Pictures as float32 around zero, by public constants: (value / 255 - PUBLIC_MEAN) / PUBLIC_STD.

    >>> normalise(np.array([0, 255], dtype=np.uint8))
    array([-2.,  2.], dtype=float32)
    """
    scaled = np.asarray(pictures, dtype=np.float32) / np.float32(255)
    return (scaled - np.float32(PUBLIC_MEAN)) / np.float32(PUBLIC_STD)
