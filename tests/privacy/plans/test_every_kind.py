"""Every function over the kinds of part knows every kind, and refuses what is none."""

from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
from tests.cases import family
from tests.privacy.plans.every import WORKS, parts, plans

from wardround.accounting.events import ComposedEvent, SelfComposedEvent, leaves
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.noisers import ByEachHospital, Noiser, Trust, hospital_std, trust_of
from wardround.privacy.correlated import Correlation
from wardround.privacy.plans.adversaries import against, insiders_of
from wardround.privacy.plans.calibrate import alone, not_private
from wardround.privacy.plans.costs import (
    about,
    discrete_part,
    event_of,
    planned_releases,
    relation_of,
    release_event,
    unit_of,
)
from wardround.privacy.plans.kinds import (
    About,
    Clip,
    NoisedCounts,
    NoisedPictures,
    NothingTrained,
    NotPrivate,
    OpenHistograms,
    Part,
    Training,
)
from wardround.privacy.plans.protects import charge_of, protects
from wardround.privacy.plans.releases import clip_of, noiser_of, participation_of, share_of_patients
from wardround.privacy.plans.wording import statement_of, words_of
from wardround.types import Persons
from wardround.work import Work


@dataclass(frozen=True)
class Stranger:
    """No kind of part, work or noiser."""

    releases: int = 1


STRANGER: Any = Stranger()
SAID = ("hello", "receipt", "finish")
KINDS = {kind: [part for part in parts() if isinstance(part, kind)] for kind in get_args(Part)}
TRAININGS = {kind: [plan for plan in plans() if isinstance(plan.training, kind)] for kind in get_args(Training)}


def every(cases):
    return pytest.mark.parametrize("kind", cases, ids=lambda kind: kind.__name__)


@every(KINDS)
def test_every_kind_has_a_cost_a_unit_a_relation_and_a_noiser(kind):
    assert KINDS[kind]
    for part in KINDS[kind]:
        assert planned_releases(part) >= (kind is not NothingTrained)
        assert leaves(event_of(part, 3)) == leaves(SelfComposedEvent(release_event(part), 3))
        assert leaves(event_of(part, 1)) == leaves(release_event(part))
        assert isinstance(unit_of(part), PrivacyUnit)
        assert isinstance(relation_of(part), NeighboringRelation)
        assert isinstance(noiser_of(part), Noiser)
        assert isinstance(discrete_part(part, 3), tuple)
        assert (about(part) is About.TRAINING) == isinstance(part, NoisedCounts | Training)


@pytest.mark.parametrize("step", family([24, 1]))
@every(TRAININGS)
def test_a_plan_of_pictures_without_names_speaks_of_pictures(kind, step):
    """The mathematics is the same, the unit is not: no sentence of a kind promises anything to a patient."""
    for plan in TRAININGS[kind][::step]:
        unnamed = replace(plan, persons=Persons.UNNAMED)
        is_hospital = plan.unit is PrivacyUnit.HOSPITAL
        assert unnamed.unit is (PrivacyUnit.HOSPITAL if is_hospital else PrivacyUnit.PICTURE)
        assert unnamed.epsilon == plan.epsilon
        said = statement_of(unnamed, simulated=True, seeded=False)
        text = said.sentence().replace("The pictures name no patient, so", "")
        assert "patient" not in text
        assert said.unit is unnamed.unit
        claimed = statement_of(replace(plan, persons=Persons.ONE_PER_PICTURE), simulated=True, seeded=False)
        assert claimed.unit is plan.unit
        is_promised = plan.is_private and not is_hospital
        assert any("The site states that no person has two" in c for c in claimed.caveats) == is_promised


@every(KINDS)
def test_every_kind_is_seen_by_an_adversary_with_the_noise_that_is_left(kind):
    """Noise that is each hospital's own stays as it is; other noise is what is unknown, and nothing else changes."""
    for part in KINDS[kind]:
        seen = against(part, 0.25)
        assert type(seen) is kind
        noise = getattr(seen, "noise", getattr(seen, "mechanism", None))
        noiseless = NoisedPictures | NotPrivate | OpenHistograms | NothingTrained
        own = isinstance(part, noiseless) or getattr(noise, "selects", False)
        assert (seen == part) if own else (noise is not None and noise.noise_multiplier == 0.25)
        assert noiser_of(seen) == noiser_of(part)


@every(KINDS)
def test_every_kind_says_of_every_work_whether_it_protects_it(kind):
    for part in KINDS[kind][:50]:
        assert {protects(part, work) for work in WORKS} == {True, False}, "no kind covers all, each covers a fact"


@pytest.mark.parametrize("step", family([24, 1]))
@every(TRAININGS)
def test_every_kind_of_training_has_a_clip_a_sampler_and_words(kind, step):
    assert TRAININGS[kind]
    for plan in TRAININGS[kind][::step]:
        part = plan.training
        assert isinstance(clip_of(part), Clip)
        assert isinstance(participation_of(part), float | Correlation)
        assert 0 < share_of_patients(part) <= 1
        words = words_of(plan)
        assert words.mechanism
        assert words.sampler
        assert words.released
        assert (words.noise_multiplier > 0) == plan.is_private
        assert "epsilon" in statement_of(plan, simulated=False, seeded=False).sentence()
        assert (insiders_of(plan) != ()) == plan.is_private


@every(TRAININGS)
def test_every_kind_of_training_has_its_reference_runs(kind):
    """The same without noise; and each hospital by itself, with all of the noise and no less private a kind."""
    for plan in TRAININGS[kind]:
        without = not_private(plan, 2)
        assert not without.is_private
        assert (without.releases, without.hospitals) == (2, plan.hospitals)
        own = alone(plan, 1, 4)
        assert type(own.training) is kind
        assert (own.is_private, own.hospitals, own.trust) == (plan.is_private, 1, Trust.NOBODY)
        assert own.masked is None
        assert own.count is None or own.count.noiser == ByEachHospital(1)


@pytest.mark.parametrize("kind", get_args(Work), ids=lambda kind: kind.__name__)
def test_every_work_has_a_charge_under_every_kind(kind):
    works = [work for work in WORKS if isinstance(work, kind)]
    assert works
    for plans_of_kind in TRAININGS.values():
        for work in works:
            assert leaves(ComposedEvent((charge_of(plans_of_kind[0], work, 1),))) is not None


@pytest.mark.parametrize("kind", get_args(Noiser), ids=lambda kind: kind.__name__)
def test_every_noiser_has_a_trust_and_a_share(kind):
    noiser = kind(5)
    assert isinstance(trust_of(noiser), Trust)
    assert 0 <= hospital_std(noiser, 2.0) <= 2.0


@pytest.mark.parametrize(
    "function",
    [
        about, release_event, planned_releases, unit_of, relation_of, noiser_of, clip_of, participation_of, trust_of,
        lambda part: against(part, 1.0), lambda part: event_of(part, 2), lambda noiser: hospital_std(noiser, 1.0),
        lambda work: charge_of(plans()[0], work, 1),
    ],
)  # fmt: skip
def test_a_kind_that_is_none_is_refused_and_not_taken_for_another(function):
    with pytest.raises(AssertionError, match="unreachable"):
        function(STRANGER)


def test_a_part_or_a_work_that_is_none_protects_nothing():
    assert not any(protects(STRANGER, work) for work in WORKS if work.name not in SAID)
    assert not any(protects(part, STRANGER) for part in parts())
