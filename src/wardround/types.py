"""Names for the values that cross rooms: arrays with their axes, and the two kinds of identity."""

import math
from dataclasses import dataclass
from typing import NewType, TypeAlias

import numpy as np
import numpy.typing as npt

PatientId = NewType("PatientId", str)
"""One person, with all their images. Never leaves the hospital; records hold a keyed hash of it."""

HospitalName = NewType("HospitalName", str)
"""A holder of patients. The part it plays in a round is called a client."""

Pictures: TypeAlias = npt.NDArray[np.uint8]
"""Decoded pictures, (picture, channel, *space), 0..255; space is (height, width), or (x, y, z) in RAS+."""

Masks: TypeAlias = npt.NDArray[np.uint8]
"""Class index of each pixel or voxel, (picture, *space)."""

Vector: TypeAlias = npt.NDArray[np.float32]
"""All trained parameters of a model, or an update to them, in one row, (parameter,)."""

Scores: TypeAlias = npt.NDArray[np.float64]
"""Class probabilities, (picture, class); rows sum to one."""

Labels: TypeAlias = npt.NDArray[np.int64]
"""Class indices, (picture,)."""


@dataclass(frozen=True)
class LocalSteps:
    """A hospital's own steps within a round: how many, and how far each goes.

    Attributes:
        steps: optimizer steps.
        learning_rate: step size.
        momentum: heavy ball.
        denominator: public constant that each noised sum is divided by: sampling_prob times a public or
            privately counted number of patients. None, where no step is noised: the hospital's own number.
        proximal: pulls towards the weights it started from, as strongly as this (FedProx's mu).
        correction: added to every gradient, (parameter,) (SCAFFOLD's c - c_i); None for nothing.
        velocity: of the heavy ball at the start, (parameter,); None starts from rest.
        keep_velocity: whether the reply is to carry the velocity at the end.
        class_weights: weight of the loss of each class, (class,), public; None for one.
        class_sampling: share of `sampling_prob` with which patients of each class are drawn, in (0, 1] and
            public, (class,); None for one. A patient counts as the class of the first picture.
    """

    steps: int
    learning_rate: float
    momentum: float
    denominator: float | None
    proximal: float = 0.0
    correction: Vector | None = None
    velocity: Vector | None = None
    keep_velocity: bool = False
    class_weights: tuple[float, ...] | None = None
    class_sampling: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Selection:
    """Which parameters of its replica a hospital overwrites, and which changes of them it sends.

    Attributes:
        positions: of the parameters that were fetched, ascending and public, (fetched,).
        fraction: share of all parameters that are sent, at most.
        random: a draw of the changes above the threshold; else the largest of them.
        threshold: changes of this size or less are not sent.
        truncation: changes are cut to this size.
    """

    positions: npt.NDArray[np.int64]
    fraction: float
    random: bool
    threshold: float
    truncation: float


@dataclass(frozen=True)
class HeadFit:
    """The objective of a linear head that is fitted to the end (`wardround.privacy.output_perturbation`).

    Attributes:
        regularisation: lambda, > 0: half of it times the squared weights is added to the mean loss.
        row_norm: R, > 0: rows of features, the constant among them, are cut to this L2 norm.
        num_patients: n, public, that the sum over a hospital's patients is divided by; None, where nothing is promised:
            the hospital's own number.
    """

    regularisation: float
    row_norm: float
    num_patients: float | None

    def __post_init__(self) -> None:
        """Refuses an objective without a minimum, or without a bound."""
        for name in ("regularisation", "row_norm", "num_patients"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {value}")

    @property
    def lipschitz(self) -> float:
        """L: the largest gradient of a picture's cross-entropy, sqrt(2) times the norm of its row."""
        return math.sqrt(2) * self.row_norm
