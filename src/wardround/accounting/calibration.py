"""From a promised epsilon to the noise, or to the number of releases, that keeps it.

An evaluation of the pld accountant takes a fraction of a second. The search for noise starts on a coarse grid
and goes to the fine one only to finish; the value returned was evaluated there.
"""

import math
from collections.abc import Callable

from wardround.accounting.accountants import AccountantKind, epsilon_of, rough_epsilon_of
from wardround.accounting.events import ComposedEvent, Event, SelfComposedEvent, leaves
from wardround.accounting.mechanisms import check_delta, check_epsilon
from wardround.accounting.pld import COARSE
from wardround.accounting.search import Bracket, close_in, largest_count
from wardround.errors import PrivacyError

SMALLEST_NOISE_MULTIPLIER, LARGEST_NOISE_MULTIPLIER = 1e-2, 1e7
"""Bounds of the search for a noise multiplier: beyond these it is not noise, or not a signal."""

_UNUSED = 1e-3
"""Part of epsilon that may be left unused."""


def calibrate_noise_multiplier(
    make_event: Callable[[float], Event],
    epsilon: float,
    delta: float,
    accountant: AccountantKind = AccountantKind.PLD,
) -> float:
    """Noise multiplier z such that `make_event(z)` costs at most `epsilon` at `delta`, and hardly less.

    Guarantee:
        epsilon × (1 - 0.001) <= epsilon_of(make_event(z), delta, accountant) <= epsilon. The upper side
        always holds; the lower one unless z = SMALLEST_NOISE_MULTIPLIER is already more private than asked
        for.

    `make_event` says what is done at a noise multiplier; more noise must not cost more. `epsilon` is > 0 and finite.

    Raises:
        PrivacyError: the arguments do not hold, or no amount of noise keeps the promise because something in
            the event does not depend on it.

    >>> from wardround.accounting.events import GaussianEvent
    >>> round(calibrate_noise_multiplier(GaussianEvent, 2.0, 1e-5), 2)
    1.99
    """
    check_epsilon(epsilon)
    check_delta(delta)
    if epsilon == math.inf:
        raise PrivacyError("epsilon must be finite to calibrate noise, got infinity. Use NonPrivateEvent.")

    def fine(noise_multiplier: float) -> float:
        return epsilon_of(make_event(noise_multiplier), delta, accountant)

    def coarse(noise_multiplier: float) -> float:
        return rough_epsilon_of(make_event(noise_multiplier), delta, accountant, COARSE)

    bracket = _widen(coarse, 1.0, 2.0, epsilon)
    start = close_in(coarse, bracket, epsilon, _UNUSED).private
    # The fine grid takes away a percent or two of epsilon, and so allows a little less noise.
    value = fine(start)
    if epsilon * (1 - _UNUSED) <= value <= epsilon:
        return start
    factor = max(1 + _UNUSED, (max(value, epsilon) / min(value, epsilon)) ** 1.2) if value > 0 else 2.0
    return close_in(fine, _widen(fine, start, factor, epsilon), epsilon, _UNUSED).private


def affordable_count(
    already: Event | None,
    event: Event,
    epsilon: float,
    delta: float,
    *,
    accountant: AccountantKind,
    at_most: int,
) -> int:
    """Largest number of `event` that fits after `already` was released, at most `at_most`.

    The bracket grows from 1 by factors, away from counts so large that their epsilon is hard to compute.
    """
    if epsilon == math.inf or not leaves(event):
        return at_most

    def epsilon_at(count: int) -> float:
        after: Event = SelfComposedEvent(event, count)
        if already is not None:
            after = ComposedEvent((already, after))
        return epsilon_of(after, delta, accountant)

    top = 1
    while top < at_most and epsilon_at(top) <= epsilon:
        top *= 8
    return largest_count(epsilon_at, epsilon, min(top, at_most))


def _widen(epsilon_at: Callable[[float], float], start: float, factor: float, limit: float) -> Bracket:
    """A bracket around `limit`, by steps of `factor` from `start`; one point if the least noise is enough."""
    x, value = start, epsilon_at(start)
    outwards = factor if value > limit else 1 / factor
    while SMALLEST_NOISE_MULTIPLIER <= x * outwards <= LARGEST_NOISE_MULTIPLIER:
        step, step_value = x * outwards, epsilon_at(x * outwards)
        if value > limit >= step_value:
            return Bracket(step, step_value, x, value)
        if value <= limit < step_value:
            return Bracket(x, value, step, step_value)
        x, value = step, step_value
    if value <= limit:
        return Bracket(x, value, x, value)
    raise PrivacyError(
        f"epsilon must be reachable by adding noise, got {limit} where noise_multiplier {x:g} still costs "
        f"{value:.3g}. Some part of the event does not depend on the noise: raise epsilon, or leave it out."
    )
