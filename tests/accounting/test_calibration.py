from collections.abc import Callable

import pytest
from tests.cases import family

from wardround.accounting import accountants
from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.calibration import (
    SMALLEST_NOISE_MULTIPLIER,
    affordable_count,
    calibrate_noise_multiplier,
)
from wardround.accounting.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    NoEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from wardround.accounting.pld import FINE, pld_epsilon
from wardround.accounting.search import largest_count
from wardround.errors import PrivacyError


def training(sampling_prob: float, steps: int) -> Callable[[float], Event]:
    return lambda z: SelfComposedEvent(PoissonSampledEvent(sampling_prob, GaussianEvent(z)), steps)


@pytest.fixture
def widths(monkeypatch):
    """The width of every grid that the pld accountant was evaluated on."""
    seen = []

    def counted(items, delta, width=FINE):
        seen.append(width)
        return pld_epsilon(items, delta, width)

    monkeypatch.setattr(accountants, "pld_epsilon", counted)
    accountants._epsilon.cache_clear()
    return seen


@pytest.mark.parametrize("accountant", AccountantKind)
@pytest.mark.parametrize(
    ("sampling_prob", "steps", "epsilon"),
    family([(0.05, 200, 4.0), (0.01, 500, 0.3), (1.0, 20, 8.0)], keep=[(0.01, 500, 0.3), (1.0, 20, 8.0)]),
)
def test_calibrated_noise_lands_on_the_private_side(accountant, sampling_prob, steps, epsilon):
    make_event = training(sampling_prob, steps)
    noise_multiplier = calibrate_noise_multiplier(make_event, epsilon, 1e-5, accountant)
    assert epsilon * (1 - 1e-3) <= epsilon_of(make_event(noise_multiplier), 1e-5, accountant) <= epsilon


def test_a_long_training_is_calibrated_with_few_evaluations(widths):
    make_event = training(0.05, 3_000)
    noise_multiplier = calibrate_noise_multiplier(make_event, 4.0, 1e-5)
    assert widths.count(FINE) <= 5
    assert len(widths) <= 16
    assert 4.0 * (1 - 1e-3) <= epsilon_of(make_event(noise_multiplier), 1e-5) <= 4.0


def test_what_is_spent_already_is_part_of_the_calibration():
    spent = GaussianEvent(2.0)
    more = calibrate_noise_multiplier(lambda z: ComposedEvent((spent, GaussianEvent(z))), 3.0, 1e-5)
    assert more > calibrate_noise_multiplier(GaussianEvent, 3.0, 1e-5)


def test_a_promise_that_no_noise_can_keep_is_refused():
    with pytest.raises(PrivacyError, match="does not depend on the noise"):
        calibrate_noise_multiplier(lambda z: ComposedEvent((GaussianEvent(0.5), GaussianEvent(z))), 1.0, 1e-5)


def test_a_free_event_needs_the_least_noise():
    assert calibrate_noise_multiplier(lambda z: NoEvent(), 1.0, 1e-5) < 2 * SMALLEST_NOISE_MULTIPLIER


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (1, 0), (1, 1)])
def test_calibration_refuses_what_cannot_be_asked(epsilon, delta):
    with pytest.raises(PrivacyError, match=r"must be .* got"):
        calibrate_noise_multiplier(GaussianEvent, epsilon, delta)


def affordable(event, epsilon, at_most=1_000_000):
    return affordable_count(None, event, epsilon, 1e-5, accountant=AccountantKind.PLD, at_most=at_most)


@pytest.mark.parametrize("event", [GaussianEvent(20.0), PoissonSampledEvent(0.05, GaussianEvent(1.1))])
def test_the_affordable_count_is_the_last_that_fits(event):
    count = affordable(event, 2.0)
    assert epsilon_of(SelfComposedEvent(event, count), 1e-5) <= 2.0
    assert epsilon_of(SelfComposedEvent(event, count + 1), 1e-5) > 2.0


def test_the_affordable_count_has_its_edges():
    assert affordable(GaussianEvent(0.1), 1.0) == 0
    assert affordable(NoEvent(), 1.0, at_most=7) == 7
    assert affordable(GaussianEvent(100.0), 1.0, at_most=7) == 7


@pytest.mark.parametrize("limit", [1, 2, 17, 99, 100])
def test_the_search_for_a_count_agrees_with_counting(limit):
    assert largest_count(lambda n: float(n), limit, 100) == limit
