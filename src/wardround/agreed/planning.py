"""The cost of masked sums for a study that does not exist yet, from the plan that a run of it would have."""

from dataclasses import replace

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.events import GaussianEvent
from wardround.accounting.planning import PlanAnswer, PlanQuestion, plan
from wardround.agreed.plans import noised
from wardround.errors import PrivacyError
from wardround.noisers import NoiseShares, trust_of
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.kinds import Clip, NoisedGradients, PublicSize
from wardround.privacy.plans.plan import Plan

_FEWEST = 3
"""Hospitals in a round: of two, each learns the other's vector from the sum."""


def masked_plan(question: PlanQuestion) -> PlanAnswer:
    """Returns the answer to a question about a study with `sum = "masked"`.

    Epsilon, here and against each adversary, is that of discrete shares on the grid, slack included
    (`wardround.accounting.discrete`): the numbers of `wardround check` for that study, as they come from the same plan.
    The number of patients is a public constant, and one patient is added or removed.

    Raises:
        PrivacyError: masks would hide no hospital, the grid cannot carry the noise, or no noise keeps the promise.
    """
    noiser = question.noiser
    if not isinstance(noiser, NoiseShares):
        raise PrivacyError(
            f"trust must be secure-aggregation for masked sums, got {trust_of(noiser)}; leave it out."
        )
    if noiser.hospitals - noiser.dropouts < _FEWEST:
        raise PrivacyError(
            f"hospitals less dropouts must be >= {_FEWEST} for masked sums, got {noiser.hospitals} - "
            f"{noiser.dropouts}. Invite more hospitals, or foresee fewer dropouts."
        )
    unit, size = GaussianEvent(question.noise_multiplier or 1.0), PublicSize(question.patients)
    sums = NoisedGradients(Clip(1.0), unit, question.sampling_prob, question.rounds, size, noiser)
    asked = Plan((sums,), question.delta, question.accountant)
    found = noised(asked, question.epsilon, question.noise_multiplier, masked=True)
    assert found.masked is not None  # it is masked
    continuous = plan(replace(question, epsilon=None, noise_multiplier=found.masked.noise_multiplier))
    return replace(
        continuous,
        question=question,
        epsilon=found.epsilon,
        rdp_epsilon=replace(found, accountant=AccountantKind.RDP).epsilon,
        insiders=insiders_of(found),
        slack=2 * question.rounds * found.masked.slack,
    )
