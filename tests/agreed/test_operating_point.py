"""Thresholds and calibration from noised moments, and the rounds that release them."""

import json
import math
from dataclasses import replace
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agreed.test_schedule import head, sums_of
from tests.errors import raises_code
from tests.training.test_heads import bench_of, cohort

from wardround.accounting.mechanisms import analytic_gaussian_noise_multiplier
from wardround.agreed.operating_point import operating_point, operating_points_of
from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import asked_by, strategy_of
from wardround.coordinator.observer import Silent
from wardround.coordinator.rounds import Schedule
from wardround.errors import StudyError
from wardround.federation.messages import Total
from wardround.models.operating_point import ByArgmax, ByThreshold
from wardround.privacy.plans.protects import protects
from wardround.privacy.plans.wording import statement_of
from wardround.simulation.run import run_study
from wardround.training.patients import Sample
from wardround.training.scores import SCALE, moment_rows, moments_of, score_count, unit_of
from wardround.work import GradientSum, ScoreSum


def sums(scores):
    angles = np.asarray(scores) / SCALE
    return np.array([len(angles), np.sin(angles).sum(), np.cos(angles).sum()])


@given(st.integers(2, 6), st.integers(1, 8), st.integers(0, 100), st.sampled_from([0.1, 5.0, 100.0]))
def test_a_patients_row_has_the_clipping_norm_at_most(classes, pictures, seed, scale):
    """For any logits and labels of the pictures of one patient: the sensitivity of the release, reached by one of them.

    The squared norm of a picture is 2 for each score, whatever the score.
    """
    draw = np.random.default_rng(seed)
    logits, labels = draw.normal(size=(pictures, classes)) * scale, draw.integers(0, classes, pictures)
    row = moments_of(logits, labels).mean(axis=0) * unit_of(classes, 0.25)
    assert row.shape == (6 * score_count(classes),)
    assert np.linalg.norm(row) <= 0.25
    norms = np.linalg.norm(moments_of(logits, labels) * unit_of(classes, 0.25), axis=1)
    assert np.all((norms > 0.25 * (1 - 1e-6)) & (norms <= 0.25))


def test_moments_of_normal_scores_give_their_threshold_and_posterior():
    draw = np.random.default_rng(0)
    ill, well = draw.normal(2.0, 1.5, 40_000), draw.normal(-1.0, 1.5, 20_000)
    point = operating_point("ill", sums(well), sums(ill), std=1.0)
    assert isinstance(point, ByThreshold)
    for threshold in point.thresholds:
        assert (ill >= threshold.score).mean() == pytest.approx(threshold.sensitivity, abs=0.01)
    for score in (-1.0, 0.5, 3.0):
        ratio = 2 * NormalDist(2.0, 1.5).pdf(score) / NormalDist(-1.0, 1.5).pdf(score)
        assert point.slope * score + point.intercept == pytest.approx(math.log(ratio), abs=0.05)


def test_the_noise_of_a_threshold_is_what_draws_show():
    draw = np.random.default_rng(3)
    own, others = sums(draw.normal(2.0, 2.0, 5000)), sums(draw.normal(-3.0, 2.0, 5000))
    points = [operating_point("ill", others, own + draw.normal(0, 3.0, 3), std=3.0) for _ in range(2000)]
    found = [point.thresholds[0] for point in points if isinstance(point, ByThreshold)]
    assert np.std([threshold.score for threshold in found]) == pytest.approx(found[0].noise_std, rel=0.1)


@pytest.mark.parametrize("mean", [-4.0, 0.0, 12.0, 20.0, 23.0, 27.0])
def test_a_mean_is_told_from_its_turns(mean):
    """Scores of a class from -10.5 to 32.5, in nats, and those of others below them, half of them far below."""
    draw = np.random.default_rng(4)
    ill, well = draw.normal(mean, 2.0, 20_000), draw.normal(min(mean, -mean) - 3.0, 2.0, 20_000)
    logits = np.stack([np.zeros(40_000), np.concatenate([ill, well])], axis=1)
    logits[30_000:, 1] = -60.0
    labels = np.repeat([1, 0], 20_000)
    others, own = moments_of(logits, labels).sum(axis=0).reshape(2, 3)
    point = operating_point("ill", others, own, std=1.0)
    assert isinstance(point, ByThreshold)
    assert point.thresholds[1].score == pytest.approx(mean - 1.645 * 2.0, abs=0.1)


