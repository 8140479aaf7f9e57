"""The draws of a plan: samples, clips and noise of each part, each one `match` over all kinds."""

import math
from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from wardround.accounting.discrete import DiscreteShares
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, Noiser, hospital_std
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.privacy.correlated import Correlation
from wardround.privacy.correlated import Noise as RoundNoise
from wardround.privacy.plans.kinds import (
    UNCLIPPED,
    Clip,
    CorrelatedGradients,
    Evaluation,
    NoisedCounts,
    NoisedGradients,
    NoisedHead,
    NoisedHistograms,
    NoisedPictures,
    NoisedUpdates,
    NothingTrained,
    NotPrivate,
    OpenHistograms,
    Part,
    Training,
)
from wardround.randomness import Names, Stream
from wardround.randomness.sampling import Indices, poisson_sample
from wardround.types import Vector


def noiser_of(part: Part) -> Noiser:
    """Returns who adds a part's noise."""
    if isinstance(part, NoisedPictures | NotPrivate | OpenHistograms):
        return ByEachHospital(part.hospitals)
    if isinstance(part, Part):
        return part.noiser
    assert_never(part)


def clip_of(part: Training) -> Clip:
    """Returns the clip of per-patient gradients under a part."""
    match part:
        case NoisedGradients() | CorrelatedGradients() | NotPrivate():
            return part.clip
        case NoisedUpdates() | NoisedHead() | NoisedPictures() | NothingTrained():
            return UNCLIPPED
        case _:
            assert_never(part)


def participation_of(part: Training) -> float | Correlation:
    """Returns the Poisson probability of a patient in one sum, or the rounds of fixed cohorts."""
    match part:
        case NoisedGradients() | NoisedUpdates() | NoisedPictures():
            return part.sampling_prob
        case CorrelatedGradients():
            return part.correlation
        case NotPrivate():
            return part.participation
        case NoisedHead() | NothingTrained():
            return 1.0
        case _:
            assert_never(part)


def correlation_of(part: Training) -> Correlation | None:
    """Returns how the rounds hang together where cohorts are fixed; else None."""
    participation = participation_of(part)
    return participation if isinstance(participation, Correlation) else None


def share_of_patients(part: Training) -> float:
    """Returns the expected share of the patients in one sum."""
    participation = participation_of(part)
    return 1 / participation.cohorts if isinstance(participation, Correlation) else participation


def sample(part: Training, names: Names, stream: Stream) -> Indices:
    """Returns the patients of one hospital in one release, drawn as the part's event has it.

    Raises:
        PrivacyError: a round's patients are its cohort, drawn before round 1.
    """
    participation = participation_of(part)
    if isinstance(participation, Correlation):
        raise PrivacyError("Under correlated noise a round's patients are its cohort; do not sample them.")
    return poisson_sample(names, participation, stream)


def noised_sum(part: Training, clipped: ClippedSum, stream: Stream, hospitals: int = 1) -> Vector:
    """Returns a clipped sum with this hospital's part of the noise, (parameter,).

    Where `clipped` is the sum over the patients of several hospitals, the parts of all of them are one draw: a
    sum of m independent normal variates of std s is a normal variate of std s sqrt(m).

    Guarantee:
        With the shares of the other honest hospitals (`NoiseShares`), or with the coordinator's noise
        (`ByCoordinator`), or alone (`ByEachHospital`), the noise on the sum has a std of at least
        noise_multiplier * clip.norm. An empty sample is noised like any other.

    Raises:
        PrivacyError: the sum declares another sensitivity than the part noises for, or its noise is correlated, or
            whole-number shares under masks.
    """
    _check_sensitivity(part, clipped)
    if correlation_of(part) is not None:
        raise PrivacyError("Under correlated noise a round's noise follows from earlier rounds'; draw no other.")
    std = 0.0
    if isinstance(part, NoisedGradients):
        check_unmasked(part)
        std = hospital_std(part.noiser, part.noise.noise_multiplier * part.clip.norm)
    return _noised(clipped.vector.numpy(), std * math.sqrt(hospitals), stream)


def correlated_sum(
    part: Training, clipped: ClippedSum, earlier: Sequence[RoundNoise], stream: Stream
) -> tuple[Vector, RoundNoise]:
    """Returns a round's clipped sum with its noise, (parameter,), and that noise, which must stay secret.

    `clipped` is the sum over the round's cohort, `earlier` this hospital's noise of the rounds before, the last one
    first, and `stream` of this round alone.

    Guarantee:
        With the shares of the other honest hospitals, or alone, the sums of all rounds are one Gaussian mechanism, if
        every round is answered once.

    Raises:
        PrivacyError: the sum declares another sensitivity than the part noises for.
    """
    _check_sensitivity(part, clipped)
    correlation = correlation_of(part)
    if correlation is None:
        raise PrivacyError("A plan must correlate its noise to release a round of it.")
    std = 0.0
    if isinstance(part, CorrelatedGradients):
        std = hospital_std(part.noiser, part.noise.noise_multiplier * part.clip.norm * correlation.sensitivity)
    values = clipped.vector.numpy()
    noise = correlation.noise(earlier, values.size, std, stream)
    return (values + noise).astype(np.float32, copy=False), noise


