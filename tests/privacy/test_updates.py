"""The Gaussian mechanism on a whole update: its bound under every update, its noise, and its price."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests import plans

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.calibration import calibrate_noise_multiplier
from wardround.accounting.events import GaussianEvent, SelfComposedEvent
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.agreed.plans import plan_of
from wardround.errors import PrivacyError
from wardround.noisers import ByCoordinator, ByEachHospital
from wardround.privacy.plans.costs import release_event
from wardround.privacy.plans.kinds import NoisedUpdates
from wardround.privacy.plans.protects import protects
from wardround.privacy.updates import ClippedUpdate, clipped_to
from wardround.randomness import Randomness
from wardround.work import GradientSum

NORM = 0.7
GENERATOR = np.random.default_rng(0)
ADVERSARIAL = {
    "zeros": np.zeros(1000),
    "all equal": np.full(1000, 5.0),
    "huge": np.full(1000, 1e38),
    "the largest there is": np.full(1000, np.finfo(np.float32).max),
    "one huge": np.eye(1, 1000, 3)[0] * 3e38,
    "denormal": np.full(1000, 1e-42),
    "at the norm": np.eye(1, 1000, 3)[0] * NORM,
    "not a number": np.where(np.arange(1000) == 7, np.nan, 1.0),
    "infinite": np.where(np.arange(1000) == 7, np.inf, 1.0),
    "both infinities": np.where(np.arange(1000) % 2 == 0, np.inf, -np.inf),
    "short": GENERATOR.normal(size=1000) * 1e-4,
    "long": GENERATOR.normal(size=1000),
}


def updates(mechanism, releases=1):
    return NoisedUpdates(mechanism, 1.0, releases, ByEachHospital(3))


def mechanism_of(made):
    assert isinstance(made.training, NoisedUpdates)
    assert isinstance(made.training.mechanism, ClippedUpdate)
    return made.training.mechanism


def stream(seed=0):
    return Randomness(seed).stream("noise")


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_no_update_is_longer_than_the_norm_and_short_ones_are_left_alone(name):
    update = ADVERSARIAL[name].astype(np.float32)
    clipped = clipped_to(update, NORM)
    assert np.isfinite(clipped).all()
    assert float(np.sum(np.square(clipped, dtype=np.longdouble))) <= NORM**2
    if np.isfinite(update).all():
        length = np.linalg.norm(update.astype(np.longdouble))
        if length <= NORM:
            assert np.array_equal(clipped, update)
        else:  # its direction is kept, and it is not shortened further than it must be
            assert np.linalg.norm(clipped) == pytest.approx(NORM, rel=1e-6)
            assert np.allclose(clipped / NORM, update.astype(np.longdouble) / length, atol=1e-6)


def test_two_hospitals_data_never_move_a_release_by_more_than_twice_the_norm():
    """Neighbours: the same mechanism and noise, one hospital's update replaced by any other."""
    mechanism = ClippedUpdate(NORM, 1e-6)
    releases = {
        name: mechanism.release(update.astype(np.float32), lambda std: std, stream())
        for name, update in (ADVERSARIAL | {"opposite": -ADVERSARIAL["long"]}).items()
    }
    moved = [np.linalg.norm(a.astype(float) - b) for a in releases.values() for b in releases.values()]
    assert max(moved) <= 2 * NORM * (1 + 1e-6)  # rounded to single precision after the noise
    assert max(moved) > 1.99 * NORM, "the bound is reached, by opposite updates"


def test_the_noise_is_the_noise_multiplier_times_twice_the_norm():
    mechanism = ClippedUpdate(NORM, 3.0)
    noise = mechanism.release(np.zeros(20_000, dtype=np.float32), lambda std: std, stream())
    assert stats.kstest(noise, "norm", (0, 3.0 * 2 * NORM)).pvalue > 1e-3
    # The test has the power to tell a std that is 5 % off.
    assert stats.kstest(noise, "norm", (0, 0.95 * 3.0 * 2 * NORM)).pvalue < 1e-3


def test_an_update_that_is_no_number_is_noised_like_zero():
    mechanism = ClippedUpdate(NORM, 3.0)
    zero, broken = (
        mechanism.release(update.astype(np.float32), lambda std: std, stream())
        for update in (np.zeros(1000), ADVERSARIAL["not a number"])
    )
    assert np.array_equal(zero, broken)


