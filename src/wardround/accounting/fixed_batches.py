"""Epsilon of batches of a fixed size, drawn without replacement: to recompute published figures, by an upper bound.

Source:
    Wang, Balle and Kasiviswanathan 2019, https://arxiv.org/abs/1808.00087, Theorem 9.
"""

from wardround.accounting.mechanisms import check_delta, check_noise_multiplier
from wardround.accounting.rdp import quiet_numerics
from wardround.errors import PrivacyError


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
