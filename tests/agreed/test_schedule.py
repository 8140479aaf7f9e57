"""The recipe of private heads: defaults, the step rule as a property of the noise, and the cost of its rounds."""

import json
import math
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.errors import raises_code

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import GaussianEvent, NoEvent, PoissonSampledEvent, SelfComposedEvent
from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier, gaussian_epsilon
from wardround.agreed.plans import plan_of
from wardround.agreed.schedule import LOSSES, Schedule, expected_loss, feasibility, schedule_of
from wardround.agreed.strategies import strategy_of
from wardround.config import parse_study
from wardround.config.recipe import LOGIT_NOISE, MOST_RATE, TWO_CLASS_NOISE, momentum_sum
from wardround.coordinator.observer import Silent
from wardround.errors import StudyError
from wardround.federation.messages import Total
from wardround.noisers import inflation_of
from wardround.privacy.plans.kinds import NoisedGradients
from wardround.simulation.estimate import estimate
from wardround.simulation.run import run_study

HEAD = {
    "study": {"name": "head"},
    "data": {"layout": "phantom"},
    "hospitals": {"count": 5},
    "model": {"name": "features"},
    "privacy": {"plan": "dp-sgd", "epsilon": 8.0, "delta": 1e-5},
}
NOISE = st.floats(0.5, 60.0)
LIMITS = {2: TWO_CLASS_NOISE, 3: LOGIT_NOISE, 5: LOGIT_NOISE}
CENTRED = {2: 1.25, 3: 2.0, 5: 2.0}
"""Noise of a class score after all rounds, by the number of classes, on rows as they are and less their mean."""


def head(**sections):
    return parse_study(HEAD | {name: HEAD.get(name, {}) | table for name, table in sections.items()})


def test_a_head_study_that_names_nothing_has_the_recipe():
    study = head()
    section = study.federation
    assert (section.rounds, section.learning_rate, section.momentum, section.average_last) == (
        100,
        "auto",
        0.9,
        0.5,
    )
    assert study.privacy.clipping_norm == 0.25
    assert study.privacy.sampling_prob == 1.0
    assert study.privacy.images_per_patient == 8
    assert study.score_rounds / study.rounds == pytest.approx(0.05, abs=0.003)
    assert study.centre_rounds == 3
    assert head(federation={"rounds": 400}).centre_rounds == 12
    assert not head(federation={"rounds": 10}).centre_rounds
    grades = head(model={"name": "features", "head": "ordinal"})
    assert not grades.centre_rounds
    assert grades.federation.compare == study.federation.compare == ("repeats",)


def test_a_named_key_keeps_its_value():
    named = {"rounds": 60, "learning_rate": 24.0, "momentum": 0.5, "average_last": 0.0}
    study = head(federation=named, privacy={"clipping_norm": 1.0})
    assert {key: getattr(study.federation, key) for key in named} == named
    assert study.privacy.clipping_norm == 1.0


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"name": "small_cnn"}},
        {"model": {"name": "linear"}},
        {"privacy": {"clipping": "adaptive"}},
        {"federation": {"strategy": "fedavg"}, "privacy": {"trust": "nobody"}},
    ],
)
def test_other_studies_keep_their_defaults(sections):
    study = head(**sections)
    assert (study.federation.rounds, study.federation.learning_rate) == (100, 1.0)
    assert study.privacy.clipping_norm == 1.0


def test_a_private_network_releases_the_mean_of_many_rounds():
    def average_last(**federation):
        section: Any = head(
            model={"name": "small_cnn"}, federation=federation, privacy={"trust": "nobody"}
        ).federation
        return section.average_last

    assert average_last() == average_last(rounds=50) == 0.25
    assert average_last(rounds=49) == 0.0
    assert average_last(average_last=0.5) == 0.5
    assert average_last(strategy="fedavg") == 0.0


def test_an_automatic_rate_is_refused_where_there_is_no_rule():
    with raises_code(StudyError, "study-learning-rate"):
        head(model={"name": "small_cnn"}, federation={"learning_rate": "auto"})


def test_the_resolved_study_is_read_back_as_it_is():
    import tomllib

    for federation in ({}, {"centre_rounds": 0}, {"average_last": 0.99}):
        study = head(privacy={"num_patients": 6000}, federation=federation)
        again = parse_study(tomllib.loads(study.to_toml()))
        assert again.digest == study.digest
        assert again.centre_rounds == study.centre_rounds


def test_a_run_from_before_centres_is_the_study_it_was():
    """Its file has every key but one, and its digest is that of a study without a centre."""
    import tomllib

    without = head(federation={"centre_rounds": 0})
    lines = [line for line in without.to_toml().splitlines() if not line.startswith("centre_rounds")]
    assert parse_study(tomllib.loads("\n".join(lines))).digest == without.digest != head().digest


