"""The Gaussian mechanism on a whole update: its bound under every update, its noise, and its price."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from wardround.privacy.plan import PrivacyPlan
from wardround.privacy.variants import with_clipped_updates

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import GaussianEvent, SelfComposedEvent
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit, Trust
from wardround.errors import PrivacyError
from wardround.privacy.updates import ClippedUpdate, clipped_to
from wardround.randomness import Randomness

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


def plan(releases=1, **fields):
    defaults = dict(
        noise_multiplier=1.0, clipping_norm=1.0, sampling_prob=1.0, releases=releases, delta=1e-5,
        trust=Trust.NOBODY, hospitals=3, num_patients=None,
    )  # fmt: skip
    return PrivacyPlan(**(defaults | fields))


def mechanism_of(protected):
    assert isinstance(protected.on_update, ClippedUpdate)
    return protected.on_update


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
    protected = with_clipped_updates(plan(5), NORM, None, 2.0)
    assert (protected.unit, protected.relation) == (mechanism.unit, mechanism.relation)
    assert protected.release_event == mechanism.event
    assert protected.is_private
    assert not protected.noises_gradients
    assert not protected.is_counted


@pytest.mark.parametrize("norm", [0.0, -1.0, float("inf"), float("nan")])
def test_a_norm_that_bounds_nothing_is_refused(norm):
    with pytest.raises(PrivacyError, match="clipping_norm must be > 0 and finite"):
        ClippedUpdate(norm, 1.0)


def test_noise_goes_on_gradients_or_on_updates_and_never_comes_from_the_coordinator():
    mechanism = ClippedUpdate(1.0, 1.0)
    with pytest.raises(PrivacyError, match="not on both"):
        plan(on_update=mechanism)
    with pytest.raises(PrivacyError, match="trust cannot be coordinator"):
        plan(on_update=mechanism, noise_multiplier=0.0, trust=Trust.COORDINATOR)
    with pytest.raises(PrivacyError, match="got neither"):
        with_clipped_updates(plan(), 1.0, None, None)


@pytest.mark.parametrize(
    ("epsilon", "delta", "noise_multiplier"),
    [
        (0.1, 1e-5, 30.749566), (0.5, 1e-5, 7.031827), (1, 1e-5, 3.730632), (2, 1e-5, 1.993812),
        (4, 1e-5, 1.081162), (8, 1e-5, 0.600229), (1, 1e-6, 4.224679), (10, 1e-4, 0.455265),
    ],
)  # fmt: skip
def test_one_release_is_calibrated_like_the_analytic_gaussian_mechanism(epsilon, delta, noise_multiplier):
    """Balle and Wang 2018; never less noise than theirs."""
    found = mechanism_of(with_clipped_updates(plan(delta=delta), NORM, epsilon, None)).noise_multiplier
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
def test_a_plan_for_several_visits_keeps_its_promise_with_no_more_noise_than_needed(accountant):
    protected = with_clipped_updates(plan(7, accountant=accountant), NORM, 4.0, None)
    assert 3.99 < protected.epsilon <= 4.0
    assert protected.epsilon_after(0) == 0.0
    mechanism = mechanism_of(protected)
    less = replace(mechanism, noise_multiplier=0.99 * mechanism.noise_multiplier)
    assert replace(protected, on_update=less).epsilon > 4.0
