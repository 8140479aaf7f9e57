"""The audit of a study's own mechanism: nothing on correct settings, a contradiction where noise or clip is missing."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
from tests.audit.studies import CORRELATED, SETTINGS, study_of
from tests.cases import family
from tests.errors import raises_code

from wardround.agreed.plans import plan_of
from wardround.audit.findings import CLEAN, CONTRADICTION
from wardround.audit.mechanism import audit_canaries, audit_two_worlds, claim_of
from wardround.audit.study import audit_study
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.errors import StudyError
from wardround.randomness import Randomness

ALPHA = 0.01


def quiet(done, total):
    del done, total


def canaries_of(study, size=256, alpha=ALPHA):
    return audit_canaries(study, size, Randomness(study.study.seed, "test").stream("coins"), alpha, quiet)


@pytest.mark.parametrize("setting", family(list(SETTINGS), keep=["masked", "centred and scored"]))
def test_a_correct_mechanism_is_not_contradicted(setting):
    study = study_of(**SETTINGS[setting])
    for attack in (canaries_of(study), audit_two_worlds(study, 9, ALPHA, quiet)):
        assert attack.contradictions == ()
        assert all(bound.epsilon <= bound.ceiling for bound in attack.bounds)


def test_virtual_patients_reach_the_released_sum_with_the_length_of_the_clip():
    # Without noise every guess is right: the attack shows its ceiling.
    study = study_of({"sum": "simulated", "noise_multiplier": 1e-3})
    for bound in canaries_of(study).bounds:
        assert bound.correct == bound.guesses
        assert bound.epsilon == pytest.approx(bound.ceiling)


@pytest.mark.thorough
def test_noise_that_is_missing_from_the_sum_is_a_contradiction(monkeypatch):
    study = study_of({"sum": "simulated", "noise_multiplier": 3.0})
    monkeypatch.setattr("wardround.privacy.plans.releases.hospital_std", lambda noiser, total: total / 20)
    found = audit_study(study, Silent(), runs=60, canaries=256)
    assert found.verdict == CONTRADICTION
    assert any("f-DP" in sentence for sentence in found.contradictions)
    assert any("two worlds, GDP" in sentence for sentence in found.contradictions)


@pytest.mark.thorough
def test_hospitals_that_miss_noise_under_masks_end_the_audit_with_a_contradiction(monkeypatch):
    def no_noise(count, std, random_bytes):
        del std, random_bytes
        return np.zeros(count, dtype=np.int64)

    monkeypatch.setattr("wardround.secure_aggregation.integers.mechanism.discrete_gaussian", no_noise)
    found = audit_study(study_of({"sum": "masked", "noise_multiplier": 3.0}), Silent(), runs=30, canaries=64)
    assert found.attacks[0].stopped
    assert found.verdict == CONTRADICTION


def test_mean_rows_that_are_not_cut_are_a_contradiction(monkeypatch):
    """A virtual patient's row is attacked as its gradient is: without the cut it is ten clipping norms long."""
    study = study_of(
        {"sum": "simulated", "noise_multiplier": 3.0}, SETTINGS["centred"]["federation"], model="features"
    )
    assert canaries_of(study).contradictions == ()
    monkeypatch.setattr("wardround.training.scores.cut_rows", lambda inputs: 5 * inputs.flatten(1).numpy())
    assert canaries_of(study).contradictions != ()


def test_gradients_that_are_not_clipped_are_a_contradiction(monkeypatch):
    monkeypatch.setattr("wardround.training.batch_sums.clipped_sums_by_group", unclipped(), raising=True)
    assert canaries_of(study_of({"sum": "simulated", "noise_multiplier": 3.0})).contradictions != ()


def unclipped():
    from wardround.per_patient.clipped_sum import clipped_sums_by_group as clipped

    def sums(*arguments, clipping_norm, **options):
        found = clipped(*arguments, clipping_norm=1e6, **options)
        return [replace(one, sensitivity=clipping_norm) for one in found]

    return sums


@pytest.mark.parametrize("privacy", family([{"trust": "nobody"}, {"sum": "simulated"}]))
def test_a_count_without_noise_is_a_contradiction(monkeypatch, privacy):
    study = study_of({"num_patients": None, **privacy})
    assert audit_two_worlds(study, 30, ALPHA, quiet, count=True).contradictions == ()
    exact_count(monkeypatch)
    assert audit_two_worlds(study, 30, ALPHA, quiet, count=True).contradictions != ()


