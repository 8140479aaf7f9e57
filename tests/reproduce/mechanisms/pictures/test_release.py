"""A patient's whole release: composition over pictures and labels, and the noise for a promised epsilon."""

from dataclasses import replace

import numpy as np
import pytest
from tests import plans

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import ComposedEvent, GaussianEvent, NoEvent, PureEvent, SelfComposedEvent
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import PrivacyError
from wardround.privacy.pictures import LocalRelease
from wardround.privacy.plans.adversaries import insiders_of
from wardround.privacy.plans.calibrate import not_private
from wardround.privacy.plans.kinds import ExactCount, NoisedPictures
from wardround.privacy.plans.protects import charge_of, plan_protects
from wardround.privacy.plans.wording import statement_of
from wardround.reproduce.mechanisms.pictures.labels import RandomisedResponse
from wardround.reproduce.mechanisms.pictures.noise import Noise, NoisedFeatures, NoisedPixels
from wardround.reproduce.mechanisms.pictures.plan import calibrated_release
from wardround.work import CountClasses, CountPatients, GradientSum

DELTA = 1e-5


def plan_with(release):
    pictures = NoisedPictures(release, 0.5, ExactCount(), 3)
    return plans.plan(pictures, delta=DELTA, images_per_patient=release.images_per_patient)


@pytest.mark.parametrize("images", [1, 2, 8])
def test_pure_pictures_and_labels_of_a_patient_add_up(images):
    release = LocalRelease(NoisedPixels(Noise.LAPLACE, 4.0, (1, 8, 8)), RandomisedResponse(0.5), images)
    assert release.image_event == PureEvent(16.5)
    assert release.event == PureEvent(16.5 * images)
    assert epsilon_of(release.event, DELTA) <= 16.5 * images


@pytest.mark.parametrize("images", [1, 3])
def test_gaussian_pictures_compose_exactly_and_labels_on_top(images):
    release = LocalRelease(NoisedFeatures(Noise.GAUSSIAN, 1.0, 2.0), RandomisedResponse(0.5), images)
    expected = ComposedEvent((SelfComposedEvent(GaussianEvent(2.0), images), PureEvent(0.5 * images)))
    assert epsilon_of(release.event, DELTA) == pytest.approx(epsilon_of(expected, DELTA))
    alone = epsilon_of(SelfComposedEvent(GaussianEvent(2.0), images), DELTA)
    assert alone < epsilon_of(release.event, DELTA) <= alone + 0.5 * images + 1e-3


@pytest.mark.parametrize("images", [1, 3, 8])
@pytest.mark.parametrize("epsilon", [0.7, 8.0, 65_536.0])
def test_pure_noise_is_exactly_enough(images, epsilon):
    release = calibrated_release(
        lambda z: NoisedFeatures(Noise.LAPLACE, 1.0, z), RandomisedResponse(epsilon / 4 / images), images,
        epsilon=epsilon, delta=DELTA, accountant=AccountantKind.PLD,
    )  # fmt: skip
    assert isinstance(release.event, PureEvent)
    assert epsilon * (1 - 1e-12) < release.event.epsilon <= epsilon


@pytest.mark.parametrize("accountant", [AccountantKind.PLD, AccountantKind.RDP])
def test_gaussian_noise_is_enough_and_hardly_more(accountant):
    release = calibrated_release(
        lambda z: NoisedFeatures(Noise.GAUSSIAN, 1.0, z), RandomisedResponse(0.5), 2,
        epsilon=4.0, delta=DELTA, accountant=accountant,
    )  # fmt: skip
    assert 0.995 * 4 < epsilon_of(release.event, DELTA, accountant) <= 4


def test_labels_must_leave_something_for_the_pictures():
    with pytest.raises(PrivacyError, match="lower label_epsilon"):
        calibrated_release(
            lambda z: NoisedFeatures(Noise.LAPLACE, 1.0, z), RandomisedResponse(2.0), 4,
            epsilon=8.0, delta=DELTA, accountant=AccountantKind.PLD,
        )  # fmt: skip


def test_a_plan_on_pictures_charges_them_and_nothing_afterwards():
    release = LocalRelease(NoisedFeatures(Noise.LAPLACE, 1.0, 1.0), RandomisedResponse(0.5), 2)
    plan = plan_with(release)
    assert plan.is_private
    assert not plan.is_counted
    assert (plan.unit, plan.relation) == (PrivacyUnit.PATIENT, NeighboringRelation.REPLACE_ONE)
    for work in (GradientSum(np.zeros(3, dtype=np.float32)), CountPatients(), CountClasses()):
        assert plan_protects(plan, work)
        assert charge_of(plan, work, 1) == NoEvent()
    assert plan.event_after(1) == SelfComposedEvent(PureEvent(3.0), 1)
    assert plan.epsilon <= 3
    assert plan.epsilon_after(2) > plan.epsilon_after(1)
    assert [row.epsilon for row in insiders_of(plan)] == [plan.epsilon] * len(insiders_of(plan))
    assert not not_private(plan, 1).is_private


def test_as_many_pictures_of_a_patient_are_used_as_are_charged():
    plan = plan_with(LocalRelease(NoisedFeatures(Noise.LAPLACE, 1.0, 1.0), RandomisedResponse(0.5), 2))
    with pytest.raises(PrivacyError, match="the 2 pictures that are charged"):
        replace(plan, images_per_patient=8)


def test_the_statement_names_both_epsilons_and_says_when_one_is_no_protection():
    absurd = plan_with(LocalRelease(NoisedPixels(Noise.LAPLACE, 1.0, (1, 256, 256)), RandomisedResponse(1.0), 2))
    said = statement_of(absurd, simulated=True, seeded=False).sentence()
    assert "epsilon = 132000 at delta" in said  # 2 * 65,537, three digits, rounded up
    assert "epsilon = 65600 at delta" in said  # of one picture
    assert "no protection" in said
    assert "Gaussian" not in said
    modest = plan_with(
        LocalRelease(NoisedPixels(Noise.LAPLACE, 65_536.0, (1, 256, 256)), RandomisedResponse(1.0), 2)
    )
    assert "no protection" not in statement_of(modest, simulated=True, seeded=False).sentence()