@pytest.mark.parametrize(("mean", "at"), [(-45.0, -10.5), (-12.5, -10.5), (35.5, 32.5), (70.0, 32.5)])
def test_a_mean_beyond_the_turns_that_are_told_stays_at_their_end(mean, at):
    draw = np.random.default_rng(4)
    logits = np.stack(
        [np.zeros(40_000), np.concatenate([draw.normal(mean, 1.0, 20_000), np.full(20_000, -60.0)])], axis=1
    )
    others, own = moments_of(logits, np.repeat([1, 0], 20_000)).sum(axis=0).reshape(2, 3)
    point = operating_point("ill", others, own, std=1.0)
    if abs(mean) > 40:
        assert not isinstance(point, ByThreshold), "scores that are all cut have no spread"
    else:
        assert isinstance(point, ByThreshold)
        assert point.thresholds[0].score == pytest.approx(at, abs=1.5)


def test_a_score_that_is_no_number_counts_as_zero():
    logits = np.array([[0.0, np.nan], [0.0, 0.0], [0.0, np.inf], [0.0, -np.inf]])
    moments = moments_of(logits, np.array([1, 1, 1, 1]))
    assert moments[0].tolist() == moments[1].tolist() == [0, 0, 0, 1, 0, 1]
    assert np.linalg.norm(moments, axis=1) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("ill", "well", "std"),
    [
        ([2.0, 3.0] * 40, [-1.0, 0.0] * 40, 9.0),  # counts of 80 with a noise of 9
        ([0.0, 1.0] * 40, [2.0, 3.0] * 40, 1.0),  # the wrong way round
        ([2.0] * 80, [0.0] * 80, 1.0),  # no spread of its own
        ([2.0, 3.0] * 400, [-1.0, 0.0] * 400, 9.0),  # counts hold, and the spread does not
    ],
)
def test_the_argmax_decides_where_noise_hides_the_threshold(ill, well, std):
    point = operating_point("ill", sums(well), sums(ill), std)
    assert isinstance(point, ByArgmax)
    assert point.reason


class Moments:
    """Sums of noise on the moments of a fixed cohort, as the plan adds it; gradients are zero."""

    def __init__(self, std, exact, size):
        self.std, self.exact, self.size, self.draw = std, exact, size, np.random.default_rng(0)
        self.asked: list[Any] = []

    def collect(self, channel, requests, deadline_s):
        work = next(iter(requests.values())).work
        self.asked.append(work)
        found = np.zeros(self.size)
        if isinstance(work, ScoreSum):
            found[: len(self.exact)] = self.exact
            found += self.draw.normal(0, self.std, self.size)
        return Total(found.astype(np.float32), dict.fromkeys(requests), {})  # type: ignore[arg-type]


def test_score_rounds_are_one_release_of_their_share_of_mu():
    """The std of a released count is that of a Gaussian mechanism at 5 of 105 parts of mu^2, times sqrt(2)."""
    study = head(privacy={"num_patients": 2000}, hospitals={"count": 5}, federation={"centre_rounds": 0})
    plan, part = plan_of(study), sums_of(study)
    share = study.score_rounds / study.rounds
    mu = math.sqrt(share) / analytic_gaussian_noise_multiplier(8.0, 1e-5)
    draw = np.random.default_rng(1)
    ill, well = draw.normal(2.0, 1.5, 1200), draw.normal(-1.0, 1.5, 800)
    exact = np.concatenate([sums(well), sums(ill)]) * unit_of(2, 0.25)
    aggregator = Moments(part.noise.noise_multiplier * 0.25 * math.sqrt(5 / 4), exact, 4000)
    strategy = strategy_of(study, plan, aggregator, classes=2)
    nobody = SimpleNamespace(hospitals=("a",))
    channel: Any = nobody
    state = strategy.init(np.zeros(4000, dtype=np.float32), channel)
    for round in range(1, study.rounds + 1):
        state = strategy.update(state, channel, round)
    kinds = [type(work) for work in aggregator.asked]
    assert kinds == [GradientSum] * 100 + [ScoreSum] * 5
    [point] = operating_points_of(study, plan, state, ("well", "ill"))
    assert isinstance(point, ByThreshold)
    assert point.patients_std == pytest.approx(math.sqrt(2) / mu * math.sqrt(5 / 4), rel=0.01)
    noise = state["moments"][6:] / (study.score_rounds * unit_of(2, 0.25))
    assert float(np.std(noise)) == pytest.approx(point.patients_std, rel=0.05)  # 4,000 draws: 1.1 %
    assert np.array_equal(strategy.models(state)["global"], state["mean"])


