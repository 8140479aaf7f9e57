"""Lower bounds on epsilon from counted attacks, and the largest bound that a number of trials can show.

| bound | trials | valid for |
|---|---|---|
| `clopper_pearson` | independent runs in two neighbouring worlds | every (epsilon, delta)-DP mechanism |
| `gdp` | the same | mu-GDP mechanisms: a bound on mu |
| `one_run` | canaries of one run, each with a fair coin of its own | every (epsilon, delta)-DP mechanism |
| `one_run_fdp` | the same | mechanisms whose trade-off curve lies above that of mu-GDP: a bound on mu |

A bound holds with confidence 1 - alpha over the randomness of the trials. Its ceiling is the bound that the same trials
give when every guess is right. A low bound with a low ceiling says little.

Sources:
    Jagielski, Ullman and Oprea 2020, https://arxiv.org/abs/2006.07709, section 3: two-sided Clopper-Pearson.
    Nasr et al. 2023, https://arxiv.org/abs/2302.07956, section 4: bounds on mu.
    Steinke, Nasr and Jagielski 2023, https://arxiv.org/abs/2305.08846, Theorem 5.2: one run.
    Mahloujifar, Melis and Chaudhuri 2024, https://arxiv.org/abs/2410.22235, Algorithm 3: one run, f-DP.
    Dong, Roth and Su 2019, https://arxiv.org/abs/1905.02383, Corollary 2.13: delta(epsilon) of mu-GDP.

jax_privacy 2.0.0 turns trade-off points into mu by |Phi^-1(1 - FPR) - Phi^-1(FNR)|. The absolute value is wrong: at
thresholds where the confidence limits overlap the difference is negative and shows nothing. Here it is clamped at 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import betaincinv, log_ndtr, ndtr, ndtri

Float64 = npt.NDArray[np.float64]

_LARGEST = 200.0
"""Bounds on epsilon or mu are sought up to this; larger ones are printed as this."""
_LEAST = 1e-9
_STEPS = 60


def upper_limit(errors: int, trials: int, alpha: float) -> float:
    """Returns the one-sided upper Clopper-Pearson limit of a rate, BetaInv(1 - alpha; errors + 1, trials - errors).

    Edge cases: 1 where every trial is an error, or there is none.

    >>> round(upper_limit(0, 1000, 0.025), 6)
    0.003682
    """
    return float(upper_limits(np.array(errors), trials, alpha))


def upper_limits(errors: Float64 | npt.NDArray[np.int64], trials: int, alpha: float) -> Float64:
    """Returns the upper limits of several rates, of the shape of `errors`; see `upper_limit`."""
    left = np.maximum(trials - errors, 0)
    return np.where(left > 0, betaincinv(errors + 1, np.where(left > 0, left, 1.0), 1 - alpha), 1.0)


def clopper_pearson(
    false_positives: int, negatives: int, false_negatives: int, positives: int, delta: float, alpha: float
) -> float:
    """Returns a lower bound on epsilon from the two error rates of a distinguisher in independent trials.

    With U and V the upper limits of both rates at alpha / 2 each:

        epsilon >= max(0, ln((1 - V - delta) / U), ln((1 - U - delta) / V))

    The threshold of the distinguisher must be fixed without these trials.

    >>> round(clopper_pearson(0, 1000, 0, 1000, 1e-5, 0.05), 6)
    5.600577
    >>> round(clopper_pearson(5, 1000, 900, 1000, 1e-5, 0.05), 6)
    1.954339
    """
    u = upper_limit(false_positives, negatives, alpha / 2)
    v = upper_limit(false_negatives, positives, alpha / 2)
    return epsilon_of_limits(u, v, delta)


def epsilon_of_limits(u: float, v: float, delta: float) -> float:
    """Returns the least epsilon at which error rates of at most `u` and `v` are possible at delta."""
    return max([0.0, *(math.log((1 - a - delta) / b) for a, b in ((v, u), (u, v)) if 1 - a > delta)])


def mu_of_errors(
    false_positives: int, negatives: int, false_negatives: int, positives: int, alpha: float
) -> float:
    """Returns a lower bound on mu from the two error rates: max(0, Phi^-1(1 - U) - Phi^-1(V)).

    >>> mu_of_errors(500, 1000, 500, 1000, 0.05)
    0.0
    >>> round(mu_of_errors(160, 1000, 500, 1000, 0.05), 4)
    0.8205
    """
    u = upper_limit(false_positives, negatives, alpha / 2)
    v = upper_limit(false_negatives, positives, alpha / 2)
    if u >= 1 or v >= 1:
        return 0.0
    return max(0.0, float(stats.norm.ppf(1 - u) - stats.norm.ppf(v)))


def gdp(without: Float64, within: Float64, thresholds: Float64, alpha: float) -> float:
    """Returns a lower bound on mu from scores in two worlds: the best over thresholds, each at alpha / thresholds.

    A score above the threshold is the guess that the patient is in. The thresholds must be fixed without these scores.
    """
    each = alpha / len(thresholds)
    bounds = [
        mu_of_errors(int((without > at).sum()), len(without), int((within <= at).sum()), len(within), each)
        for at in thresholds
    ]
    return max(bounds)


def epsilon_of_mu(mu: float, delta: float) -> float:
    """Returns epsilon of mu-GDP at delta: the root of Phi(-e/mu + mu/2) - exp(e) Phi(-e/mu - mu/2) = delta.

    >>> round(epsilon_of_mu(1.0, 1e-5), 3)
    4.377
    """
    return 0.0 if mu <= 0 else _largest(lambda epsilon: _delta_of_mu(mu, epsilon) > delta, most=mu * (mu / 2 + 40))


def mu_of_epsilon(epsilon: float, delta: float) -> float:
    """Returns the largest mu whose mu-GDP mechanisms are (epsilon, delta)-DP.

    >>> round(mu_of_epsilon(epsilon_of_mu(1.3, 1e-5), 1e-5), 6)
    1.3
    """
    return _largest(lambda mu: _delta_of_mu(mu, epsilon) < delta, most=40.0)


def one_run(canaries: int, guesses: int, correct: int, delta: float, alpha: float) -> float:
    """Returns a lower bound on epsilon from guesses about fair coins of one run (Steinke et al. 2023, Theorem 5.2).

    With p = 1 / (1 + exp(-epsilon)), r guesses of which v are right, and m canaries:

        beta = P[Bin(r, p) >= v],   a = max over 1 <= i <= v of P[v > Bin(r, p) >= v - i] / i
        p-value = min(1, beta + 2 m delta a)

    The bound is the largest epsilon whose p-value is below alpha; 0 if there is none. Delta must be far below 1 / m.

    >>> round(one_run(1000, 100, 100, 1e-5, 0.05), 6)
    3.465376
    >>> round(one_run(1000, 200, 180, 0.0, 0.05), 6)
    1.798865
    """
    if correct == 0:
        return 0.0
    shortfall = np.arange(1, correct + 1)

    def is_rejected(epsilon: float) -> bool:
        p = 1 / (1 + math.exp(-epsilon))
        beta = float(stats.binom.sf(correct - 1, guesses, p))
        if delta == 0 or beta >= alpha:
            return beta < alpha
        between = stats.binom.sf(correct - shortfall - 1, guesses, p) - beta
        return beta + 2 * canaries * delta * float(np.max(between / shortfall)) < alpha

    return _largest(is_rejected)


def one_run_fdp(canaries: int, guesses: int, correct: int, alpha: float) -> float:
    """Returns a lower bound on mu from guesses about fair coins of one run (Mahloujifar et al. 2024, Algorithm 3).

    With g(x) = Phi(Phi^-1(x) - mu), k guesses of which v are right, and m canaries:

        r = alpha v / m,  h = alpha (k - v) / m
        for i = v - 1 .. 0:  h' = max(h, g(r));  r = min(1, r + i / (k - i) (h' - h));  h = h'

    mu is rejected if r + h > k / m. The bound says nothing of a mechanism whose trade-off curve lies below that of
    mu-GDP somewhere.
    """

    def is_rejected(mu: float) -> bool:
        r, h = alpha * correct / canaries, alpha * (guesses - correct) / canaries
        for i in range(correct - 1, -1, -1):
            following = max(h, _blown_down(r, mu))
            if following == h:
                break
            r, h = min(1.0, r + i / (guesses - i) * (following - h)), following
        return r + h > guesses / canaries

    return _largest(is_rejected, most=40.0)


@dataclass(frozen=True)
class Bound:
    """A lower bound, and the largest that the same number of trials can show.

    Attributes:
        epsilon: the bound; of bounds on mu, its epsilon at the claim's delta.
        ceiling: the bound if every guess were right.
        mu: the bound on mu; None where the method bounds epsilon.
        trials: canaries, or runs in both worlds together.
        guesses: of these, those that were counted.
        correct: right guesses; None where several thresholds were tried.
        confidence: 1 - alpha.
        rule: the threshold rule.
        assumes: the class of mechanisms that the bound is valid for.
    """

    method: str
    epsilon: float
    ceiling: float
    trials: int
    guesses: int
    correct: int | None
    confidence: float
    rule: str
    assumes: str
    mu: float | None = None


def _delta_of_mu(mu: float, epsilon: float) -> float:
    second = math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))
    return float(ndtr(-epsilon / mu + mu / 2)) - second


def _blown_down(x: float, mu: float) -> float:
    return 0.0 if x <= 0 else float(ndtr(ndtri(x) - mu))


def _largest(holds: Callable[[float], bool], most: float = _LARGEST) -> float:
    """Returns the largest argument in [0, most] for which a decreasing condition holds, by bisection; 0 if none."""
    if not holds(_LEAST):
        return 0.0
    low, high = 0.0, most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
