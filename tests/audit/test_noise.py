"""Coordinates without a patient hold noise alone: too little of it, or noise that is used twice, is a contradiction."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from tests.audit.studies import SETTINGS, study_of
from tests.audit.test_mechanism import canaries_of
from tests.cases import family

from wardround.audit.noise import LEVEL, check_noise
from wardround.hospital.agent import Agent
from wardround.noisers import hospital_std
from wardround.randomness import Randomness

ROUNDS, SIZE = 4, 512


def drawn(seed, rounds=ROUNDS, std=1.0):
    return list(np.random.default_rng(seed).normal(scale=std, size=(rounds, SIZE)))


def test_the_probabilities_of_independent_noise_are_as_stated():
    """At most about 5 % of 400 drawn runs have a probability below 5 %; for the variance, not far fewer."""
    found = [check_noise(drawn(seed), 1.0) for seed in range(400)]
    below = [
        sum(p < 0.05 for p in values)
        for values in zip(*((f.p_present, f.p_independent, f.p_beyond) for f in found), strict=True)
    ]
    assert 6 <= below[0] <= 36
    assert max(below[1:]) <= 36
    assert not any(one.contradictions for one in found)


@pytest.mark.parametrize("present", [0.75, 0.5])
def test_variance_that_is_missing_is_found(present):
    found = check_noise(drawn(1, std=np.sqrt(present)), 1.0)
    assert found.p_present < LEVEL
    assert found.p_independent > LEVEL


def cut(noise):
    return noise.clip(-3, 3)


def drawn_anew(noise):
    return np.where(np.abs(noise) > 3, 0.5, noise)


def uniform(noise):
    return math.sqrt(3) * (2 * stats.norm.cdf(noise) - 1)


def two_points(noise):
    return np.sign(noise)


@pytest.mark.parametrize(("of", "rounds"), [(cut, 16), (drawn_anew, 16), (uniform, 2), (two_points, 1)])
def test_noise_of_the_plans_variance_without_its_tail_is_found(of, rounds):
    """At a level that honest noise, and larger noise, does not reach."""
    noise = drawn(7, rounds)
    found = check_noise([of(row) for row in noise], 1.0)
    assert found.p_present > LEVEL
    assert found.p_beyond < LEVEL
    assert any("standard deviations" in sentence for sentence in found.contradictions)
    assert check_noise(noise, 1.0).p_beyond > 0.01
    assert check_noise(noise, 0.5).p_beyond > 0.01


def test_noise_that_is_shared_between_two_rounds_is_found():
    rows = drawn(2)
    for share in (1.0, 0.5, -0.5):
        rows[3] = share * rows[1] + np.sqrt(1 - share**2) * drawn(3)[0]
        assert check_noise(rows, 1.0).p_independent < LEVEL


def test_a_little_noise_that_all_rounds_share_is_found():
    common = drawn(4)[0]
    rows = [np.sqrt(0.95) * row + np.sqrt(0.05) * common for row in drawn(5, rounds=64)]
    assert check_noise(rows, 1.0).p_independent < LEVEL


@pytest.mark.parametrize(("first", "second"), family([(3, 700), (600, 601), (1, 2)]))
def test_a_pair_in_any_two_blocks_is_found_in_little_memory(first, second):
    rows = np.random.default_rng(6).normal(size=(1100, 64))
    rows[second] = -rows[first]
    tracemalloc.start()
    found = check_noise(list(rows), 1.0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.correlation == pytest.approx(1.0)
    assert most < 1100**2 * 8  # all cosines at once


@pytest.mark.parametrize("setting", family(SETTINGS, keep=["masked"]))
def test_a_correct_study_has_the_noise_of_its_plan(setting):
    noise = canaries_of(study_of(**SETTINGS[setting])).noise
    if setting == "local steps":
        assert noise is None
        return
    assert noise.contradictions == ()
    assert (noise.present is None) == (setting == "adaptive")
    assert noise.vectors == (6 if setting == "nobody" else 2)


@pytest.mark.thorough
def test_hospitals_that_are_away_are_not_taken_to_repeat_their_noise():
    study = study_of({"trust": "nobody"}, rounds=6)
    away = study.hospitals.model_copy(update={"absent_rate": 0.3, "availability_seed": 2})
    noise = canaries_of(study.model_copy(update={"hospitals": away})).noise
    assert 6 < noise.vectors < 18
    assert noise.contradictions == ()


def reused(patch):
    """The name of a noise stream lacks round and attempt."""
    stream = Randomness.stream
    patch.setattr(Randomness, "stream", lambda own, *name: stream(own, *(name[:-2] if "noise" in name else name)))


def alike(patch):
    """All hospitals draw one noise."""
    stream, first = Agent._stream, []

    def of(agent, purpose, request):
        first.append(agent)
        return stream(first[0] if purpose == "noise" else agent, purpose, request)

    patch.setattr(Agent, "_stream", of)


def a_quarter_missing(patch):
    patch.setattr(
        "wardround.privacy.plans.releases.hospital_std",
        lambda noiser, total: hospital_std(noiser, total) * np.sqrt(0.75),
    )


FAULTS = [
    (reused, {"trust": "nobody"}, "not independent"),
    (reused, {"sum": "simulated"}, "not independent"),
    (alike, {"trust": "nobody"}, "not independent"),
    (a_quarter_missing, {"trust": "nobody"}, "of the variance"),
    (a_quarter_missing, {"sum": "simulated"}, "of the variance"),
]


@pytest.mark.parametrize(
    ("plant", "privacy", "seen"),
    family(FAULTS, keep=FAULTS[:1]),
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_fault_in_the_noise_of_a_study_is_found(monkeypatch, plant, privacy, seen):
    study = study_of({"noise_multiplier": 3.0, **privacy})
    assert canaries_of(study, 1024).noise.contradictions == ()
    plant(monkeypatch)
    attack = canaries_of(study, 1024)
    assert any(seen in sentence for sentence in attack.noise.contradictions)
    assert attack.contradictions == ()  # which the bounds on epsilon do not see
