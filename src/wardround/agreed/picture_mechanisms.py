"""The mechanism that a study file names for its pictures, with its noise calibrated."""

from collections.abc import Callable
from typing import assert_never

from wardround.accounting.accountants import AccountantKind
from wardround.config import Study
from wardround.config.privacy import LocalPictures
from wardround.errors import PrivacyError
from wardround.privacy.pictures.dp_pix import DPPix
from wardround.privacy.pictures.features import GaussianFeatures, LaplaceFeatures
from wardround.privacy.pictures.labels import RandomisedResponse
from wardround.privacy.pictures.mechanism import PictureMechanism
from wardround.privacy.pictures.per_pixel import GaussianPixels, LaplacePixels
from wardround.privacy.pictures.release import LocalRelease, calibrated_release


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
    dimension = data.channels * data.image_size**2
    norm, block = section.feature_norm or 1.0, section.block or 1
    match section.pictures:
        case "laplace-pixels":
            return lambda z: LaplacePixels(z * dimension, dimension)
        case "gaussian-pixels":
            return lambda z: GaussianPixels(z * dimension**0.5, dimension)
        case "dp-pix":
            means = dimension / block**2
            return lambda z: DPPix(z * means, block, shape, section.neighbourhood)
        case "laplace-features":
            return lambda z: LaplaceFeatures(norm, z)
        case "gaussian-features":
            return lambda z: GaussianFeatures(norm, z)
        case _:
            assert_never(section.pictures)
