"""Noise on a fixed public encoding of each picture: few numbers of bounded length, instead of many pixels.

The encoding depends on the one picture it is given and on nothing private (`wardround.models.network.Network.encode`),
so it is part of the query. Its features are brought to a norm of at most R; two pictures are then at most 2 R apart,
whatever they show and however many features there are.
"""

import math
from dataclasses import dataclass

import numpy as np

from wardround.accounting.events import GaussianEvent, PureEvent
from wardround.errors import PrivacyError
from wardround.per_patient.margins import DOUBLE_PRECISION
from wardround.privacy.pictures import Values
from wardround.randomness import Stream
from wardround.reproduce.mechanisms.pictures.noise import add_laplace

_RELEASED = (
    "the features of every training picture, by a fixed public encoding, brought to {} norm {:g} with {} noise, and a "
    "noised label"
)


def _check(norm: float, noise_multiplier: float) -> None:
    if not 0 < norm < math.inf:
        raise PrivacyError(f"feature_norm must be > 0 and finite, got {norm}; the rows of features have norm 1.")
    if not 0 < noise_multiplier < math.inf:
        raise PrivacyError(f"noise_multiplier must be > 0 and finite, got {noise_multiplier}; or give epsilon.")


@dataclass(frozen=True)
class GaussianFeatures:
    """The Gaussian mechanism on features of bounded L2 norm.

    Guarantee:
        That of the Gaussian mechanism of `noise_multiplier` (Balle and Wang 2018, Theorem 8) for one picture
        replaced by any other: std = noise_multiplier * 2 * norm. Features that are not finite become zeros first.

    Attributes:
        norm: R, L2.
        noise_multiplier: std of the noise over 2 R.
    """

    norm: float
    noise_multiplier: float

    reads_features = True
    name = "Gaussian"
    caveats = ()

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        _check(self.norm, self.noise_multiplier)

    @property
    def event(self) -> GaussianEvent:
        """See `PictureMechanism`."""
        return GaussianEvent(self.noise_multiplier)

    @property
    def bound(self) -> float:
        """See `PictureMechanism`: L2."""
        return 2 * self.norm

    @property
    def what(self) -> str:
        """See `PictureMechanism`."""
        return _RELEASED.format("L2", self.norm, "Gaussian")

    def release(self, values: Values, stream: Stream) -> Values:
        """See `PictureMechanism`: features, (picture, ...)."""
        noisy = shortened(values, self.norm, order=2).reshape(-1)
        stream.add_normal(noisy, self.noise_multiplier * self.bound)
        return noisy.reshape(values.shape)


@dataclass(frozen=True)
class LaplaceFeatures:
    """The Laplace mechanism on features of bounded L1 norm: delta is 0, for more noise.

    Guarantee:
        (1 / noise_multiplier)-DP (Dwork and Roth 2014, Theorem 3.6) for one picture replaced by any other: the
        scale is noise_multiplier * 2 * norm. Features that are not finite become zeros first.

    Attributes:
        norm: R, L1.
        noise_multiplier: scale of the noise over 2 R.
    """

    norm: float
    noise_multiplier: float

    reads_features = True
    name = "Laplace"
    caveats = ()

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        _check(self.norm, self.noise_multiplier)

    @property
    def event(self) -> PureEvent:
        """See `PictureMechanism`."""
        return PureEvent(1 / self.noise_multiplier)

    @property
    def bound(self) -> float:
        """See `PictureMechanism`: L1."""
        return 2 * self.norm

    @property
    def what(self) -> str:
        """See `PictureMechanism`."""
        return _RELEASED.format("L1", self.norm, "Laplace")

    def release(self, values: Values, stream: Stream) -> Values:
        """See `PictureMechanism`: features, (picture, ...)."""
        noisy = shortened(values, self.norm, order=1)
        add_laplace(noisy, self.noise_multiplier * self.bound, stream)
        return noisy


def shortened(values: Values, norm: float, *, order: int) -> Values:
    """Each picture's features scaled to a norm of at most `norm`, (picture, ...); zeros where one is not finite.

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
