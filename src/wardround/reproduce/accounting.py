"""Epsilons that published systems rest on and nothing here does: to recompute their figures.

| function                                                   | upper bound?                           |
|------------------------------------------------------------|----------------------------------------|
| `central_limit_epsilon`, `uniform_sampling_gdp_epsilon`    | **no**: approximations                 |
| `fixed_batch_epsilon`                                      | yes, for one unit replaced             |

Sources:
    Bu, Dong, Long and Su 2019, https://arxiv.org/abs/1911.11607: section 3.2 (sampling, CLT).
    Wang, Balle and Kasiviswanathan 2019, https://arxiv.org/abs/1808.00087, Theorem 9 (fixed batches).
"""

import math

from wardround.accounting.events import Event, GaussianEvent, PoissonSampledEvent, leaves
from wardround.accounting.mechanisms import check_delta, check_noise_multiplier, gdp_epsilon, gdp_mu
from wardround.accounting.rdp import quiet_numerics
from wardround.errors import PrivacyError


def central_limit_epsilon(event: Event, delta: float) -> float:
    """Epsilon of Gaussian releases on Poisson samples: a central limit approximation, **not** an upper bound.

    μ = q sqrt(T (exp(1/σ²) - 1)); squares of μ add. Exact without sampling.

    Raises:
        PrivacyError: an event is of other noise, for which there is no formula.
    """
    squares = []
    for leaf, count in leaves(event):
        match leaf:
            case GaussianEvent(noise_multiplier):
                squares.append(gdp_mu(noise_multiplier, count) ** 2)
            case PoissonSampledEvent(sampling_prob, GaussianEvent(noise_multiplier)):
                squares.append(count * sampling_prob**2 * _expm1(1 / noise_multiplier**2))
            case _:
                raise PrivacyError(f"The central limit must be given Gaussian noise, got {leaf}. Use epsilon_of.")
    return gdp_epsilon(math.sqrt(math.fsum(squares)), delta)


def uniform_sampling_gdp_epsilon(
    num_units: int, batch_size: int, noise_multiplier: float, steps: int, delta: float
) -> float:
    """Epsilon as published for batches of fixed size: a central limit approximation, **not** an upper bound.

    μ = sqrt(2) c sqrt(exp(1/σ²) Φ(1.5/σ) + 3 Φ(-0.5/σ) - 2) with c = batch_size sqrt(steps) / num_units.

    >>> round(uniform_sampling_gdp_epsilon(50_000, 200, 1.0, 2_500, 1e-5), 4)
    1.3077
    """
    from scipy.special import ndtr

    inverse = 1 / noise_multiplier
    c = batch_size * math.sqrt(steps) / num_units
    growth = math.exp(inverse**2) * float(ndtr(1.5 * inverse)) + 3 * float(ndtr(-0.5 * inverse)) - 2
    return gdp_epsilon(math.sqrt(2) * c * math.sqrt(growth), delta)


def fixed_batch_epsilon(
    num_units: int, batch_size: int, noise_multiplier: float, steps: int, delta: float
) -> float:
    """Rényi epsilon of `steps` noised sums, each over `batch_size` of `num_units` units; one unit is replaced.

    Sensitivity:
        Replacing one unit of a batch moves a sum of vectors clipped to C by up to 2 C, so noise of std z C has
        noise_multiplier z / 2 here.

    >>> round(fixed_batch_epsilon(4434, 32, 3.0 / 2, 20 * (4434 // 32), 1e-5), 2)
    2.56
    """
    check_delta(delta)
    check_noise_multiplier(noise_multiplier)
    if not 1 <= batch_size <= num_units:
        raise PrivacyError(
            f"batch_size must be from 1 to num_units, got {batch_size} of {num_units}. Count units."
        )
    with quiet_numerics():
        import dp_accounting
        from dp_accounting import rdp

        accountant = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
        noise = dp_accounting.GaussianDpEvent(noise_multiplier)
        accountant.compose(dp_accounting.SampledWithoutReplacementDpEvent(num_units, batch_size, noise), steps)
        return float(accountant.get_epsilon(delta))


def _expm1(exponent: float) -> float:
    return math.expm1(exponent) if exponent < 700 else math.inf
