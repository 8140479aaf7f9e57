"""What stands between one picture and everybody: the contract of every mechanism here, and Laplace noise.

What is released: every training picture once, noised by its own hospital, with a noised label. To whom: everybody.
Whatever is trained on the release, by whomever and however often, costs nothing more (Dwork and Roth 2014,
Proposition 2.1, post-processing).
"""

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import Event
from wardround.randomness import Stream

Values: TypeAlias = npt.NDArray[np.float64]
"""Values of some pictures, (picture, ...)."""


class PictureMechanism(Protocol):
    """Noise on every picture by itself.

    Contract: `release` is the only use of the pictures, draws everything random from `stream`, treats each picture
    alone, and costs `event` for one picture that is replaced by any other whatever, not finite ones included. The
    number of pictures is public.
    """

    @property
    def reads_features(self) -> bool:
        """Whether it noises the fixed public encoding of pictures; else their pixels."""
        ...

    @property
    def event(self) -> Event:
        """What the release of one picture costs."""
        ...

    @property
    def noise_multiplier(self) -> float:
        """Noise over the sensitivity of one replaced picture."""
        ...

    @property
    def bound(self) -> float:
        """The sensitivity that the noise is measured against, for the statement."""
        ...

    @property
    def name(self) -> str:
        """Of the mechanism, for the statement, such as "Laplace"."""
        ...

    @property
    def what(self) -> str:
        """What is released, for the statement."""
        ...

    @property
    def caveats(self) -> tuple[str, ...]:
        """Whole sentences for the statement."""
        ...

    def release(self, values: Values, stream: Stream) -> Values:
        """What leaves, of the same shape: pixels 0..255 before rounding, or features."""
        ...


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
