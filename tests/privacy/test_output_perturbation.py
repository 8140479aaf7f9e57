"""Noise on fitted weights: how much, on what alone, and at which price."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests import plans

from wardround.accounting.events import GaussianEvent
from wardround.accounting.mechanisms import gaussian_epsilon
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.agreed.plans import plan_of
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital, NoiseShares
from wardround.privacy.output_perturbation import OutputPerturbation, tolerance_of
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.calibrate import not_private
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.kinds import NoisedHead
from wardround.privacy.plans.releases import noised_head, noised_update
from wardround.privacy.plans.wording import statement_of
from wardround.randomness import Randomness
from wardround.work import HeadFit

FIT = HeadFit(0.02, 1.0, 50.0)
SHARED = NoiseShares(3, 1)


def head(noiser=None):
    return NoisedHead(OutputPerturbation(FIT, 2.0), noiser or ByEachHospital(3))


def stream(*name):
    return Randomness(4, "study").stream(*name)


def test_the_sensitivity_is_that_of_the_minimiser_and_of_two_solvers():
    tau = tolerance_of(FIT, 50.0)
    assert OutputPerturbation(FIT, 1.0).sensitivity == pytest.approx((math.sqrt(2) / 50 + 2 * tau) / 0.02)
    assert tau == pytest.approx(0.005 * math.sqrt(2) / 50)


@pytest.mark.parametrize(("noiser", "honest"), [(ByEachHospital(3), 1), (SHARED, 2)], ids=["alone", "shares"])
def test_the_noise_on_what_is_revealed_has_the_stated_std(noiser, honest):
    """Alone, or summed over the honest hospitals: 3 hospitals, of which one may collude."""
    fitted = np.linspace(-1, 1, 50_000)
    part = head(noiser)
    total = sum(noised_head(part, fitted, stream(honest, k)).astype(np.float64) - fitted for k in range(honest))
    std = 2.0 * OutputPerturbation(FIT, 2.0).sensitivity
    assert stats.kstest(total / std, "norm").pvalue > 1e-3
    for wrong in (0.95, 1.05):
        assert stats.kstest(total / std * wrong, "norm").pvalue < 1e-3


def test_a_promised_epsilon_is_kept_by_one_release(tiny_study):
    """Whatever the rounds of the study."""
    own = {"plan": "output-perturbation", "epsilon": 2.0, "delta": 1e-5, "num_patients": 150}
    own |= {"trust": "nobody", "clipping_norm": 1.0, "accountant": "pld"}
    made = plan_of(tiny_study(privacy=own, federation={"strategy": "one-shot", "rounds": None}))
    assert made.releases == 1
    assert isinstance(made.training, NoisedHead)
    mechanism = made.training.mechanism
    assert mechanism.fit == HeadFit(0.01, 1.0, 50.0)
    assert release_event(made.training) == GaussianEvent(mechanism.noise_multiplier)
    assert 1.99 < gaussian_epsilon(mechanism.noise_multiplier, made.delta) <= 2.0
    assert made.epsilon == pytest.approx(gaussian_epsilon(mechanism.noise_multiplier, made.delta), rel=1e-6)
    assert (made.unit, made.relation) == (PrivacyUnit.PATIENT, NeighboringRelation.ADD_OR_REMOVE_ONE)
    assert not made.is_counted


def test_a_fitted_head_and_nothing_else_leaves_through_it():
    for other in (plans.gradients(), plans.masked_and_counted().training):
        with pytest.raises(PrivacyError, match="output perturbation"):
            noised_head(other, np.zeros(3), stream("head"))
    open_plan = not_private(plans.plan(head()), 1)
    assert np.array_equal(noised_head(open_plan.training, np.ones(3), stream("open")), np.ones(3))


def test_an_update_does_not_leave_where_heads_are_noised():
    with pytest.raises(PrivacyError):
        noised_update(head(), np.zeros(3, dtype=np.float32), stream("update"))


def test_the_statement_says_who_what_and_how_far_one_patient_moves_it():
    sentence = statement_of(plans.plan(head()), simulated=True, seeded=False).sentence()
    for part in ("one patient", "fitted to the end", "moves by at most 1.428", "full participation",
                 "150 patients, is a public constant", "at most 8 images"):  # fmt: skip
        assert part in sentence


def test_colluders_know_part_of_the_noise():
    rows = insiders_of(plans.plan(head(SHARED)))
    assert rows[0].epsilon < rows[1].epsilon == pytest.approx(gaussian_epsilon(2.0, 1e-5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: OutputPerturbation(FIT, 0.0),
        lambda: OutputPerturbation(replace(FIT, num_patients=None), 1.0),
        lambda: head(ByCoordinator(3)),
    ],
)
def test_what_promises_nothing_is_refused(make):
    with pytest.raises(PrivacyError):
        make()


@pytest.mark.parametrize("field", ["regularisation", "row_norm", "num_patients"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_an_objective_without_a_bound_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        replace(FIT, **{field: value})