def noised_update(part: Training, update: Vector, stream: Stream) -> Vector:
    """Returns a hospital's update as it leaves, (parameter,): as it is where its steps were noised already.

    Raises:
        PrivacyError: the part's noise is meant for something else.
    """
    match part:
        case NoisedUpdates():
            return part.mechanism.release(update, lambda total: hospital_std(part.noiser, total), stream)
        case NoisedGradients() | NoisedPictures() | NotPrivate():
            return update
        case CorrelatedGradients() | NoisedHead() | NothingTrained():
            raise PrivacyError("An update must be noised whole or in its steps, got a plan that noises otherwise.")
        case _:
            assert_never(part)


def selects(part: Training) -> bool:
    """Returns whether the part's own mechanism chooses the parameters that leave."""
    return isinstance(part, NoisedUpdates) and part.mechanism.selects


def noised_head(part: Training, fitted: npt.NDArray[np.float64], stream: Stream) -> Vector:
    """Returns the head that `wardround.training.convex.fit_head` fitted as it leaves, (parameter,).

    Raises:
        PrivacyError: the part's noise is meant for something else.
    """
    match part:
        case NoisedHead():
            return part.mechanism.release_fitted(fitted, lambda total: hospital_std(part.noiser, total), stream)
        case NotPrivate():
            return fitted.astype(np.float32)
        case _:
            raise PrivacyError(
                "A fitted head must be noised by output perturbation, got a plan that noises otherwise."
            )


def noised_counts(
    count: NoisedCounts | None, counts: npt.NDArray[np.float64], stream: Stream, hospitals: int = 1
) -> Vector:
    """Returns a hospital's numbers of patients as they leave, (class,) or (1,); of several hospitals as `noised_sum`.

    `count` is None where the plan promises nothing of numbers of patients.

    Raises:
        PrivacyError: the count's noise is whole-number shares under masks.
    """
    if count is None:
        return _noised(counts, 0.0, stream)
    check_unmasked(count)
    std = hospital_std(count.noiser, count.noise.noise_multiplier)
    return _noised(counts, std * math.sqrt(hospitals), stream)


def noised_histograms(part: Evaluation, histograms: npt.NDArray[np.float64], stream: Stream) -> Vector:
    """Returns the sum of one hospital's test patients' rows as it leaves, (coordinate,).

    Guarantee:
        With the shares of the other honest hospitals, or alone, noise of std noise_multiplier * sensitivity at least is
        in each coordinate of the sum over hospitals. `OpenHistograms` promise nothing.

    Raises:
        PrivacyError: the noise is whole-number shares under masks.
    """
    match part:
        case OpenHistograms():
            return _noised(histograms, 0.0, stream)
        case NoisedHistograms():
            check_unmasked(part)
            std = hospital_std(part.noiser, part.noise.noise_multiplier * part.sensitivity)
            return _noised(histograms, std, stream)
        case _:
            assert_never(part)


def coordinator_noise(part: Part | None, size: int, stream: Stream) -> Vector:
    """Returns the noise that the coordinator adds to a sum, (size,): all of it under `ByCoordinator`, else zeros."""
    std = 0.0
    match part:
        case NoisedCounts(noiser=ByCoordinator()):
            std = part.noise.noise_multiplier
        case NoisedGradients(noiser=ByCoordinator()):
            std = part.noise.noise_multiplier * part.clip.norm
        case _:
            pass  # no other kind leaves noise to the coordinator
    return _noised(np.zeros(size), std, stream)


def check_unmasked(part: NoisedGradients | NoisedCounts | NoisedHistograms) -> None:
    """Refuses to release an answer whose noise is whole-number shares.

    Raises:
        PrivacyError: it may leave under masks only.
    """
    if isinstance(part.noise, DiscreteShares):
        raise PrivacyError("Noise in shares on a grid leaves a hospital under masks; release no sum without them.")


def _check_sensitivity(part: Training, clipped: ClippedSum) -> None:
    norm = clip_of(part).norm
    if clipped.sensitivity > norm:
        raise PrivacyError(
            f"A sum must have sensitivity <= {norm}, the plan's clipping_norm, got {clipped.sensitivity}; clip with "
            "the plan's own norm."
        )


def _noised(values: npt.NDArray[np.floating[Any]], std: float, stream: Stream) -> Vector:
    # A sum in double precision is noised in it: rounded first, it could move by more than its sensitivity.
    noisy = values.copy()
    if std > 0:
        stream.add_normal(noisy, std)
    return noisy.astype(np.float32, copy=False)