def test_a_study_of_ones_own_with_many_keys_has_the_default_centre():
    named = {"rounds": 100, "learning_rate": "auto", "evaluate_every": 10, "compare": [], "score_rounds": 5}
    assert head(federation=named).centre_rounds == 3


def test_the_constants_of_a_centred_rate_are_part_of_the_study(monkeypatch):
    """Under other constants a run would go on at another rate."""
    digests = [head().digest, head(federation={"learning_rate": 24.0}).digest]
    monkeypatch.setattr("wardround.config.recipe.CENTRED_NOISE", 1.5)
    again = [head().digest, head(federation={"learning_rate": 24.0}).digest]
    assert [old == new for old, new in zip(digests, again, strict=True)] == [False, True]


@given(st.integers(1, 60_000), st.floats(0.2, 12.0))
def test_rounds_are_the_fewest_that_keep_the_rate_below_its_bound(patients, epsilon):
    study = head(privacy={"num_patients": patients, "epsilon": epsilon})
    total = LOGIT_NOISE / 0.25 * patients / analytic_gaussian_noise_multiplier(epsilon, 1e-5)

    def rate(rounds):
        return total / momentum_sum(rounds, 0.9)

    rounds = study.training_rounds  # the same for any number of classes: it may not be known yet
    assert rate(rounds) < MOST_RATE or rounds == 1000
    assert rounds == 100 or rate(rounds - 1) >= MOST_RATE


class Noise:
    """Sums of no patient: noise of some std alone."""

    def __init__(self, std, size):
        self.std, self.size, self.draw = std, size, np.random.default_rng(0)

    def collect(self, channel, requests, deadline_s):
        noise = self.draw.normal(0, self.std, self.size).astype(np.float32)
        return Total(noise, dict.fromkeys(requests, NoEvent()), {})


def sums_of(study) -> NoisedGradients:
    part = plan_of(study).training
    assert isinstance(part, NoisedGradients)
    return part


def scheduled(study, classes=2) -> Schedule:
    found = schedule_of(study, plan_of(study), classes)
    assert found is not None
    return found


