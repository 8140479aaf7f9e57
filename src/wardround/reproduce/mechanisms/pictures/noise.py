"""Noise on pictures, with the epsilon that it really has: on pixels, on means of blocks of pixels, or on features.

A picture is a point of [0, 1]^d. Replaced by another, all of its d values may move by 1: the L1 sensitivity is d
and the L2 sensitivity sqrt(d). Singh et al. 2020 take it to be 1 and state epsilon = 1 / scale; the truth is d times
that, which for 256 x 256 pixels and scale 1 is 65,536. Noise that would make epsilon small leaves no picture.

DP-Pix (Fan 2018, "Image Pixelization with Differential Privacy", https://doi.org/10.1007/978-3-319-95729-6_10): with
blocks of b x b 8-bit pixels and Laplace noise of scale 255 m / (b^2 epsilon) on each block's mean, pictures that differ
in at most m pixels are epsilon-indistinguishable. That is a promise about one neighbourhood of m pixels of one picture
(a number plate, a face in a crowd). It says nothing of a patient, whose picture may be another one altogether: what
that costs is `NoisedPixels.epsilon`, and it is what ledgers are charged.

Features are few numbers of bounded length, instead of many pixels. Their encoding depends on the one picture it is
given and on nothing private (`wardround.models.network.Network.encode`), so it is part of the query. Features are
brought to a norm of at most R; two pictures are then at most 2 R apart, whatever they show.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import GaussianEvent, PureEvent
from wardround.accounting.statement import format_epsilon
from wardround.errors import PrivacyError
from wardround.per_patient.margins import DOUBLE_PRECISION
from wardround.privacy.pictures import Values
from wardround.randomness import Stream

_WHITE = 255.0


class Noise(StrEnum):
    """A distribution of noise: Laplace noise is sized by L1 norms and has delta 0, Gaussian noise by L2 norms."""

    LAPLACE = "Laplace"
    GAUSSIAN = "Gaussian"

    def add(self, values: Values, scale: float, stream: Stream) -> None:
        """Adds independent noise of a scale (Gaussian: a standard deviation) to every value, (value,), in place."""
        match self:
            case Noise.LAPLACE:
                add_laplace(values, scale, stream)
            case Noise.GAUSSIAN:
                stream.add_normal(values, scale)


@dataclass(frozen=True)
class NoisedPixels:
    """Noise on every value of a picture, or on the mean of every block of pixels (DP-Pix).

    Guarantee:
        A block's mean moves by at most 1 (full brightness) when the picture is replaced, and all n means of a picture
        by at most n in L1 norm and sqrt(n) in L2 norm: Laplace noise is (n / scale)-DP (Dwork and Roth 2014, Theorem
        3.6), Gaussian noise has the multiplier scale / sqrt(n) (Balle and Wang 2018, Theorem 8). Between pictures that
        differ in at most m pixels, all channels of them, the means move by at most m channels / block^2 in L1 norm:
        `neighbourhood_epsilon`. Pixelisation is part of the query; rounding and cutting to 8 bits post-process.

    Attributes:
        noise: Laplace or Gaussian.
        scale: of the noise on a mean, or its standard deviation, in units of full brightness (Singh et al.'s beta).
        shape: (channel, height, width) of a picture.
        block: side of a block, in pixels; divides both sides. 1: every pixel is its own mean.
        neighbourhood: m, in pixels, of DP-Pix; None where only whole pictures are spoken of.

    >>> [NoisedPixels(Noise.LAPLACE, beta, (1, 256, 256)).epsilon for beta in (1.0, 2.0, 4.0)]
    [65536.0, 32768.0, 16384.0]
    """

    noise: Noise
    scale: float
    shape: tuple[int, int, int]
    block: int = 1
    neighbourhood: int | None = None

    reads_features = False
    bound_name = "sensitivity"

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        _, height, width = self.shape
        if not 0 < self.scale < math.inf:
            raise PrivacyError(f"The scale of the noise must be > 0 and finite, got {self.scale}; give epsilon.")
        if min(self.shape) < 1:
            raise PrivacyError(f"A picture must have channels and sides, got {self.shape}; count its values.")
        if self.block < 1 or height % self.block or width % self.block:
            raise PrivacyError(
                f"block must divide the sides of a picture, {height} and {width}, got {self.block}; a block cut "
                "short would move further than the noise covers."
            )
        if self.neighbourhood is not None and not 1 <= self.neighbourhood <= height * width:
            raise PrivacyError(
                f"neighbourhood must be between 1 and the {height * width} pixels of a picture, got "
                f"{self.neighbourhood}; change it, or leave it out."
            )

    @property
    def name(self) -> str:
        """See `PictureMechanism`."""
        return self.noise.value

    @property
    def means(self) -> int:
        """Numbers released of one picture."""
        return math.prod(self.shape) // self.block**2

    @property
    def bound(self) -> float:
        """See `PictureMechanism`: L1 for Laplace noise, L2 for Gaussian noise."""
        return float(self.means) if self.noise is Noise.LAPLACE else math.sqrt(self.means)

    @property
    def noise_multiplier(self) -> float:
        """See `PictureMechanism`."""
        return self.scale / self.bound

    @property
    def epsilon(self) -> float:
        """Epsilon of one picture replaced by any other, under Laplace noise."""
        return self.means / self.scale

    @property
    def event(self) -> PureEvent | GaussianEvent:
        """See `PictureMechanism`."""
        return PureEvent(self.epsilon) if self.noise is Noise.LAPLACE else GaussianEvent(self.noise_multiplier)

    @property
    def neighbourhood_epsilon(self) -> float:
        """Epsilon of one neighbourhood of one picture, as published; of the whole picture where none is given.

        >>> NoisedPixels(Noise.LAPLACE, 16 / 256, (1, 256, 256), block=16, neighbourhood=16).neighbourhood_epsilon
        1.0
        """
        if self.neighbourhood is None:
            return self.epsilon
        return self.neighbourhood * self.shape[0] / self.block**2 / self.scale

    @property
    def what(self) -> str:
        """See `PictureMechanism`."""
        if self.block == 1:
            on = f"with {self.noise} noise on each of its {self.means:,} values"
        else:
            on = f"in blocks of {self.block} x {self.block} pixels with {self.noise} noise on each block's mean"
        return f"every training picture {on}, cut to 8 bits, and a noised label"

    @property
    def caveats(self) -> tuple[str, ...]:
        """See `PictureMechanism`: the published promise, in its own words."""
        if self.neighbourhood is None:
            return ()
        return (
            "The published promise of this mechanism (Fan 2018) is a weaker one: two versions of one picture that "
            f"differ in at most {self.neighbourhood} pixels, one such neighbourhood of one picture, are told apart "
            f"up to a factor of exp({format_epsilon(self.neighbourhood_epsilon)}); it leaves out the label and says "
            "nothing of a picture or a patient as a whole.",
        )

    def release(self, values: Values, stream: Stream) -> Values:
        """See `PictureMechanism`: pixels 0..255, (picture, channel, height, width)."""
        number, (channels, height, width), block = len(values), self.shape, self.block
        blocks = values.reshape(number, channels, height // block, block, width // block, block)
        means = blocks.mean(axis=(3, 5))
        noisy = means.reshape(-1).copy()
        self.noise.add(noisy, _WHITE * self.scale, stream)
        return np.repeat(np.repeat(noisy.reshape(means.shape), block, axis=2), block, axis=3)


@dataclass(frozen=True)
class NoisedFeatures:
    """Noise on features of bounded norm.

    Guarantee:
        That of the Gaussian mechanism of `noise_multiplier` (Balle and Wang 2018, Theorem 8), or
        (1 / noise_multiplier)-DP under Laplace noise (Dwork and Roth 2014, Theorem 3.6), for one picture replaced by
        any other: the scale is noise_multiplier * 2 * norm. Features that are not finite become zeros first.

    Attributes:
        noise: Laplace, for features of bounded L1 norm, or Gaussian, for L2.
        norm: R.
        noise_multiplier: scale of the noise over 2 R.
    """

    noise: Noise
    norm: float
    noise_multiplier: float

    reads_features = True
    bound_name = "sensitivity"
    caveats = ()

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        if not 0 < self.norm < math.inf:
            raise PrivacyError(
                f"feature_norm must be > 0 and finite, got {self.norm}; rows of features have norm 1."
            )
        if not 0 < self.noise_multiplier < math.inf:
            raise PrivacyError(
                f"noise_multiplier must be > 0 and finite, got {self.noise_multiplier}; or give epsilon."
            )

    @property
    def name(self) -> str:
        """See `PictureMechanism`."""
        return self.noise.value

    @property
    def event(self) -> PureEvent | GaussianEvent:
        """See `PictureMechanism`."""
        z = self.noise_multiplier
        return PureEvent(1 / z) if self.noise is Noise.LAPLACE else GaussianEvent(z)

    @property
    def bound(self) -> float:
        """See `PictureMechanism`: L1 for Laplace noise, L2 for Gaussian noise."""
        return 2 * self.norm

    @property
    def order(self) -> int:
        """Order of the norm."""
        return 1 if self.noise is Noise.LAPLACE else 2

    @property
    def what(self) -> str:
        """See `PictureMechanism`."""
        return (
            f"the features of every training picture, by a fixed public encoding, brought to L{self.order} norm "
            f"{self.norm:g} with {self.noise} noise, and a noised label"
        )

    def release(self, values: Values, stream: Stream) -> Values:
        """See `PictureMechanism`: features, (picture, ...)."""
        noisy = shortened(values, self.norm, order=self.order).reshape(-1)
        self.noise.add(noisy, self.noise_multiplier * self.bound, stream)
        return noisy.reshape(values.shape)


def shortened(values: Values, norm: float, *, order: int) -> Values:
    """Returns each picture's features scaled to a norm of at most `norm`, (picture, ...); zeros if one is not finite.

    A billionth short of the norm: rounding cannot bring it back above.
    """
    rows = values.reshape(len(values), -1).astype(np.float64)
    largest = np.max(np.abs(rows), axis=1, initial=0.0)
    rows[~np.isfinite(largest)] = 0.0
    unit = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)[:, None]
    lengths = np.linalg.norm(rows / unit, ord=order, axis=1, keepdims=True)  # of numbers up to 1: no overflow
    # length * unit > norm, without a product that could overflow
    too_long = lengths > norm / unit
    rows = np.where(too_long, rows / unit * (norm * DOUBLE_PRECISION / np.where(too_long, lengths, 1.0)), rows)
    return rows.reshape(values.shape)


def add_laplace(values: Values, scale: float, stream: Stream) -> None:
    """Adds independent Laplace noise of a scale to every value, in place, by inverting the distribution function.

    The uniforms have 53 bits, symmetric about zero: the tail reaches 36 scales.
    """
    centred = stream.uniform(values.size) - 0.5
    distance = np.minimum(2.0 * np.abs(centred), 1 - 2.0**-53)  # a uniform that was rounded to 1 stays finite
    noise = -scale * np.sign(centred) * np.log1p(-distance)
    values += noise.reshape(values.shape)


def to_bytes(values: Values) -> npt.NDArray[np.uint8]:
    """Returns values as 8-bit pixels, rounded and cut to 0..255: post-processing, which costs no privacy."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
