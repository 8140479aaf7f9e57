"""From a decoded picture to a model's input: one way, for training, evaluation and inference alike.

Nothing here looks at the data set. Constants that came from private pictures would be a release of their own.
"""

import numpy as np
import numpy.typing as npt

from wardround.types import Pictures

PUBLIC_MEAN = 0.5
"""Subtracted after scaling to 0..1. A public constant, not the mean of anyone's pictures."""

PUBLIC_STD = 0.25
"""Divided by after that. A public constant as well."""


def normalise(pictures: Pictures) -> npt.NDArray[np.float32]:
    """Returns pictures as float32 around zero, by public constants: (value / 255 - PUBLIC_MEAN) / PUBLIC_STD.

    >>> normalise(np.array([0, 255], dtype=np.uint8))
    array([-2.,  2.], dtype=float32)
    """
    scaled = np.asarray(pictures, dtype=np.float32) / np.float32(255)
    return (scaled - np.float32(PUBLIC_MEAN)) / np.float32(PUBLIC_STD)
