"""What masked sums will cost a study that does not exist yet, from the plan that a run of it would have."""

from dataclasses import replace

from wardround.accounting.accountants import AccountantKind
from wardround.accounting.planning import PlanAnswer, PlanQuestion, plan
from wardround.accounting.terms import Trust
from wardround.errors import PrivacyError
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.promise import insiders_of
from wardround.run.plans import noised

_FEWEST = 3
"""Hospitals in a round: of two, each learns the other's vector from the sum."""


def masked_plan(question: PlanQuestion) -> PlanAnswer:
    """The answer to a question about a study with `sum = "masked"`.

    Epsilon, here and against each adversary, is that of discrete shares on the grid, slack included
    (`wardround.accounting.discrete`): the numbers of `wardround check` for that study, as they come from the same plan.
    The number of patients is a public constant, and one patient is added or removed.

    Raises:
        PrivacyError: masks would hide nobody, the grid cannot carry the noise, or no noise keeps the promise.
    """
    if question.trust is not Trust.SECURE_AGGREGATION:
        raise PrivacyError(
            f"trust must be secure-aggregation for masked sums, got {question.trust}; leave it out."
        )
    if question.hospitals - question.dropouts < _FEWEST:
        raise PrivacyError(
            f"hospitals less dropouts must be >= {_FEWEST} for masked sums, got {question.hospitals} - "
            f"{question.dropouts}. Invite more hospitals, or foresee fewer dropouts."
        )
    asked = PrivacyPlan(
        noise_multiplier=question.noise_multiplier or 1.0,
        clipping_norm=1.0,
        sampling_prob=question.sampling_prob,
        releases=question.rounds,
        delta=question.delta,
        trust=question.trust,
        hospitals=question.hospitals,
        colluders=question.colluders or 0,
        dropouts=question.dropouts,
        num_patients=question.patients,
        accountant=question.accountant,
    )
    found = noised(asked, question.epsilon, question.noise_multiplier, masked=True)
    assert found.shares is not None  # it is masked
    continuous = plan(replace(question, epsilon=None, noise_multiplier=found.noise_multiplier))
    return replace(
        continuous,
        question=question,
        epsilon=found.epsilon,
        rdp_epsilon=replace(found, accountant=AccountantKind.RDP).epsilon,
        insiders=insiders_of(found),
        slack=2 * question.rounds * found.shares.slack,
    )
