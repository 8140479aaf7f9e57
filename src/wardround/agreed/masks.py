"""The integer mechanisms of a masked run: of its gradients, and of the number of patients where it is counted.

Everything follows from the plan and the number of trained parameters, so that every party with the study file has the
same: what a hospital agrees on, what is checked before a run, and what epsilon was computed for.
"""

from collections.abc import Mapping

from wardround import __version__
from wardround.accounting.discrete import DiscreteShares
from wardround.config import Study
from wardround.errors import PrivacyError
from wardround.noisers import NoiseShares
from wardround.privacy.plans.kinds import NoisedGradients, NoisedHistograms
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of
from wardround.privacy.plans.wording import clipping_terms
from wardround.randomness.sampling import largest_sample
from wardround.secure_aggregation.canonical import digest
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.round.agreement import Agreement
from wardround.secure_aggregation.round.witness import WITNESSES
from wardround.work import histogram_coordinates

COUNT_COORDINATES = 1 + WITNESSES
"""Coordinates of a count: the number, and noise alone."""


def mechanism_of(plan: Plan, parameters: int) -> IntegerMechanism:
    """Returns the mechanism of a plan's masked sums over that many parameters, an adaptive norm's count and witnesses.

    The ring is the widest; `fitting` takes the smallest that does.

    Raises:
        PrivacyError: the plan's sums are not masked, or its grid cannot carry so many parameters.
    """
    part = plan.main
    if isinstance(part, NoisedHistograms) and (evaluation := evaluation_mechanism_of(plan)) is not None:
        return evaluation  # of the only sum
    if not isinstance(part, NoisedGradients) or not isinstance(part.noise, DiscreteShares):
        raise PrivacyError(
            "A plan must have discrete shares of noise for masked sums, got one without.", code="privacy-no-shares"
        )
    return _carrying(part.noise, plan, part.clip.norm, parameters + part.clip.counted_coordinates + WITNESSES)


def fitting(mechanism: IntegerMechanism, plan: Plan) -> IntegerMechanism:
    """Returns the mechanism in the smallest ring in which no sum of a round wraps around.

    The sum is of as many patients as the plan's sampling takes but for a chance of
    `wardround.randomness.LARGER_SAMPLE`, where the public number of patients is the expected one. The ring has no part
    in the guarantee. Where patients are counted their number is not known beforehand, and the ring stays the widest.

    Raises:
        FederationError: no ring holds sums over so many patients.
    """
    part = plan.training
    if plan.public_size is None or not isinstance(part, NoisedGradients):
        return mechanism
    return mechanism.for_patients(largest_sample(plan.public_size, part.sampling_prob))


def count_mechanism_of(plan: Plan) -> IntegerMechanism | None:
    """Returns the mechanism of a plan's masked count; None where the number of patients is public.

    Its ring is the widest, as the number of patients to count is not known beforehand.
    """
    if plan.count is None or not isinstance(plan.count.noise, DiscreteShares):
        return None
    return _carrying(plan.count.noise, plan, 1.0, COUNT_COORDINATES)


def evaluation_coordinates(classes: int) -> int:
    """Returns the coordinates of an evaluation: the histograms, and noise alone."""
    return histogram_coordinates(classes) + WITNESSES


def evaluation_mechanism_of(plan: Plan) -> IntegerMechanism | None:
    """Returns the mechanism of a plan's masked evaluation; None where no histogram leaves under masks.

    Its ring is the widest, as the number of test patients is not known beforehand.
    """
    part = plan.evaluation
    if not isinstance(part, NoisedHistograms) or not isinstance(part.noise, DiscreteShares):
        return None
    return _carrying(part.noise, plan, part.sensitivity, evaluation_coordinates(part.classes))


def agreement_of(study: Study, plan: Plan, parameters: int, keys: Mapping[str, bytes]) -> Agreement:
    """Returns what the hospitals of a masked run agree on.

    `keys` are the public signing keys of all hospitals, by name; they name the run.

    Raises:
        FederationError: no ring holds sums over so many patients.
        PrivacyError: the grid cannot carry so many parameters.
    """
    return Agreement(
        run=digest("wardround/v1/simulated-run", sorted(keys.items())).hex(),
        study=study.digest,
        mechanism=fitting(mechanism_of(plan, parameters), plan),
        rounds=study.rounds,
        code_version=__version__,
        clipping=clipping_terms(clip_of(plan.training)),
        count=count_mechanism_of(plan),
        evaluation=evaluation_mechanism_of(plan),
    )


def shares_for(
    noise_multiplier: float, clipping_norm: float, coordinates: int, noiser: NoiseShares
) -> DiscreteShares:
    """Returns shares of noise on a grid that are worth a noise multiplier, or a hair more.

    `noise_multiplier` is std over sensitivity, and `clipping_norm` the L2 norm of what one patient adds; the slack of
    whole-number noise is charged for so many `coordinates`.

    Raises:
        PrivacyError: the grid cannot carry the noise.
    """
    mechanism = IntegerMechanism(clipping_norm, noise_multiplier, 1, noiser)
    return DiscreteShares(mechanism.share_std, noiser.honest, mechanism.sensitivity, coordinates)


def _carrying(shares: DiscreteShares, plan: Plan, clipping_norm: float, dimension: int) -> IntegerMechanism:
    """Returns the mechanism that adds these shares; its sensitivity must be the one that epsilon was computed for."""
    if not isinstance(plan.noiser, NoiseShares):
        raise PrivacyError(
            "Masked sums have shares of noise from every hospital, and this plan has another noiser."
        )
    mechanism = IntegerMechanism(clipping_norm, shares.noise_multiplier, dimension, plan.noiser)
    found = (mechanism.share_std, plan.noiser.honest, mechanism.sensitivity)
    if found != (shares.share_std, shares.shares, shares.sensitivity) or dimension > shares.dimension:
        raise PrivacyError(
            f"The mechanism must be the one that epsilon was computed for, {shares}, got {mechanism}.",
            code="privacy-other-mechanism",
        )
    return mechanism
