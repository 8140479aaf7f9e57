"""The rules of a hospital's `policy.toml`: a study that one of them forbids is neither accepted nor opened.

Every rule reads public facts of a study and its plan. None reads a patient, so that a refusal says nothing of one.
"""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import get_args

from wardround.config import Study
from wardround.config.site import MetricsLevel, PolicyFile
from wardround.errors import PrivacyError
from wardround.noisers import NoiseShares
from wardround.privacy.plans.costs import gaussian_of
from wardround.privacy.plans.kinds import NoisedHistograms
from wardround.privacy.plans.plan import Plan
from wardround.privacy.plans.releases import clip_of
from wardround.privacy.plans.wording import words_of

_MINUTES_OF_A_DAY = 24 * 60


def check_allowed(study: Study, plan: Plan, policy: PolicyFile) -> None:
    """Refuses a study that the policy forbids.

    Raises:
        PrivacyError: the first rule that forbids it; the code names the rule.
    """
    for refusal in refusals(study, plan, policy):
        raise refusal


def refusals(study: Study, plan: Plan, policy: PolicyFile) -> Iterator[PrivacyError]:
    """Yields what a policy has against a study, a rule at a time."""
    rules, words = policy.policy, words_of(plan)
    shares = plan.noiser if isinstance(plan.noiser, NoiseShares) else None
    adaptive = clip_of(plan.training).adaptive  # a norm that follows the gradients may rise in every round
    rises = 0.0 if adaptive is None else adaptive.rate * adaptive.quantile * (study.training_rounds - 1)
    norm = words.bound * math.exp(min(rises, 700.0))  # beyond, a float has no place for it
    weights, threads, own = study.model.weights_sha256, study.performance.threads, study.model.own_encoder
    at_most = (
        ("delta", "`[privacy] delta`", plan.delta, rules.delta),
        ("most-epsilon", "epsilon", plan.epsilon, rules.most_epsilon),
        ("most-epsilon", "`[evaluation] epsilon`", _noised_epsilon(plan), rules.most_epsilon),
        ("greatest-clip", f"`[privacy] {words.bound_name}`", norm, rules.greatest_clipping_norm),
        ("spare", "`[privacy] spare_attempts`", study.privacy.spare, rules.most_spare_attempts),
        ("threads", "`[performance] threads`", threads or 0, rules.threads),
    )
    at_least = (
        ("least-hospitals", "`[hospitals] count`", study.hospitals.count, rules.least_hospitals),
        ("least-colluders", "`[privacy] colluders`", shares.colluders if shares else None, rules.least_colluders),
        ("least-patients", "`[privacy] num_patients`", plan.public_size or 0, rules.least_patients),
        ("least-noise", "the noise multiplier", words.noise_multiplier, rules.least_noise_multiplier),
        ("least-noise", "the noise multiplier of `[evaluation]`", _noise_of(plan), rules.least_noise_multiplier),
    )
    one_of = (
        ("plan", "`[privacy] plan`", study.privacy.plan, rules.plans),
        ("trust", "`[privacy] trust`", str(plan.trust), rules.trusts),
        ("network", "`[model] name`", study.model.name, rules.networks),
        ("weights", "`[model] weights_sha256`", weights, rules.weights),
        ("weights", "`[model.own_encoder] sha256`", None if own is None else own.sha256, rules.weights),
    )
    for code, what, value, most in at_most:
        if most is not None and value > most:
            yield _refusal(code, f"{what} must be at most {most:g} by this hospital's policy, got {value:g}")
    for code, what, size, least in at_least:
        if least is not None and size is not None and size < least:
            yield _refusal(code, f"{what} must be at least {least:g} by this hospital's policy, got {size:g}")
    for code, what, name, allowed in one_of:
        if allowed is not None and name is not None and name not in allowed:
            yield _refusal(
                code, f"{what} must be one of {', '.join(allowed)} by this hospital's policy, got {name}"
            )
    try:
        check_metrics(study.evaluation.level, policy)
    except PrivacyError as refusal:
        yield refusal


def _noised_epsilon(plan: Plan) -> float:
    """Returns the epsilon of a test patient; 0 where figures leave as they are, which a rule of its own allows."""
    return plan.evaluation_epsilon if isinstance(plan.evaluation, NoisedHistograms) else 0.0


def _noise_of(plan: Plan) -> float | None:
    """Returns the noise multiplier of an evaluation; None where figures leave as they are, or none does."""
    part = plan.evaluation
    return gaussian_of(part.noise).noise_multiplier if isinstance(part, NoisedHistograms) else None


def check_metrics(level: MetricsLevel, policy: PolicyFile) -> None:
    """Refuses figures of test patients that the policy keeps in the hospital.

    Args:
        level: the protection with which a study asks for them; "none" asks for none.
        policy: says which may leave: none, those that are noised and charged, or those without protection as well.

    Raises:
        PrivacyError: the policy allows less.
    """
    levels = get_args(MetricsLevel)
    if levels.index(level) > levels.index(policy.policy.metrics):
        raise _refusal(
            "metrics", f"metrics that leave must be {policy.policy.metrics} by this hospital's policy, got {level}"
        )


def quiet_for(policy: PolicyFile, now: datetime) -> int:
    """Returns the seconds until the policy's quiet hours end, by the hospital's own clock; 0 outside them."""
    if policy.policy.quiet_hours is None:
        return 0
    begin, end = (int(at[:2]) * 60 + int(at[3:]) for at in policy.policy.quiet_hours)
    minute = now.hour * 60 + now.minute
    left = (end - minute) % _MINUTES_OF_A_DAY
    is_quiet = (minute - begin) % _MINUTES_OF_A_DAY < (end - begin) % _MINUTES_OF_A_DAY
    return left * 60 - now.second if is_quiet else 0


def _refusal(rule: str, sentence: str) -> PrivacyError:
    return PrivacyError(
        f"{sentence}. Ask for another study, or change policy.toml.", code=f"privacy-policy-{rule}"
    )
