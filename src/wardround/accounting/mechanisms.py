"""The noise of one mechanism, in closed form: Gaussian both ways, Laplace, and exact Gaussian composition.

A `noise_multiplier` is (std of the Gaussian noise) / (L2 sensitivity), or (scale of the Laplace noise) /
(L1 sensitivity). Whatever is solved numerically is returned from the private side: an epsilon is never too
small and a noise multiplier never gives less privacy than asked for.

Sources:
    Balle and Wang 2018, https://arxiv.org/abs/1805.06530: Theorem 8 (exact delta), section 3 (calibration).
    Dong, Roth and Su 2019, https://arxiv.org/abs/1905.02383: Corollary 2.13 (μ-GDP and (ε, δ)), Corollary 3.3
    (composition), Theorem 2.14 (groups).
    Dwork and Roth 2014, Theorem A.1 (the classical Gaussian mechanism) and Theorem 3.6 (Laplace).
"""

import math
from collections.abc import Callable

from wardround.errors import PrivacyError

_BISECTIONS = 200
"""More than enough to halve any interval of floats down to two neighbours; the loops stop there."""


def check_epsilon(epsilon: float) -> None:
    """Refuses an epsilon that cannot be asked for."""
    if not epsilon > 0:
        raise PrivacyError(f"epsilon must be > 0, got {epsilon}. Choose a value such as 1.")


def check_delta(delta: float) -> None:
    """Refuses a delta that is no probability of failure."""
    if not 0 < delta < 1:
        raise PrivacyError(
            f"delta must be > 0 and < 1, got {delta}. Choose less than 1 / (number of patients), such as 1e-5."
        )


def check_noise_multiplier(noise_multiplier: float) -> None:
    """Refuses a noise multiplier that adds no noise, or nothing but noise."""
    if not 0 < noise_multiplier < math.inf:
        raise PrivacyError(
            f"noise_multiplier must be > 0 and finite, got {noise_multiplier}. "
            "It is (std of the noise) / (clipping_norm); a release without noise is a NonPrivateEvent."
        )


def gaussian_delta(epsilon: float, noise_multiplier: float) -> float:
    """Smallest delta of one Gaussian release at `epsilon`, exact (Balle and Wang 2018, Theorem 8).

    δ = Φ(a) - exp(ε) Φ(b), with a = 1/(2σ) - εσ, b = -1/(2σ) - εσ and σ the noise multiplier. As
    exp(ε) φ(b) = φ(a), the second term is φ(a) times the Mills ratio at -b, which neither over- nor underflows:
    δ is good to nine digits, down to the smallest floats, for noise multipliers up to 1000.

    >>> round(gaussian_delta(1.0, 3.730632), 10)
    1e-05
    """
    from scipy.special import erfcx, ndtr

    if not epsilon >= 0:
        raise PrivacyError(f"epsilon must be >= 0, got {epsilon}. Give the epsilon at which delta is wanted.")
    check_noise_multiplier(noise_multiplier)
    if epsilon == math.inf:
        return 0.0
    a = 1 / (2 * noise_multiplier) - epsilon * noise_multiplier
    b = -1 / (2 * noise_multiplier) - epsilon * noise_multiplier
    lower = math.exp(-a * a / 2) / 2 * float(erfcx(-b / math.sqrt(2)))
    return min(1.0, max(0.0, float(ndtr(a)) - lower))


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Smallest epsilon of one Gaussian release at `delta`, exact.

    >>> round(gaussian_epsilon(1.993812, 1e-5), 4)
    2.0
    """
    check_noise_multiplier(noise_multiplier)
    check_delta(delta)
    mu = 1 / noise_multiplier
    if gaussian_delta(0.0, noise_multiplier) <= delta:
        return 0.0
    # δ(ε) <= Φ(a) <= exp(-a²/2), which is δ at this epsilon.
    enough = mu * (mu / 2 + math.sqrt(2 * math.log(1 / delta)))
    return _smallest(lambda epsilon: gaussian_delta(epsilon, noise_multiplier) <= delta, 0.0, enough)


def analytic_gaussian_noise_multiplier(epsilon: float, delta: float) -> float:
    """Smallest noise multiplier of an (epsilon, delta) Gaussian release (Balle and Wang 2018, section 3).

    >>> round(analytic_gaussian_noise_multiplier(2.0, 1e-5), 6)
    1.993812
    """
    check_epsilon(epsilon)
    check_delta(delta)
    if epsilon == math.inf:
        raise PrivacyError("epsilon must be finite to calibrate noise, got infinity. Give a finite epsilon.")
    low = high = 1.0
    while gaussian_delta(epsilon, high) > delta:
        high *= 2
    while gaussian_delta(epsilon, low) <= delta and low > 1e-150:
        low /= 2
    return _smallest(lambda z: gaussian_delta(epsilon, z) <= delta, low, high)


def laplace_epsilon(noise_multiplier: float, delta: float = 0.0) -> float:
    """Smallest epsilon of one Laplace release: 1/b with delta 0, and 1/b + 2 ln(1 - δ) with delta.

    >>> laplace_epsilon(0.5)
    2.0
    """
    check_noise_multiplier(noise_multiplier)
    if delta:
        check_delta(delta)
    return max(0.0, 1 / noise_multiplier + 2 * math.log1p(-delta))


def local_laplace_epsilon(dimension: int, scale: float) -> float:
    """Epsilon of noising one whole picture: Laplace of `scale` on each of `dimension` values in [0, 1].

    Two pictures can differ in every value by 1, so the L1 sensitivity is `dimension`, not 1.

    >>> local_laplace_epsilon(256 * 256, 1.0)
    65536.0
    """
    if dimension < 1:
        raise PrivacyError(f"dimension must be >= 1, got {dimension}. Count the values of one picture.")
    return laplace_epsilon(scale / dimension)


def gdp_mu(noise_multiplier: float, releases: int = 1) -> float:
    """The μ of `releases` Gaussian releases in a row: sqrt(releases) / σ, exact."""
    check_noise_multiplier(noise_multiplier)
    return math.sqrt(releases) / noise_multiplier


def gdp_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon of a μ-GDP mechanism at `delta`; infinite μ is no guarantee."""
    if mu == 0:
        check_delta(delta)
        return 0.0
    return math.inf if mu == math.inf else gaussian_epsilon(1 / mu, delta)


def group_epsilon(mu: float, delta: float, group_size: int) -> float:
    """Epsilon for `group_size` units at once of a μ-GDP mechanism: the group has (group_size μ)-GDP, exact.

    >>> round(group_epsilon(0.0384, 1e-5, 50), 1)
    9.5
    """
    if group_size < 1:
        raise PrivacyError(f"group_size must be >= 1, got {group_size}. Count the units of the group.")
    return gdp_epsilon(mu * group_size, delta)


def _smallest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Smallest float in [low, high] where `holds`, which is monotone and true at `high`."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
