"""All that a hospital releases of one patient: noised pictures and noised labels, once, and what that costs.

The unit is the patient, with all pictures and labels: neighbouring data sets differ in what one patient's pictures
show and how they are labelled. How many patients a hospital has, and how many pictures each of them, is public.
"""

from collections.abc import Callable
from dataclasses import dataclass

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.calibration import calibrate_noise_multiplier
from wardround.accounting.events import ComposedEvent, Event, PureEvent, SelfComposedEvent
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import PrivacyError
from wardround.privacy.pictures.labels import RandomisedResponse
from wardround.privacy.pictures.mechanism import PictureMechanism


@dataclass(frozen=True)
class LocalRelease:
    """Mechanisms for pictures and labels, and how often a patient passes through both.

    Guarantee:
        A patient's pictures are released one by one, at most `images_per_patient` of them: the costs of all of them
        and of their labels add up (Dwork and Roth 2014, Theorem 3.16; Gaussian noise composes exactly). Epsilon of
        one patient is therefore up to `images_per_patient` times that of one picture.

    Attributes:
        pictures: noises each picture.
        labels: noises each label.
        images_per_patient: pictures of one patient, at most.
    """

    pictures: PictureMechanism
    labels: RandomisedResponse
    images_per_patient: int

    unit = PrivacyUnit.PATIENT
    relation = NeighboringRelation.REPLACE_ONE

    def __post_init__(self) -> None:
        """Refuses a bound that bounds nothing."""
        if self.images_per_patient < 1:
            raise PrivacyError(f"images_per_patient must be >= 1, got {self.images_per_patient}; raise it.")

    @property
    def image_event(self) -> Event:
        """One picture and its label."""
        pictures = self.pictures.event
        if isinstance(pictures, PureEvent):
            return PureEvent(pictures.epsilon + self.labels.epsilon)
        return ComposedEvent((pictures, self.labels.event))

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


def calibrated_release(
    make: Callable[[float], PictureMechanism],
    labels: RandomisedResponse,
    images_per_patient: int,
    *,
    epsilon: float,
    delta: float,
    accountant: AccountantKind,
) -> LocalRelease:
    """The release with the least noise on pictures that still promises `epsilon` to a patient.

    Args:
        make: the mechanism at a noise multiplier.
        labels: as they will be noised; their part of epsilon is taken first.
        images_per_patient: see `LocalRelease`.
        epsilon: of one patient, all together.
        delta: target delta; not used by pure mechanisms.
        accountant: what computes epsilon.

    Raises:
        PrivacyError: the labels leave nothing for the pictures, or no finite noise gives that epsilon.
    """
    left = epsilon - images_per_patient * labels.epsilon
    if left <= 0:
        raise PrivacyError(
            f"epsilon must leave something for the pictures, got {epsilon:g} of which the labels take "
            f"{images_per_patient * labels.epsilon:g}; lower label_epsilon."
        )
    if not isinstance(make(1.0).event, PureEvent):
        noise_multiplier = calibrate_noise_multiplier(
            lambda z: LocalRelease(make(z), labels, images_per_patient).event, epsilon, delta, accountant
        )
        return LocalRelease(make(noise_multiplier), labels, images_per_patient)
    noise_multiplier = images_per_patient / left
    release = LocalRelease(make(noise_multiplier), labels, images_per_patient)
    while isinstance(release.event, PureEvent) and release.event.epsilon > epsilon:  # by rounding
        noise_multiplier *= 1 + 1e-15
        release = LocalRelease(make(noise_multiplier), labels, images_per_patient)
    return release
