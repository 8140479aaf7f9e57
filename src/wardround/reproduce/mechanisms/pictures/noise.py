"""Laplace noise on values of pictures, and pixels as they are stored."""

import numpy as np
import numpy.typing as npt

from wardround.privacy.pictures import Values
from wardround.randomness import Stream


def add_laplace(values: Values, scale: float, stream: Stream) -> None:
    """Adds independent Laplace noise of a scale to every value, in place, by inverting the distribution function.

    The uniforms have 53 bits, symmetric about zero: the tail reaches 36 scales.
    """
    centred = stream.uniform(values.size) - 0.5
    distance = np.minimum(2.0 * np.abs(centred), 1 - 2.0**-53)  # a uniform that was rounded to 1 stays finite
    noise = -scale * np.sign(centred) * np.log1p(-distance)
    values += noise.reshape(values.shape)


def to_bytes(values: Values) -> npt.NDArray[np.uint8]:
    """Values as 8-bit pixels: rounded, and cut to 0..255. Post-processing, which costs contrast and no privacy."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
