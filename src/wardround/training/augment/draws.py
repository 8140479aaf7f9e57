"""The random numbers of one view of one picture: a function of the seed, the picture's row and the view alone.

The generator is Philox (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405), which has no state to share:
the key is (seed, row), and each view counts from a start of its own. No global generator is read or moved.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wardround.errors import DataError

Float64 = npt.NDArray[np.float64]

# Each kind of change has its own places among a picture's uniforms, so that no option moves the draws of another.
FLIP = slice(0, 3)
ROTATE = slice(3, 6)
SHIFT = slice(6, 9)
PATCH = slice(9, 12)
SCALE, BRIGHTNESS, CONTRAST = 12, 13, 14
_COUNT = 16


@dataclass(frozen=True)
class Draws:
    """What one picture is changed by.

    Args:
        uniform: in [0, 1), (16,).
        rest: the generator past them, for noise.
    """

    uniform: Float64
    rest: np.random.Generator

    def between(self, place: int | slice, reach: float) -> Float64:
        """Uniform draws from [-reach, reach), at a place or some."""
        return np.asarray((2.0 * self.uniform[place] - 1.0) * reach)


def draws_of(seed: int, row: int, view: int = 0) -> Draws:
    """The draws of one view of one picture.

    Args:
        seed: of the step, 0 to 2^64 - 1.
        row: which picture; any number >= 0 that does not depend on other patients' pictures in the batch.
        view: which of its views, from 0.

    Raises:
        DataError: a number out of range.
    """
    if not 0 <= seed < 1 << 64 or row < 0 or view < 0:
        raise DataError(f"seed, row and view must be whole numbers >= 0 of 64 bits, got {seed}, {row} and {view}.")
    key = np.array([seed, row], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, view], dtype=np.uint64))
    uniform = (bits.random_raw(_COUNT) >> np.uint64(11)) * 2.0**-53
    return Draws(np.asarray(uniform, dtype=np.float64), np.random.Generator(bits))