def test_a_mechanism_says_what_it_is():
    mechanism = ClippedUpdate(NORM, 2.0)
    assert mechanism.event == GaussianEvent(2.0)
    assert mechanism.unit is PrivacyUnit.HOSPITAL
    assert mechanism.relation is NeighboringRelation.REPLACE_ONE
    protected = plans.plan(updates(mechanism, 5))
    assert (protected.unit, protected.relation) == (mechanism.unit, mechanism.relation)
    assert release_event(protected.training) == mechanism.event
    assert protected.is_private
    assert not protects(protected.training, GradientSum(np.zeros(3, dtype=np.float32))), (
        "sums of gradients are not noised"
    )
    assert not protected.is_counted


@pytest.mark.parametrize("norm", [0.0, -1.0, float("inf"), float("nan")])
def test_a_norm_that_bounds_nothing_is_refused(norm):
    with pytest.raises(PrivacyError, match="clipping_norm must be > 0 and finite"):
        ClippedUpdate(norm, 1.0)


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, float("inf"), float("nan")])
def test_noise_that_protects_nothing_is_refused(noise_multiplier):
    with pytest.raises(PrivacyError, match="noise_multiplier must be > 0 and finite"):
        ClippedUpdate(NORM, noise_multiplier)


def test_noise_on_an_update_never_comes_from_the_coordinator():
    with pytest.raises(PrivacyError, match="trust cannot be coordinator"):
        replace(updates(ClippedUpdate(1.0, 1.0)), noiser=ByCoordinator(3))


@pytest.mark.parametrize(
    ("epsilon", "delta", "noise_multiplier"),
    [
        (0.1, 1e-5, 30.749566), (0.5, 1e-5, 7.031827), (1, 1e-5, 3.730632), (2, 1e-5, 1.993812),
        (4, 1e-5, 1.081162), (8, 1e-5, 0.600229), (1, 1e-6, 4.224679), (10, 1e-4, 0.455265),
    ],
)  # fmt: skip
def test_one_release_is_calibrated_like_the_analytic_gaussian_mechanism(epsilon, delta, noise_multiplier):
    """Balle and Wang 2018; never less noise than theirs."""
    found = calibrate_noise_multiplier(lambda z: ClippedUpdate(NORM, z).event, epsilon, delta, AccountantKind.PLD)
    assert noise_multiplier - 1e-6 <= found
    assert found == pytest.approx(noise_multiplier, rel=1e-3)


@pytest.mark.parametrize(("releases", "epsilon"), [(1, 2.00), (5, 5.00), (10, 7.54), (20, 11.53), (40, 17.94)])
def test_releases_compose_like_one_with_less_noise(releases, epsilon):
    event = SelfComposedEvent(ClippedUpdate(NORM, 1.993).event, releases)
    assert epsilon_of(event, 1e-5, AccountantKind.PLD) == pytest.approx(epsilon, abs=0.01)
    one = GaussianEvent(1.993 / releases**0.5)
    assert epsilon_of(event, 1e-5, AccountantKind.PLD) == pytest.approx(
        epsilon_of(one, 1e-5, AccountantKind.PLD), rel=1e-3
    )


@pytest.mark.parametrize("accountant", AccountantKind)
def test_seven_visits_keep_the_promise_with_no_more_noise_than_needed(accountant):
    least = calibrate_noise_multiplier(
        lambda z: SelfComposedEvent(ClippedUpdate(NORM, z).event, 7), 4.0, 1e-5, accountant
    )
    protected = plans.plan(updates(ClippedUpdate(NORM, least), 7), accountant=accountant)
    assert 3.99 < protected.epsilon <= 4.0
    assert protected.epsilon_after(0) == 0.0
    less = updates(ClippedUpdate(NORM, 0.99 * least), 7)
    assert replace(protected, parts=(less,)).epsilon > 4.0


def test_the_plan_of_a_study_is_calibrated_on_all_visits_of_a_hospital(tiny_study):
    own = {"plan": "clipped-update", "trust": "nobody", "epsilon": 4.0, "clipping_norm": NORM, "accountant": "pld"}
    protected = plan_of(tiny_study(privacy=own, federation={"strategy": "fedavg", "rounds": 7}))
    assert protected.releases == 7
    assert mechanism_of(protected).clipping_norm == NORM
    assert 3.99 < protected.epsilon <= 4.0
