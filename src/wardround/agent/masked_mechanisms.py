"""The integer mechanisms of a masked run: of its gradients, and of the number of patients where it is counted.

Everything follows from the plan and the number of trained parameters, so that whoever has the study file has the same:
what a hospital agrees on, what is checked before a run, and what epsilon was computed for.
"""

from wardround.accounting.discrete import DiscreteShares
from wardround.agent.masked_count import COORDINATES
from wardround.errors import PrivacyError
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.sampling import largest_sample
from wardround.secure_aggregation.mechanism import IntegerMechanism
from wardround.secure_aggregation.witness import WITNESSES


def mechanism_of(plan: PrivacyPlan, parameters: int, num_patients: int | None) -> IntegerMechanism:
    """The mechanism of a plan's masked sums over that many parameters, with an adaptive norm's count and witnesses.

    The ring is the smallest in which no sum of a round wraps around, of as many patients as the plan's sampling takes
    but for a chance of `wardround.privacy.sampling.LARGER_SAMPLE`. It has no part in the guarantee.

    Args:
        plan: with shares.
        parameters: trained.
        num_patients: public number of all hospitals; None, where nobody knows it beforehand, takes the widest ring.

    Raises:
        FederationError: no ring holds sums over so many patients.
        PrivacyError: the plan's sums are not masked, or its grid cannot carry so many parameters.
    """
    shares = plan.shares
    if shares is None:
        raise PrivacyError(
            "A plan must have discrete shares of noise for masked sums, got one without.", code="privacy-no-shares"
        )
    mechanism = IntegerMechanism(
        plan.clipping_norm,
        plan.noise_multiplier,
        parameters + plan.counted_coordinates + WITNESSES,
        plan.hospitals,
        plan.colluders,
        plan.dropouts,
        grid_bits=shares.share_std.bit_length() - 1,
        rounding=plan.rounding,
    )
    found = (mechanism.share_std, mechanism.honest, mechanism.sensitivity)
    if found != (shares.share_std, shares.shares, shares.sensitivity) or mechanism.dimension > shares.dimension:
        raise PrivacyError(
            f"The mechanism must be the one that epsilon was computed for, {shares}, got {mechanism}.",
            code="privacy-other-mechanism",
        )
    if num_patients is None:
        return mechanism
    return mechanism.for_patients(largest_sample(num_patients, plan.sampling_prob))


def count_mechanism_of(plan: PrivacyPlan) -> IntegerMechanism | None:
    """The mechanism of a plan's masked count; None where the number of patients is public.

    Its ring is the widest, as nobody knows beforehand how many there are to count.

    Raises:
        PrivacyError: the grid is not the one that epsilon was computed for.
    """
    shares = plan.count_shares
    if shares is None:
        return None
    mechanism = counting(plan)
    if shares_of_count(mechanism) != shares:
        raise PrivacyError(
            f"The count must be the one that epsilon was computed for, {shares}, got {mechanism}.",
            code="privacy-other-mechanism",
        )
    return mechanism


def counting(plan: PrivacyPlan) -> IntegerMechanism:
    """The mechanism whose count has the plan's noise multiplier, or a hair more."""
    return IntegerMechanism(
        1.0, plan.count_noise_multiplier, COORDINATES, plan.hospitals, plan.colluders, plan.dropouts
    )


def shares_of_count(mechanism: IntegerMechanism) -> DiscreteShares:
    """The noise of a count as the accountant knows it."""
    return DiscreteShares(mechanism.share_std, mechanism.honest, mechanism.sensitivity, mechanism.dimension)
