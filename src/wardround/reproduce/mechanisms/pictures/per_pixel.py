"""Noise on every pixel, with the epsilon that it really has.

A picture is a point of [0, 1]^d. Replaced by another, all of its d values may move by 1: the L1 sensitivity is d
and the L2 sensitivity sqrt(d). Singh et al. 2020 take it to be 1 and state epsilon = 1 / scale; the truth is d times
that, which for 256 x 256 pixels and scale 1 is 65,536. Noise that would make epsilon small leaves no picture.
"""

import math
from dataclasses import dataclass

from wardround.accounting.events import GaussianEvent, PureEvent
from wardround.errors import PrivacyError
from wardround.privacy.pictures import Values
from wardround.randomness import Stream
from wardround.reproduce.mechanisms.pictures.noise import add_laplace

_WHITE = 255.0
_RELEASED = "every training picture with {} noise on each of its {:,} values, cut to 8 bits, and a noised label"


def _check(scale: float, dimension: int) -> None:
    if not 0 < scale < math.inf:
        raise PrivacyError(f"The scale of the noise must be > 0 and finite, got {scale}; give epsilon instead.")
    if dimension < 1:
        raise PrivacyError(f"dimension must be >= 1, got {dimension}; count the values of one picture.")


@dataclass(frozen=True)
class LaplacePixels:
    """The Laplace mechanism on a whole picture.

    Guarantee:
        Replacing one picture by any other is epsilon-DP with epsilon = dimension / scale (Dwork and Roth 2014,
        Theorem 3.6, at the L1 sensitivity of the identity). Rounding and cutting to 8 bits is post-processing.

    Attributes:
        scale: of the noise, in units of full brightness (Singh et al.'s beta).
        dimension: values of one picture: channels x height x width.

    >>> [LaplacePixels(beta, 256 * 256).epsilon for beta in (1.0, 2.0, 4.0)]
    [65536.0, 32768.0, 16384.0]
    """

    scale: float
    dimension: int

    reads_features = False
    name = "Laplace"
    caveats = ()

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        _check(self.scale, self.dimension)

    @property
    def epsilon(self) -> float:
        """Epsilon of one picture."""
        return self.dimension / self.scale

    @property
    def event(self) -> PureEvent:
        """See `PictureMechanism`."""
        return PureEvent(self.epsilon)

    @property
    def noise_multiplier(self) -> float:
        """See `PictureMechanism`."""
        return self.scale / self.dimension

    @property
    def bound(self) -> float:
        """See `PictureMechanism`: L1."""
        return float(self.dimension)

    @property
    def what(self) -> str:
        """See `PictureMechanism`."""
        return _RELEASED.format("Laplace", self.dimension)

    def release(self, values: Values, stream: Stream) -> Values:
        """See `PictureMechanism`: pixels 0..255, (picture, channel, *space)."""
        noisy = values.copy()
        add_laplace(noisy, _WHITE * self.scale, stream)
        return noisy


@dataclass(frozen=True)
class GaussianPixels:
    """The Gaussian mechanism on a whole picture.

    Guarantee:
        That of the Gaussian mechanism of this noise multiplier, std / sqrt(dimension) (Balle and Wang 2018,
        Theorem 8, at the L2 sensitivity of the identity), for one picture replaced by any other.

    Attributes:
        std: of the noise, in units of full brightness.
        dimension: values of one picture: channels x height x width.
    """

    std: float
    dimension: int

    reads_features = False
    name = "Gaussian"
    caveats = ()

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        _check(self.std, self.dimension)

    @property
    def event(self) -> GaussianEvent:
        """See `PictureMechanism`."""
        return GaussianEvent(self.noise_multiplier)

    @property
    def noise_multiplier(self) -> float:
        """See `PictureMechanism`."""
        return self.std / self.bound

    @property
    def bound(self) -> float:
        """See `PictureMechanism`: L2."""
        return math.sqrt(self.dimension)

    @property
    def what(self) -> str:
        """See `PictureMechanism`."""
        return _RELEASED.format("Gaussian", self.dimension)

    def release(self, values: Values, stream: Stream) -> Values:
        """See `PictureMechanism`: pixels 0..255, (picture, channel, *space)."""
        noisy = values.reshape(-1).copy()
        stream.add_normal(noisy, _WHITE * self.std)
        return noisy.reshape(values.shape)
