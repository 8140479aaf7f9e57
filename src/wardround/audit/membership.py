"""Membership inference: was a patient in the training of a released model?

With phi = ln(p / (1 - p)) of the true class:

| attack | score of a patient |
|---|---|
| loss threshold | ln p under the model |
| LiRA | likelihood ratio of phi among shadow models with the patient and without |
| RMIA | share of all patients for whom p is a smaller part of its mean over shadow models |

The unit is the patient: phi is the mean over the pictures that training would take of a patient. Where models of
several rounds were released, LiRA takes the one linear combination of their phi that tells shadow models apart best.
RMIA's threshold gamma is 1: all patients are compared with the same patients, so that another gamma orders them alike.

Sources:
    Yeom et al. 2018, https://arxiv.org/abs/1709.01604: loss threshold.
    Carlini et al. 2022, https://arxiv.org/abs/2112.03570, algorithm 1: LiRA.
    Zarifzadeh et al. 2024, https://arxiv.org/abs/2312.03262: RMIA.

Computed from real patients, and protected by nothing: the figures stay with those who hold the pictures.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from wardround.audit.bounds import Float64, upper_limit
from wardround.audit.shadows import Inclusion

RATES = (0.001, 0.01)
"""Rates of false positives at which true positives are counted."""
CONFIDENCE = 0.95
_SHRINKAGE = 16
"""Shadow models that the mean variance over all patients counts for, beside each patient's own."""


@dataclass(frozen=True)
class AtRate:
    """True positives at a threshold with at most a given rate of false positives.

    Attributes:
        rate: that was asked for.
        reached: that the threshold has among these non-members; 0 where they are too few for the rate.
        true_positives: rate of members above the threshold.
        low: Clopper-Pearson limit at `CONFIDENCE`, two-sided.
        high: the other.
    """

    rate: float
    reached: float
    true_positives: float
    low: float
    high: float


@dataclass(frozen=True)
class Attacked:
    """The outcome of one attack on some patients.

    Attributes:
        members: trials with a member.
        others: trials with another patient.
        auroc: chance that a member scores higher.
        at: true positives at each of `RATES`.
    """

    attack: str
    members: int
    others: int
    auroc: float
    at: tuple[AtRate, ...]


def attacked(attack: str, scores: Float64, is_member: Inclusion, of: Inclusion | None = None) -> Attacked:
    """Returns what scores tell of membership, (trial,) each.

    Args:
        attack: its name.
        scores: a higher one means a member.
        is_member: the truth.
        of: trials that are counted, for a subgroup; thresholds are those of all. None counts all.
    """
    counted = np.ones(len(scores), dtype=bool) if of is None else of
    members, others = scores[is_member & counted], scores[~is_member & counted]
    at = tuple(_at_rate(scores[~is_member], members, others, rate) for rate in RATES)
    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    area = (ranks.sum() - len(members) * (len(members) + 1) / 2) / max(1, len(members) * len(others))
    return Attacked(attack, len(members), len(others), float(area), at)


def scores_of(target: Float64, shadows: Float64, inclusion: Inclusion) -> dict[str, Float64]:
    """Returns the score of each patient by each attack, (patient,).

    Args:
        target: phi under the attacked models, (round, patient), the last one the final model.
        shadows: phi under shadow models, (shadow, round, patient).
        inclusion: whether a patient is in, (shadow, patient).
    """
    weights = discriminant(shadows, inclusion)
    return {
        "loss threshold": -np.logaddexp(0, -target[-1]),
        "LiRA": likelihood_ratio(weights @ target, np.einsum("r,srn->sn", weights, shadows), inclusion),
        "RMIA": relative(target[-1], shadows[:, -1], inclusion),
    }


def discriminant(shadows: Float64, inclusion: Inclusion) -> Float64:
    """Returns the combination of rounds that best tells shadow models with a patient from those without, (round,).

    The last round alone where no shadow model differs from another, as of updates of which hardly a number leaves.
    """
    centred = shadows - _mean(shadows, ~inclusion)
    inside = centred[np.nonzero(inclusion)[0], :, np.nonzero(inclusion)[1]]
    outside = centred[np.nonzero(~inclusion)[0], :, np.nonzero(~inclusion)[1]]
    within = np.cov(np.concatenate([inside - inside.mean(axis=0), outside]), rowvar=False).reshape(
        shadows.shape[1], -1
    )
    least, last = 1e-9 * np.trace(within) / len(within), np.asarray(np.eye(len(within))[-1])
    if least < np.finfo(np.float64).tiny:
        return last
    within += least * np.eye(len(within))
    found = np.linalg.solve(within, inside.mean(axis=0) - outside.mean(axis=0))
    size = float(np.abs(found).max())
    return found / size if size > 0 else last


def likelihood_ratio(target: Float64, shadows: Float64, inclusion: Inclusion) -> Float64:
    """Returns LiRA's score of each patient, (patient,), from a statistic under one target and all shadow models."""
    total = np.zeros_like(target)
    for is_in, sign in ((inclusion, 1.0), (~inclusion, -1.0)):
        mean = _mean(shadows, is_in)
        square, count = _mean((shadows - mean) ** 2, is_in), is_in.sum(axis=0)
        # Few shadow models tell little of one patient's spread: it is drawn to that of all patients.
        square = (count * square + _SHRINKAGE * square.mean()) / (count + _SHRINKAGE)
        spread = np.sqrt(np.maximum(square, 1e-24))
        total += sign * (-0.5 * ((target - mean) / spread) ** 2 - np.log(spread))
    return total


def relative(target: Float64, shadows: Float64, inclusion: Inclusion) -> Float64:
    """Returns RMIA's score of each patient, (patient,)."""
    p = 1 / (1 + np.exp(-shadows))
    usual = (_mean(p, inclusion) + _mean(p, ~inclusion)) / 2
    ratio = 1 / (1 + np.exp(-target)) / np.maximum(usual, 1e-12)
    return np.asarray(np.searchsorted(np.sort(ratio), ratio, side="right") / len(ratio))


def _mean(values: Float64, of: Inclusion) -> Float64:
    """Returns the mean over the shadow models that hold, (shadow, ..., patient) to (..., patient)."""
    held = of.reshape(len(of), *[1] * (values.ndim - 2), -1)
    return np.asarray((values * held).sum(axis=0) / np.maximum(held.sum(axis=0), 1))


def _at_rate(all_others: Float64, members: Float64, others: Float64, rate: float) -> AtRate:
    """Returns true positives at the least threshold with no more false positives than the rate allows."""
    allowed = int(rate * len(all_others))
    threshold = np.sort(all_others)[len(all_others) - 1 - allowed] if len(all_others) > allowed else -np.inf
    hits, count = int((members > threshold).sum()), max(1, len(members))
    each = (1 - CONFIDENCE) / 2
    return AtRate(
        rate, float((others > threshold).mean()) if len(others) else 0.0, hits / count,
        1 - upper_limit(count - hits, count, each), upper_limit(hits, count, each),
    )  # fmt: skip
