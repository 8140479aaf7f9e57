"""Delta at an epsilon, by the accountants' own distributions and curves: the other way round, for tests alone."""

import math

from wardround.accounting.accountants import (
    AccountantKind,
    _all_gaussian,
    _holds_non_private,
    _mu,
    _pure_sum,
    _put_aside,
)
from wardround.accounting.events import leaves
from wardround.accounting.mechanisms import gaussian_delta
from wardround.accounting.pld import _distribution, _interval, _rounding
from wardround.accounting.rdp import _curve, quiet_numerics


def delta_of(event, epsilon, accountant=AccountantKind.PLD):
    """Delta of `event` at `epsilon`: 1 when anything was released without protection, 0 when nothing was."""
    items = leaves(event)
    if not items:
        return 0.0
    if _holds_non_private(items):
        return 1.0
    if _all_gaussian(items):
        mu = _mu(items)
        return 1.0 if mu == math.inf else gaussian_delta(epsilon, 1 / mu)
    large, items = _put_aside(items)
    epsilon -= large
    if epsilon >= _pure_sum(items):
        return 0.0
    if epsilon < 0:
        return 1.0
    if _all_gaussian(items):
        return gaussian_delta(epsilon, 1 / _mu(items))
    return rdp_delta(items, epsilon) if accountant is AccountantKind.RDP else pld_delta(items, epsilon)


def pld_delta(items, epsilon):
    """Delta of composed leaves at `epsilon` by privacy loss distributions, an upper bound."""
    with quiet_numerics():
        delta = float(_distribution(items, _interval(items, 1e-6)).get_delta_for_epsilon(epsilon))
    return min(1.0, delta + _rounding(items))


def rdp_delta(items, epsilon):
    """Delta of composed leaves at `epsilon` by Rényi divergences, an upper bound."""
    with quiet_numerics():
        from dp_accounting.rdp import rdp_privacy_accountant as rdp

        return min(1.0, float(rdp.compute_delta(*_curve(items), epsilon)[0]))