def final_noise(study, classes, size=6000, average=False):
    """Std of a weight after all rounds of a study whose sums are noise alone; of a unit row's class score as well."""
    plan, part = plan_of(study), sums_of(study)
    nobody: Any = SimpleNamespace(hospitals=("a",))
    inflation = inflation_of(part.noiser) if study.forms_sums else 1.0
    noise = Noise(part.noise.noise_multiplier * part.clip.norm * inflation, size)
    strategy = strategy_of(study, plan, noise, classes=classes)
    state = strategy.init(np.zeros(size, dtype=np.float32), nobody)
    seen = []
    for round in range(1, study.training_rounds + 1):
        state = strategy.update(state, nobody, round)
        seen.append(state["weights"])
    last = np.mean(seen[study.training_rounds // 2 :], axis=0) if average else seen[-1]
    return float(np.std(last))


@pytest.mark.parametrize(
    ("classes", "privacy", "hospitals", "centre_rounds"),
    [
        (2, {"epsilon": 8.0, "num_patients": 2219}, 5, 3),
        (3, {"epsilon": 0.5, "num_patients": 150}, 20, 3),
        (2, {"epsilon": 1.0, "num_patients": 700, "trust": "nobody"}, 3, 0),
        (5, {"epsilon": 2.0, "num_patients": 5000, "clipping_norm": 1.0, "sum": "masked"}, 5, 0),
    ],
)
def test_noise_in_a_class_score_is_one_number_for_two_classes_and_one_for_several(
    classes, privacy, hospitals, centre_rounds
):
    """For every n, epsilon, trust and length of a row: weights are drawn alike, and a row has norm one.

    6,000 draws give the std to 0.9 %; the noise of T rounds exceeds the mean step's by a factor below 1.025.
    """
    federation = {"centre_rounds": centre_rounds}
    study = head(privacy={"accountant": "rdp"} | privacy, hospitals={"count": hospitals}, federation=federation)
    limit = (CENTRED if centre_rounds else LIMITS)[classes]
    assert 0.955 * limit < final_noise(study, classes) < 1.07 * limit
    assert 0.73 * limit < final_noise(study, classes, average=True) < 0.9 * limit  # the mean of the last half


@settings(max_examples=8)
@given(
    NOISE, st.integers(30, 3000), st.integers(2, 30), st.sampled_from([0.5, 0.9]), st.integers(20, 200),
    st.sampled_from([*LIMITS]), st.sampled_from([0, 3]),
)  # fmt: skip
def test_the_step_rule_holds_for_any_noise(multiplier, patients, hospitals, momentum, rounds, classes, centres):
    study = head(
        privacy={"epsilon": None, "noise_multiplier": multiplier, "num_patients": patients},
        hospitals={"count": hospitals},
        federation={"momentum": momentum, "rounds": rounds, "centre_rounds": centres},
    )
    schedule = scheduled(study, classes)
    std = multiplier * 0.25 * inflation_of(sums_of(study).noiser)
    # Noise of round t is in the weights (1 - m^(T - t + 1)) / (1 - m) times.
    times = (1 - momentum ** np.arange(1, rounds - centres + 1)) / (1 - momentum)
    exact = schedule.rule.each * std * math.sqrt(float(np.sum(times**2)))
    limit = (CENTRED if centres else LIMITS)[classes]
    assert limit * 0.9999 <= exact <= 1.1 * limit
    assert schedule.rule.at(patients) <= MOST_RATE


@pytest.mark.parametrize("rounds", [1, 100])
def test_rounds_with_everyone_cost_one_gaussian_release(rounds):
    """Corollary 3.3 of Dong, Roth and Su; dp-accounting is a second oracle."""
    z, delta = 6.035, 1e-5
    event = SelfComposedEvent(PoissonSampledEvent(1.0, GaussianEvent(z)), rounds)
    ours = epsilon_of(event, delta, AccountantKind.PLD)
    closed = gaussian_epsilon(z / math.sqrt(rounds), delta)
    theirs = oracle.from_gaussian_mechanism(z / math.sqrt(rounds)).get_epsilon_for_delta(delta)
    assert closed <= ours <= closed * 1.001
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_rounds_are_free_at_one_promise():
    """The same promise in more rounds has the same mu, and the same noise in the end."""
    parts = [sums_of(head(privacy={"num_patients": 900}, federation={"rounds": rounds})) for rounds in (50, 400)]
    few, many = (part.noise.noise_multiplier / math.sqrt(part.releases) for part in parts)
    assert few == pytest.approx(many, rel=1e-3)


def test_the_schedule_says_its_reason():
    study = head(privacy={"num_patients": 2219})
    for classes, factor, limit in ((2, 5, "two classes is then 1.25"), (4, 8, "several classes is then 2")):
        said = scheduled(study, classes).sentence()
        assert f"{factor} mu n / 880" in said
        assert f"the noise in a score of {limit} at any n and epsilon" in said
        assert "n = 2219" in said
    named = head(federation={"learning_rate": 24.0})
    assert "learning rate 24 as the study gives it" in scheduled(named).sentence()


@pytest.mark.parametrize(
    ("mu", "patients", "classes", "word"),
    [
        (1.49, 2219, 2, "works"),
        (0.25, 546, 2, "too few"),
        (0.5, 546, 2, "marginal"),
        (1.49, 546, 3, "marginal"),
        (1.49, 2827, 5, "works"),
        (0.25, 623, 3, "too few"),
    ],
)
def test_feasibility_is_by_mu_n_and_the_number_of_classes(mu, patients, classes, word):
    assert f": {word}" in feasibility(mu, patients, classes)


def test_the_loss_to_expect_is_that_of_the_committed_trials():
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "expected_loss.json"
    trials = json.loads(path.read_text())
    for lost in LOSSES:
        found = [t["without"] - t["private"] for t in trials if lost.least <= t["mu_n"] < lost.below]
        expected = (len(found), round(statistics.median(found), 3), round(max(found), 3))
        assert (lost.problems, lost.median, lost.most) == expected
        assert expected_loss(max(1.0, lost.least)) is lost
    assert [lost.below for lost in LOSSES] == [*[lost.least for lost in LOSSES[1:]], math.inf]
    assert sum(lost.problems for lost in LOSSES) == len(trials)
    assert LOSSES[0].sentence() in feasibility(0.001, 1000, 2)


@pytest.mark.thorough
def test_check_and_run_say_the_choice_and_the_feasibility(tiny, tmp_path):
    tables = tiny(
        model={"name": "auto"}, data={"image_size": 32}, privacy={"clipping_norm": None, "num_patients": 30},
        federation={"rounds": 2},
    )  # fmt: skip
    found = estimate(parse_study(tables))
    assert found.choice.startswith('model features with encoder = "hog", as auto takes: image_size is 32')
    assert "mu n = " in found.feasibility
    stages: list[str] = []
    watching = type("Watching", (Silent,), {"stage": lambda _, said: stages.append(said)})
    run_study(parse_study(tables), tmp_path / "run", watching(), rehearsal=True)
    assert found.feasibility in stages