def test_scores_are_asked_for_after_training_only():
    study = head(federation={"centre_rounds": 0})
    asks = asked_by(study, plan_of(study))
    weights = np.zeros(4, dtype=np.float32)
    assert asks(GradientSum(weights), 100)
    assert not asks(GradientSum(weights), 101)
    assert asks(ScoreSum(weights), 101)
    assert not asks(ScoreSum(weights), 100)
    none = head(federation={"score_rounds": 0})
    assert not asked_by(none, plan_of(none))(ScoreSum(weights), 101)


def test_a_plan_protects_scores_where_it_names_them():
    """The plan says which sums leave, and the statement too."""
    study = head(privacy={"sum": "simulated"})
    part, work = sums_of(study), ScoreSum(np.zeros(4, dtype=np.float32))
    assert part.scores == study.score_rounds
    assert protects(part, work)
    assert not protects(replace(part, scores=0), work)
    said = statement_of(plan_of(study), simulated=True, seeded=False).sentence()
    assert "in each of the last 5, of moments of their class scores" in said


@given(st.integers(0, 50), st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_no_bit_of_a_patients_row_depends_on_others(seed, counts):
    patients, rows = cohort(counts, seed=seed)
    bench = bench_of(rows)
    weights = np.random.default_rng(seed).normal(size=bench.initial_weights.size).astype(np.float32)
    everyone = moment_rows(bench, weights, Sample(patients, np.arange(len(counts))), 0.25)
    nobody = moment_rows(bench, weights, Sample(patients, np.arange(0)), 0.25)
    assert nobody.shape == (0, everyone.shape[1])
    for own in range(len(counts)):
        alone = moment_rows(bench, weights, Sample(patients, np.array([own])), 0.25)
        assert alone[0].tobytes() == everyone[own].tobytes()


def test_the_final_model_is_the_mean_of_training_rounds():
    schedule = Schedule(105, 10, 0.5, score_rounds=5)
    assert schedule.average_from == 51


@pytest.mark.parametrize("sections", [{"model": {"name": "small_cnn"}}, {"federation": {"strategy": "alone"}}])
def test_scores_of_other_studies_are_refused(sections):
    federation = {"score_rounds": 2} | sections.get("federation", {})
    with raises_code(StudyError, "study-score-rounds"):
        head(**sections | {"federation": federation})


@pytest.mark.thorough
@pytest.mark.parametrize("sum", ["simulated", "masked"])
def test_a_run_releases_its_operating_point(tiny, tmp_path, sum):
    """The card has a threshold or the reason for none, the ledger a charge for every round of scores."""
    from wardround.config import parse_study

    privacy = {"epsilon": None, "noise_multiplier": 0.3, "clipping_norm": None, "sum": sum, "num_patients": 30}
    federation = {"rounds": 8, "score_rounds": 2, "evaluate_every": 10}
    study = parse_study(
        tiny(
            model={"name": "features"}, privacy=privacy, federation=federation,
            hospitals={"count": 3}, data={"image_size": 32, "classes": None},
        )
    )  # fmt: skip
    record = run_study(study, tmp_path / "run", Silent(), rehearsal=True)
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record.certificate["rounds"] == 10
    assert [point["class_name"] for point in card["operating_points"]] == [card["classes"][1]]
    assert {row["class"] for row in results["operating_points"]} == {card["classes"][1]}