def exact_count(patch):
    for module in ("hospital.agent", "simulation.union"):
        patch.setattr(f"wardround.{module}.noised_counts", lambda part, values, *noise: values.astype(np.float32))


@pytest.mark.thorough
def test_an_event_that_costs_more_than_is_printed_is_a_contradiction():
    found = audit_study(study_of({"sum": "simulated"}), Silent(), runs=9, canaries=64)
    assert found.verdict == CLEAN
    assert len(found.recounts) == 2
    cheaper = [replace(one, claimed=one.claimed / 2) for one in found.recounts]
    assert replace(found, recounts=tuple(cheaper)).verdict == CONTRADICTION


def test_the_claim_of_a_gaussian_release_is_its_own_mu():
    plan = plan_of(study_of({"sum": "simulated", "noise_multiplier": 1.25}))
    assert claim_of(plan, 1, "").mu == pytest.approx(0.8, abs=2e-3)
    assert claim_of(plan, 4, "").mu == pytest.approx(1.6, abs=2e-3)


@pytest.mark.thorough
def test_trials_that_are_too_few_for_a_claim_are_named():
    study = study_of({"sum": "simulated", "noise_multiplier": 0.3})
    attack = canaries_of(study, 64)
    assert not any(attack.claim.is_within_reach(bound) for bound in attack.bounds)
    found = audit_two_worlds(study_of({"sum": "simulated", "noise_multiplier": 3.0}), 60, ALPHA, quiet)
    assert all(found.claim.is_within_reach(bound) for bound in found.bounds)


def test_a_study_without_privacy_claims_nothing():
    study = parse_study(
        {
            "study": {"name": "open", "seed": 1}, "data": {"layout": "phantom"}, "hospitals": {"count": 2},
            "model": {"name": "linear"}, "privacy": {"plan": "none"},
            "federation": {"strategy": "fedsgd", "rounds": 1, "learning_rate": 1.0},
        }
    )  # fmt: skip
    found = audit_study(study, Silent(), runs=9, canaries=256)
    assert math.isinf(found.statement.epsilon)
    assert (found.verdict, found.recounts) == (CLEAN, ())
    assert found.attacks[0].bounds[0].epsilon == found.attacks[0].bounds[0].ceiling


def test_a_mechanism_without_gradients_is_named():
    study = study_of({"plan": "clipped-update", "num_patients": None, "trust": "nobody"}, {"strategy": "fedavg"})
    found = audit_study(study, Silent(), runs=9, canaries=64)
    assert found.attacks == ()
    assert "clipped-update" in found.not_attacked
    with raises_code(StudyError, "study-audit-plan"):
        audit_two_worlds(study, 30, ALPHA, quiet)


@pytest.mark.thorough
def test_fifty_correct_settings_are_not_contradicted():
    """Seeds and settings are fixed; each of the fifty has a fiftieth of 5 %."""
    generator, wrong = np.random.default_rng(2026), []
    for number in range(50):
        name = list(SETTINGS)[number % len(SETTINGS)]
        options = copy.deepcopy(SETTINGS[name])
        privacy = options.setdefault("privacy", {})
        privacy["noise_multiplier"] = float(generator.uniform(0.5, 2.0))
        study = study_of(
            **options, hospitals=int(generator.integers(3, 6)),
            rounds=int(generator.integers(1, 6)) + (name == "centred"), seed=number,
        )  # fmt: skip
        attacks = (canaries_of(study, 400, 0.05 / 100), audit_two_worlds(study, 60, 0.05 / 100, quiet))
        wrong += [(number, name, one) for one in attacks if one.contradictions]
    assert wrong == []


@pytest.mark.thorough
def test_correlated_noise_is_not_contradicted():
    study = parse_study(
        {
            "study": {"name": "correlated", "seed": 1}, "data": {"layout": "phantom"}, "hospitals": {"count": 3},
            "model": {"name": "linear"}, "privacy": {**CORRELATED, "num_patients": 300},
            "federation": {"strategy": "fedsgd", "rounds": 6, "learning_rate": 1.0},
        }
    )  # fmt: skip
    assert canaries_of(study).contradictions == ()
