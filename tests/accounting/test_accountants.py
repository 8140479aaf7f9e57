import logging
import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, rdp
from tests.accounting.deltas import delta_of
from tests.cases import family

from wardround.accounting.accountants import (
    AccountantKind,
    epsilon_of,
    rough_epsilon_of,
)
from wardround.accounting.events import (
    ComposedEvent,
    GaussianEvent,
    LaplaceEvent,
    NoEvent,
    NonPrivateEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from wardround.accounting.mechanisms import gaussian_epsilon, laplace_epsilon
from wardround.accounting.pld import COARSE, pld_epsilon
from wardround.accounting.rdp import divergences_of, rdp_epsilon_2020
from wardround.errors import PrivacyError

PLD, RDP = AccountantKind


def training(sampling_prob: float, noise_multiplier: float, steps: int) -> SelfComposedEvent:
    return SelfComposedEvent(PoissonSampledEvent(sampling_prob, GaussianEvent(noise_multiplier)), steps)


GOLDEN = [
    (training(0.03425, 1.15, 3001), 1e-4, 10.877, 9.903, 9.02),
    (training(50 / 2931, 1.0, 5800), 1e-4, 9.081, 8.179, 7.44),
    (training(50 / 293, 2.0, 1250), 1e-4, 19.29, 18.02, 16.45),
]


@pytest.mark.parametrize(("event", "delta", "rdp_2020", "rdp", "pld"), family(GOLDEN))
def test_published_trainings_cost_what_the_audit_found(event, delta, rdp_2020, rdp, pld):
    assert rdp_epsilon_2020(event, delta) == pytest.approx(rdp_2020, abs=0.006)
    assert epsilon_of(event, delta, RDP) == pytest.approx(rdp, abs=0.006)
    assert epsilon_of(event, delta, PLD) == pytest.approx(pld, abs=0.006)


def test_the_mnist_example_costs_what_each_accountant_says():
    event = training(200 / 50_000, 1.0, 2_500)
    assert epsilon_of(event, 1e-5, PLD) == pytest.approx(1.059, abs=0.0006)
    assert epsilon_of(event, 1e-5, RDP) == pytest.approx(1.313, abs=0.0006)


def test_the_pneumonia_example_costs_what_each_accountant_says():
    steps = 20 * (4434 // 32)
    event = training(32 / 4434, 3.0, steps)
    assert epsilon_of(event, 1e-5, PLD) == pytest.approx(0.459, abs=0.0009)
    assert epsilon_of(event, 1e-5, RDP) == pytest.approx(0.505, abs=0.0015)


@pytest.mark.parametrize("accountant", AccountantKind)
def test_every_accountant_obeys_the_same_laws(accountant):
    """One conformance test: free, infinite, monotone, insensitive to order, and inverted by delta_of."""
    event = training(0.05, 1.5, 100)
    epsilon = epsilon_of(event, 1e-5, accountant)
    assert epsilon_of(NoEvent(), 1e-5, accountant) == 0
    assert epsilon_of(SelfComposedEvent(NonPrivateEvent(), 0), 1e-5, accountant) == 0
    assert epsilon_of(ComposedEvent((event, NonPrivateEvent())), 1e-5, accountant) == math.inf
    assert delta_of(NonPrivateEvent(), 100.0, accountant) == 1
    assert delta_of(NoEvent(), 0.0, accountant) == 0
    assert epsilon_of(training(0.05, 1.5, 110), 1e-5, accountant) > epsilon
    assert epsilon_of(training(0.06, 1.5, 100), 1e-5, accountant) > epsilon
    assert epsilon_of(training(0.05, 1.6, 100), 1e-5, accountant) < epsilon
    assert epsilon_of(event, 1e-6, accountant) > epsilon
    halves = ComposedEvent((training(0.05, 1.5, 40), training(0.05, 1.5, 60)))
    assert epsilon_of(halves, 1e-5, accountant) == epsilon
    assert delta_of(event, epsilon, accountant) == pytest.approx(1e-5, rel=1e-2)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(PrivacyError, match="delta must be"):
        epsilon_of(GaussianEvent(1.0), delta)


def test_gaussians_alone_have_their_exact_closed_form():
    event = ComposedEvent((SelfComposedEvent(GaussianEvent(5.0), 16), GaussianEvent(3.0)))
    exact = gaussian_epsilon(1 / math.sqrt(16 / 25 + 1 / 9), 1e-5)
    assert epsilon_of(event, 1e-5) == pytest.approx(exact, rel=1e-12)
    numeric = pld_epsilon(((GaussianEvent(5.0), 16), (GaussianEvent(3.0), 1)), 1e-5)
    assert exact <= numeric <= exact * 1.001


def test_the_numeric_accountants_bound_the_closed_forms():
    exact = laplace_epsilon(0.8, 1e-5)
    assert exact <= epsilon_of(LaplaceEvent(0.8), 1e-5) <= exact * 1.01
    gaussian = gaussian_epsilon(2.0, 1e-5)
    assert gaussian <= epsilon_of(GaussianEvent(2.0), 1e-5, RDP)


@pytest.mark.parametrize(
    "event", family([training(0.02, 1.0, 2_000), training(0.2, 3.0, 50), training(0.5, 0.6, 3)])
)
def test_pld_is_tighter_than_rdp_and_its_coarse_grid_only_looser(event):
    fine = epsilon_of(event, 1e-5, PLD)
    assert fine <= epsilon_of(event, 1e-5, RDP)
    assert fine <= rough_epsilon_of(event, 1e-5, PLD, COARSE) <= fine * 1.05


def test_unlike_events_compose_to_more_than_each_and_less_than_their_sum():
    parts = (training(0.02, 1.0, 100), GaussianEvent(4.0), SelfComposedEvent(LaplaceEvent(20.0), 3))
    alone = [epsilon_of(part, 1e-5) for part in parts]
    assert max(alone) < epsilon_of(ComposedEvent(parts), 1e-5) < sum(alone)


def test_the_order_of_events_does_not_change_their_cost():
    parts = (training(0.02, 1.0, 100), GaussianEvent(4.0))
    assert epsilon_of(ComposedEvent(parts), 1e-5) == epsilon_of(ComposedEvent(parts[::-1]), 1e-5)


def test_accountants_say_which_events_they_do_not_know():
    sampled = PoissonSampledEvent(0.1, LaplaceEvent(2.0))
    assert 0 < epsilon_of(sampled, 1e-5) < epsilon_of(LaplaceEvent(2.0), 1e-5)
    with pytest.raises(PrivacyError, match="Use accountant 'pld'"):
        epsilon_of(sampled, 1e-5, RDP)
    with pytest.raises(PrivacyError, match="Use accountant 'rdp'"):
        epsilon_of(training(0.1, 1.0, 10), 1e-14)


@pytest.mark.parametrize("noise_multiplier", [0.01, 0.1, 1e4])
def test_absurd_noise_is_answered_and_not_a_crash(noise_multiplier):
    epsilon = epsilon_of(training(0.02, noise_multiplier, 2_000), 1e-5)
    assert epsilon >= 0
    assert not math.isnan(epsilon)


def test_the_accountants_write_nothing_to_the_log(caplog):
    with caplog.at_level(logging.DEBUG):
        epsilon_of(training(0.170648, 2.0, 1_251), 1e-4, RDP)
    assert not caplog.records
    assert not logging.getLogger("absl").disabled


@pytest.mark.parametrize("noise_multiplier", [1e-140, 1e-3, 0.7, 41.3, 1e6])
def test_the_closed_form_of_gaussian_noise_has_the_bits_of_the_library(noise_multiplier):
    """So a run whose ledger holds Gaussian releases alone does without the half second of the library's import."""
    orders = np.concatenate([np.linspace(1.01, 3, 40), np.arange(4.0, 300.0)])
    library = rdp.RdpAccountant(tuple(orders))
    library.compose(GaussianDpEvent(noise_multiplier), 1)
    ours = divergences_of(((GaussianEvent(noise_multiplier), 1),), orders)
    assert np.array_equal(ours, library.rdp)
