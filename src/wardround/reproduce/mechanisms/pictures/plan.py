"""The plan of a study that noises pictures: the mechanism it names, with its noise calibrated."""

from collections.abc import Callable
from dataclasses import replace

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.calibration import calibrate_noise_multiplier
from wardround.accounting.events import PureEvent
from wardround.config import Study
from wardround.errors import PrivacyError
from wardround.privacy.pictures import LocalRelease, PictureMechanism
from wardround.privacy.plans.kinds import ExactCount, NoisedPictures, PublicSize
from wardround.privacy.plans.plan import Plan
from wardround.reproduce.mechanisms.pictures.labels import RandomisedResponse
from wardround.reproduce.mechanisms.pictures.noise import Noise, NoisedFeatures, NoisedPixels
from wardround.reproduce.mechanisms.pictures.section import FEATURE_PLANS, LocalPictures


def part_of(study: Study, section: LocalPictures, hospitals: int, releases: int) -> NoisedPictures:
    """Returns the plan's part, its noise calibrated.

    Raises:
        PrivacyError: the guarantee cannot be given as asked.
    """
    del releases  # all pictures are one
    size = ExactCount() if section.num_patients is None else PublicSize(section.num_patients)
    return NoisedPictures(local_release_of(study, section), section.sampling_prob, size, hospitals)


def calibrated(plan: Plan, section: LocalPictures) -> Plan:
    """Returns the plan as it is: its part was made with its noise."""
    del section
    return plan


def local_release_of(study: Study, section: LocalPictures) -> LocalRelease:
    """Returns what each hospital releases of a patient under plan = "local-pictures".

    Raises:
        PrivacyError: the guarantee cannot be given as asked.
    """
    make = _maker(study, section)
    if section.label_epsilon is None:
        raise PrivacyError("Labels are noised with the pictures: label_epsilon must be given, got none.")
    bound = section.images_per_patient
    labels = RandomisedResponse(section.label_epsilon / bound)
    if section.noise_multiplier is not None:
        return LocalRelease(make(section.noise_multiplier), labels, bound)
    if section.epsilon is None:
        raise PrivacyError("A private study must give epsilon or noise_multiplier, got neither.")
    return calibrated_release(
        make, labels, bound,
        epsilon=section.epsilon, delta=section.delta, accountant=AccountantKind(section.accountant),
    )  # fmt: skip


def _maker(study: Study, section: LocalPictures) -> Callable[[float], PictureMechanism]:
    """Returns the mechanism at a noise multiplier, which is over what one replaced picture moves."""
    data = study.data
    shape = (data.channels, data.image_size, data.image_size)
    noise = Noise.GAUSSIAN if section.pictures in ("gaussian-pixels", "gaussian-features") else Noise.LAPLACE
    if section.pictures in FEATURE_PLANS:
        return lambda z: NoisedFeatures(noise, section.feature_norm or 1.0, z)
    one = NoisedPixels(noise, 1.0, shape, section.block or 1, section.neighbourhood)
    return lambda z: replace(one, scale=z * one.bound)


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

    `make` gives the mechanism at a noise multiplier; `epsilon` is of one patient, labels and all. Pure mechanisms do
    not use delta.

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
