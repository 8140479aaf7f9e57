"""A head on rows less their mean: the release of the mean, its bound and its noise, and the head that it folds into."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution as oracle
from hypothesis import given
from hypothesis import strategies as st
from tests.agreed.test_schedule import head, sums_of
from tests.errors import raises_code
from tests.training.test_heads import bench_of, cohort

from wardround.accounting.mechanisms import gaussian_epsilon
from wardround.agreed.plans import plan_of
from wardround.agreed.schedule import schedule_of
from wardround.agreed.strategies import asked_by, strategy_of
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.errors import StudyError
from wardround.federation.messages import Request, Total
from wardround.per_patient.clipping_rules import Flat
from wardround.privacy.plans.protects import protects
from wardround.privacy.plans.wording import statement_of
from wardround.randomness import Randomness
from wardround.simulation.batches import _gradient_sums
from wardround.simulation.run import run_study
from wardround.training.centring import CONSTANT, Moves, centred, estimated, folded
from wardround.training.patients import Sample
from wardround.training.scores import mean_rows
from wardround.work import GradientSum, RowSum, ScoreSum

CENTRED = {"centre_rounds": 3}


def unit_rows(count, features, seed=0):
    """Rows of norm one around a mean of their own, with the constant."""
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(count, features - 1)) + 2 * draw.normal(size=features - 1)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    rows = np.concatenate([values * math.sqrt(1 - CONSTANT**2), np.full((count, 1), CONSTANT)], axis=1)
    return rows.astype(np.float32)


def test_a_head_on_centred_rows_is_a_head_on_rows_as_they_are():
    rows, draw = unit_rows(200, 9), np.random.default_rng(1)
    centre = np.zeros(27, dtype=np.float32)
    centre[:9] = rows.mean(axis=0)
    moved = centred(torch.from_numpy(rows), centre).numpy()
    weights = draw.normal(size=27).astype(np.float32)
    scores = moved @ weights.reshape(3, 9).T
    assert np.allclose(rows @ folded(weights, centre, 9).reshape(3, 9).T, scores, atol=1e-4)
    assert np.allclose(moved[:, :-1].mean(axis=0), 0, atol=1e-5)
    assert np.isclose((moved**2).sum(axis=1).mean(), 1, atol=1e-3), "they are as long as they were, on average"


def test_no_centre_changes_nothing():
    rows, zeros = torch.from_numpy(unit_rows(20, 9)), np.zeros(27, dtype=np.float32)
    weights = np.random.default_rng(1).normal(size=27).astype(np.float32)
    assert np.allclose(centred(rows, zeros), rows, atol=1e-7)
    assert np.allclose(folded(weights, zeros, 9), weights, atol=1e-7)


def test_a_mean_of_noise_is_shrunk_away_and_one_without_noise_kept():
    """Over draws, the shrunk mean is nearer to the truth than the noised one; of none of it, nothing is left."""
    draw, truth, std = np.random.default_rng(2), np.zeros(300, dtype=np.float32), 5.0
    truth[:100] = draw.normal(size=100) / 20
    assert np.allclose(estimated(truth * 50, 50.0, 0.0, 100), truth, atol=1e-6)
    noised = [(truth * 50 + draw.normal(0, std, 300)).astype(np.float32) for _ in range(200)]
    shrunk = [np.linalg.norm(estimated(one, 50.0, std, 100) - truth) for one in noised]
    assert np.mean(shrunk) < 0.85 * np.mean([np.linalg.norm(one[:100] / 50 - truth[:100]) for one in noised])
    assert not estimated(np.full(300, 1e-3, dtype=np.float32), 50.0, std, 100).any()


@given(st.integers(0, 50), st.lists(st.integers(1, 4), min_size=2, max_size=6), st.sampled_from([0.1, 1.0, 30.0]))
def test_a_patient_moves_the_sum_of_rows_by_at_most_the_clip(seed, counts, scale):
    """By brute force: the sum without each patient, over short and long rows, and one that is not finite."""
    patients, rows = cohort(counts, seed=seed, scale=scale)
    rows[0, 0] = math.inf
    bench = bench_of(rows)

    def rows_of(chosen):
        return mean_rows(bench, bench.initial_weights.size, Sample(patients, np.array(chosen)), 0.25)

    everyone = rows_of(range(len(counts)))
    for own in range(len(counts)):
        others = rows_of([number for number in range(len(counts)) if number != own])
        assert np.linalg.norm(everyone.sum(axis=0) - others.sum(axis=0)) <= 0.25 * (1 + 1e-12)
        assert rows_of([own])[0].tobytes() == everyone[own].tobytes(), "no bit depends on others"
    assert np.isfinite(everyone).all()


def test_a_row_of_norm_one_uses_the_whole_clip():
    patients, rows = cohort([1, 1], scale=100.0)
    found = mean_rows(bench_of(rows), 18, Sample(patients, np.arange(2)), 0.25)
    assert np.allclose(np.linalg.norm(found, axis=1), 0.25, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1e3, 1e30])
def test_gradients_are_clipped_whatever_the_centre_is(scale):
    patients, rows = cohort([3, 1, 2])
    bench, draw = bench_of(rows), np.random.default_rng(3)
    weights, centre = (draw.normal(size=18).astype(np.float32) for _ in range(2))
    moved = bench.centred(centre * np.float32(scale))
    for own in range(3):
        [clipped] = moved.gradient_sums(weights, [Sample(patients, np.array([own]))], 0.25, 0, Flat())
        assert float(torch.linalg.vector_norm(clipped.vector.to(torch.float64))) <= 0.25
    assert bench.centred(None) is bench


def test_sums_of_several_centres_are_those_of_the_moved_rows():
    """Patients have several pictures, clipped and not; the pictures of one cancel."""
    patients, rows = cohort([3, 1, 2, 8])
    rows[:, -1], rows[6:8] = CONSTANT, rows[6]
    bench, draw = bench_of(rows), np.random.default_rng(3)
    weights, centres = (draw.normal(0, 0.25, (2, 18)).astype(np.float32) for _ in range(2))
    for clip in (0.05, 0.4, 5.0):
        everyone = Sample(patients, np.arange(4))
        moves = Moves(centres, 18 // 3)
        found = bench.head.sums_at(weights, (patients, everyone.chosen), clip, Flat(), moves)
        for one, own, centre in zip(found, weights, centres, strict=True):
            [alone] = bench.centred(centre).gradient_sums(own, [everyone], clip, 0, Flat())
            assert one.within == alone.within
            np.testing.assert_allclose(one.vector, alone.vector, rtol=1e-4, atol=1e-5 * clip)


class Rows:
    """Sums of noise on the mean row of a fixed cohort, as the plan adds it; gradients are noise alone."""

    def __init__(self, std, exact, size):
        self.std, self.exact, self.size, self.draw = std, exact, size, np.random.default_rng(0)
        self.asked: list[Any] = []

    def collect(self, channel, requests, deadline_s):
        work = next(iter(requests.values())).work
        self.asked.append(work)
        found = self.draw.normal(0, self.std, self.size)
        if isinstance(work, RowSum):
            found[: len(self.exact)] += self.exact
        return Total(found.astype(np.float32), dict.fromkeys(requests), {})  # type: ignore[arg-type]


def test_rounds_of_rows_are_one_release_of_their_share_of_mu():
    """The noise of the mean row is that of a Gaussian mechanism at 3 of 105 parts of mu^2, and so is its cost."""
    study = head(federation=CENTRED, privacy={"num_patients": 2000})
    plan, part = plan_of(study), sums_of(study)
    std = part.noise.noise_multiplier * 0.25 * math.sqrt(5 / 4)
    mean = np.full(2000, 0.02)
    aggregator = Rows(std, mean * 2000 * 0.25, 4000)
    strategy, nobody = strategy_of(study, plan, aggregator, classes=2), SimpleNamespace(hospitals=("a",))
    channel: Any = nobody
    state = strategy.init(np.zeros(4000, dtype=np.float32), channel)
    for round in range(1, study.rounds + 1):
        state = strategy.update(state, channel, round)
    assert [type(work) for work in aggregator.asked] == [RowSum] * 3 + [GradientSum] * 97 + [ScoreSum] * 5
    assert all(np.array_equal(work.centre, state["centre"]) for work in aggregator.asked[3:100])
    noise = state["rows"][2000:] / (3 * 0.25)
    mu_rows, mu_rest = (math.sqrt(rounds) / part.noise.noise_multiplier for rounds in (3, 102))
    assert float(np.std(noise)) == pytest.approx(math.sqrt(5 / 4) / mu_rows, rel=0.06)  # 2,000 draws: 1.6 %
    assert np.linalg.norm(state["centre"][:2000] - mean) < 0.5 * np.linalg.norm(mean)
    assert not state["centre"][2000:].any()
    assert np.allclose(strategy.models(state)["global"], state["mean"])
    both = gaussian_epsilon(1 / math.hypot(mu_rows, mu_rest), 1e-5)
    assert plan.epsilon == pytest.approx(both, rel=1e-3)
    parts = [
        oracle.from_gaussian_mechanism(1 / mu, value_discretization_interval=1e-3) for mu in (mu_rows, mu_rest)
    ]
    assert plan.epsilon == pytest.approx(parts[0].compose(parts[1]).get_epsilon_for_delta(1e-5), rel=2e-3)
    schedule = schedule_of(study, plan, 2)
    assert schedule is not None
    assert "the first 3 for the mean row (2.9% of mu^2)" in schedule.sentence()
    assert schedule.noise == 1.25


@pytest.mark.parametrize("drawn", [1.0, 0.5])
def test_a_part_of_the_patients_gives_the_mean_of_all(drawn):
    """Two rounds, each of the expected part, without noise."""
    study = head(
        federation={"centre_rounds": 2, "score_rounds": 0},
        privacy={
            "num_patients": 100_000,
            "sampling_prob": drawn,
            "noise_multiplier": 1e-3,
            "epsilon": None,
            "sum": "simulated",
        },
    )
    strategy: Any = strategy_of(study, plan_of(study), Rows(0.0, np.zeros(1), 20), classes=2)
    mean = np.linspace(0.01, 0.3, 10, dtype=np.float32)
    sums = np.pad(2 * drawn * 100_000 * 0.25 * mean, (0, 10)).astype(np.float32)
    assert np.allclose(strategy.centre_of(sums, 100_000.0)[:10], mean, rtol=1e-3)


def test_mean_rows_are_asked_for_before_training_only():
    study = head(federation=CENTRED)
    asks, weights = asked_by(study, plan_of(study)), np.zeros(4, dtype=np.float32)
    assert [asks(RowSum(weights), round) for round in (0, 1, 3, 4)] == [False, True, True, False]
    assert [asks(GradientSum(weights, None, weights), round) for round in (3, 4, 100, 101)] == [
        False,
        True,
        True,
        False,
    ]
    assert not asks(GradientSum(weights), 4)
    without = head(federation={"centre_rounds": 0})
    plain = asked_by(without, plan_of(without))
    assert not plain(RowSum(weights), 1)
    assert not plain(GradientSum(weights, None, weights), 4)


def test_a_plan_protects_mean_rows_where_it_names_them():
    study = head(federation=CENTRED, privacy={"sum": "simulated"})
    part, work = sums_of(study), RowSum(np.zeros(4, dtype=np.float32))
    assert protects(part, work)
    assert not protects(replace(part, centres=0), work)
    said = statement_of(plan_of(study), simulated=True, seeded=False).sentence()
    assert "in each of the first 3, of the patients’ mean features instead" in said


@pytest.mark.parametrize(
    "sections",
    [{"model": {"name": "small_cnn"}}, {"federation": {"strategy": "alone"}}, {"federation": {"rounds": 3}}],
)
def test_centres_of_other_studies_are_refused(sections):
    with raises_code(StudyError, "study-centre-rounds"):
        head(**sections | {"federation": CENTRED | sections.get("federation", {})})


def test_simulated_hospitals_in_one_batch_answer_as_alone_at_a_centre():
    """Noise is the same stream: the answer of a batch is that of a hospital that is asked by itself."""
    patients, rows = cohort([3, 1, 2])
    bench, draw = bench_of(rows), np.random.default_rng(3)
    weights, centre = (draw.normal(size=18).astype(np.float32) for _ in range(2))
    part = sums_of(head(federation=CENTRED, privacy={"num_patients": 6}))
    agent: Any = SimpleNamespace(
        name="a", workbench=bench, plan=SimpleNamespace(training=part), randomness=Randomness(1, "x"),
        sample=lambda request: Sample(patients, np.arange(3)), release=lambda r, w, clipped, s: clipped.vector.numpy(),
    )  # fmt: skip
    found: Any
    [found] = _gradient_sums([agent], [Request("s", 4, 1, GradientSum(weights, None, centre))]).values()
    [alone] = bench.centred(centre).gradient_sums(
        weights, [Sample(patients, np.arange(3))], part.clip.norm, 0, Flat()
    )
    [plain] = bench.gradient_sums(weights, [Sample(patients, np.arange(3))], part.clip.norm, 0, Flat())
    assert np.array_equal(found, alone.vector.numpy())
    assert not np.allclose(found, plain.vector.numpy(), atol=1e-3)


@pytest.mark.parametrize(
    ("federation", "code"),
    [
        ({"centre_rounds": 60}, "study-centre-rounds"),  # of 100, whose last half is averaged
        ({"leave_one_out": True, "rounds": 10, "centre_rounds": 6, "average_last": 0.3}, "study-leave-one-out"),
    ],
)
def test_rounds_of_a_centre_that_do_not_fit_the_others_are_refused(federation, code):
    with raises_code(StudyError, code):
        head(federation=CENTRED | federation, privacy={"dropouts": 1}, hospitals={"count": 5})


@pytest.mark.thorough
@pytest.mark.parametrize("sum", ["simulated", "masked"])
def test_a_run_trains_on_centred_rows(tiny, tmp_path, sum):
    """Masked and simulated runs end, and so do repeats, which have centres of their own, and other references."""
    privacy = {"epsilon": None, "noise_multiplier": 0.3, "clipping_norm": None, "sum": sum, "num_patients": 30}
    compare = ["repeats", "no-privacy", "pooled", "pooled-no-privacy", "alone"]
    federation = {"rounds": 8, "centre_rounds": 2, "score_rounds": 1, "evaluate_every": 10, "compare": compare}
    tables = {"hospitals": {"count": 3}, "data": {"image_size": 32, "classes": None}}
    study = parse_study(tiny(model={"name": "features"}, privacy=privacy, federation=federation, **tables))
    record = run_study(study, tmp_path / "run", Silent(), rehearsal=True)
    assert record.certificate["rounds"] == 9
    assert len(list((tmp_path / "run" / "references").iterdir())) >= len(compare)
