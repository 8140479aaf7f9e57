"""Noised pictures and labels of one patient, released once before any training: contracts, and the cost of all of it.

To everybody goes every training picture once, noised by its own hospital, with a noised label. Whatever is trained on
the release, by any party and however often, costs nothing more (Dwork and Roth 2014, Proposition 2.1, post-processing).

The unit is the patient, with all pictures and labels: neighbouring data sets differ in what one patient's pictures
show and how they are labelled. How many patients a hospital has, and how many pictures each of them, is public.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import ComposedEvent, Event, PureEvent, SelfComposedEvent
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import PrivacyError
from wardround.privacy.updates import Mechanism
from wardround.randomness import Stream

Values: TypeAlias = npt.NDArray[np.float64]
"""Values of some pictures, (picture, ...)."""


class PictureMechanism(Mechanism, Protocol):
    """Noise on every picture by itself.

    Contract: `release` is the only use of the pictures, draws everything random from `stream`, treats each picture
    alone, and costs `event` for one picture that is replaced by any other whatever, not finite ones included. The
    number of pictures is public.
    """

    @property
    def reads_features(self) -> bool:
        """True where it noises the fixed public encoding of pictures; else it noises their pixels."""

    @property
    def bound(self) -> float:
        """The sensitivity that the noise is measured against, and is named so."""

    @property
    def caveats(self) -> tuple[str, ...]:
        """Whole sentences for the statement."""

    def release(self, values: Values, stream: Stream) -> Values:
        """Returns what leaves, of the same shape: pixels 0..255 before rounding, or features."""


class LabelMechanism(Protocol):
    """Noise on every label by itself: epsilon of one label that is replaced by any other, and its name in words."""

    @property
    def epsilon(self) -> float:
        """Epsilon of one label."""

    @property
    def name(self) -> str:
        """Name for the statement, such as "randomised response"."""


@dataclass(frozen=True)
class LocalRelease:
    """Mechanisms for pictures and labels, and how often a patient passes through both.

    Guarantee:
        A patient's pictures are released one by one, at most `images_per_patient` of them: the costs of all of them
        and of their labels add up (Dwork and Roth 2014, Theorem 3.16; Gaussian noise composes exactly). Epsilon of
        one patient is therefore up to `images_per_patient` times that of one picture.
    """

    pictures: PictureMechanism
    labels: LabelMechanism
    images_per_patient: int

    unit = PrivacyUnit.PATIENT
    relation = NeighboringRelation.REPLACE_ONE

    def __post_init__(self) -> None:
        if self.images_per_patient < 1:
            raise PrivacyError(f"images_per_patient must be >= 1, got {self.images_per_patient}; raise it.")

    @property
    def image_event(self) -> Event:
        """One picture and its label."""
        pictures = self.pictures.event
        if isinstance(pictures, PureEvent):
            return PureEvent(pictures.epsilon + self.labels.epsilon)
        return ComposedEvent((pictures, PureEvent(self.labels.epsilon)))

    @property
    def event(self) -> Event:
        """All pictures and labels of one patient; of pure releases the sum, at delta 0."""
        one = self.image_event
        if isinstance(one, PureEvent):
            return PureEvent(self.images_per_patient * one.epsilon)
        return ComposedEvent(
            (
                SelfComposedEvent(self.pictures.event, self.images_per_patient),
                PureEvent(self.images_per_patient * self.labels.epsilon),
            )
        )
