"""The work that a hospital may be asked to do: a closed sum, and the values that describe it.

Privacy plans say which work they protect (`wardround.privacy.plans.protects`), strategies ask for it, hospitals do it.
Masked rounds are work as well: `Announce`, `Confirm`, `Upload`, each with what the exchange before it brought.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from wardround.types import Vector


@dataclass(frozen=True)
class LocalSteps:
    """A hospital's own steps within a round: how many, and how far each goes.

    Attributes:
        steps: optimizer steps.
        learning_rate: step size.
        momentum: heavy ball.
        denominator: public constant that each noised sum is divided by: sampling_prob times a public or
            noised number of patients. None, where no step is noised: the hospital's own number.
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
    """The parameters of its replica that a hospital overwrites, and the changes of them that it sends.

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


@dataclass(frozen=True)
class CountPatients:
    """The number of the hospital's training patients, noised as the plan says."""

    name: ClassVar[str] = "count"


@dataclass(frozen=True)
class CountClasses:
    """The number of the hospital's training patients by class, noised as the plan says."""

    name: ClassVar[str] = "class-counts"


@dataclass(frozen=True)
class GradientSum:
    """The sum of the sampled patients' clipped gradients, with the hospital's noise.

    Attributes:
        weights: the model, (parameter,).
        clipping_norm: of this round, where the plan lets it adapt; else None.
        centre: noised mean row, zeros behind it, (parameter,), that the rows of a head are taken less of; None takes
            them as they are.
    """

    name: ClassVar[str] = "gradient-sum"
    weights: Vector = field(repr=False)
    clipping_norm: float | None = None
    centre: Vector | None = field(default=None, repr=False)

    @property
    def point(self) -> Vector:
        """The public numbers that the gradient is taken at: the model, and behind it the centre, if there is one."""
        return self.weights if self.centre is None else np.concatenate([self.weights, self.centre])


@dataclass(frozen=True)
class RowSum:
    """The sum of the sampled patients' mean rows, with the hospital's noise, before a head is trained.

    The answer is as long as the model, with zeros and noise behind the row (`wardround.training.centring`).

    Attributes:
        weights: the model, (parameter,).
    """

    name: ClassVar[str] = "row-sum"
    weights: Vector = field(repr=False)


@dataclass(frozen=True)
class ScoreSum:
    """The sum of the sampled patients' moments of class scores at a model, with the hospital's noise.

    The answer is as long as the model, with zeros and noise behind the moments (`wardround.training.scores`).

    Attributes:
        weights: the model, (parameter,).
    """

    name: ClassVar[str] = "score-sum"
    weights: Vector = field(repr=False)


@dataclass(frozen=True)
class LocalUpdate:
    """The change of the model over several steps of the hospital's own.

    Attributes:
        weights: the model to start from, (parameter,).
    """

    name: ClassVar[str] = "local-steps"
    weights: Vector = field(repr=False)
    steps: LocalSteps


@dataclass(frozen=True)
class SelectiveUpdate:
    """Some of the changes of the hospital's own replica over several steps (Shokri and Shmatikov 2015).

    Attributes:
        weights: the parameters that `selection` names, (fetched,).
    """

    name: ClassVar[str] = "selective"
    weights: Vector = field(repr=False)
    steps: LocalSteps
    selection: Selection


@dataclass(frozen=True)
class FittedHead:
    """The weights of a linear head, fitted to the end and noised."""

    name: ClassVar[str] = "fit-head"
    fit: HeadFit


BINS = 16
"""Bins of a histogram of scores, of equal width from 0 to 1."""


def histogram_curves(classes: int) -> int:
    """Returns the curves of a model: class 1 against class 0 of two, else each class against the rest."""
    return 1 if classes == 2 else classes


def histogram_coordinates(classes: int) -> int:
    """Returns the length of a hospital's histograms, (curve, is of the class, bin) end to end."""
    return histogram_curves(classes) * 2 * BINS


@dataclass(frozen=True)
class Evaluate:
    """The histograms of the test patients' scores under the final model, protected as the plan says.

    Attributes:
        weights: the final model, (parameter,).
    """

    name: ClassVar[str] = "evaluate"
    weights: Vector = field(repr=False)


Summed: TypeAlias = CountPatients | GradientSum | RowSum | ScoreSum | Evaluate
"""Work of which only the sum over all hospitals may be wanted."""


def terms_of(work: Summed) -> tuple[Vector | None, float | None]:
    """Returns what an attempt at a masked sum is bound to: public numbers, (number,), and the norm, where it adapts.

    A count is of no model: None.
    """
    match work:
        case CountPatients():
            return None, None
        case GradientSum():
            return work.point, work.clipping_norm
        case RowSum() | ScoreSum() | Evaluate():
            return work.weights, None
        case _:
            assert_never(work)


@dataclass(frozen=True)
class Announce:
    """A fresh key for one attempt at a masked sum, signed; and, taken in first, the sum opened before.

    Attributes:
        of: the work whose sum is formed under masks.
        attempt: over all interruptions of the round; a hospital takes part in each at most once.
        hospitals: of this attempt.
        received: the sum that the attempt before this one opened, as bytes of residues; None if none is owed.
    """

    name: ClassVar[str] = "announce"
    of: Summed
    attempt: int
    hospitals: int
    received: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Confirm:
    """The hash of the transcript that a hospital makes of all announcements, signed.

    Attributes:
        announcements: of every hospital of the attempt under way.
    """

    name: ClassVar[str] = "confirm"
    announcements: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True)
class Upload:
    """The hospital's noised sum under masks, signed, once its ledger is charged.

    Attributes:
        confirmations: of every hospital of the attempt under way.
    """

    name: ClassVar[str] = "upload"
    confirmations: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True)
class Receive:
    """The opened sum of the last attempt, to be checked for noise that is missing.

    Attributes:
        total: the sum modulo 2^b, as bytes of residues.
    """

    name: ClassVar[str] = "receive"
    total: bytes = field(repr=False)


@dataclass(frozen=True)
class SayHello:
    """The facts of a hospital before the first round: `wardround.federation.messages.Hello`."""

    name: ClassVar[str] = "hello"


@dataclass(frozen=True)
class GiveReceipt:
    """The charges of a hospital's ledger for the study: `wardround.federation.messages.Receipt`, signed."""

    name: ClassVar[str] = "receipt"


@dataclass(frozen=True)
class Finish:
    """The finished model of the study, for the hospital to keep, and for its own figures on its own test patients.

    Attributes:
        model: the bytes of `model.safetensors`.
        card: those of `model.json`.
        certificate: those of `certificate.json`.
    """

    name: ClassVar[str] = "finish"
    model: bytes = field(repr=False)
    card: bytes = field(repr=False)
    certificate: bytes = field(repr=False)


MOST_MODEL_BYTES: Final = 900_000_000
"""Bytes of a finished model: it fits into one message."""

Answered: TypeAlias = (
    CountPatients
    | CountClasses
    | GradientSum
    | RowSum
    | ScoreSum
    | LocalUpdate
    | SelectiveUpdate
    | FittedHead
    | Evaluate
)
"""Work that is answered with one noised vector."""

Masked: TypeAlias = Announce | Confirm | Upload | Receive
"""The exchanges of one attempt at a masked sum."""

Said: TypeAlias = SayHello | GiveReceipt | Finish
"""Facts that a hospital states of itself, and what it is told at the end: nothing of a patient leaves, and nothing is
charged."""

Work: TypeAlias = Answered | Masked | Said
