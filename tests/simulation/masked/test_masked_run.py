"""A whole run with masked sums: its record, its witness, missing hospitals, refusals, and that it learns."""

import json

import numpy as np
import pytest
from tests.cases import family
from tests.simulation.runs import InterruptingRound, charges, interrupted, read_json, resume_run, run_study

from wardround.agreed.plans import plan_of
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.errors import FederationError, PrivacyError, StudyError
from wardround.privacy.plans.calibrate import alone
from wardround.report.numbers import summary_of_run
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.round.witness import power
from wardround.simulation import run as simulation
from wardround.simulation.availability import availability_of
from wardround.simulation.federate import answers_as_one
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.verification import verify_run

MASKED = {"sum": "masked", "num_patients": 32}


def test_a_masked_run_says_what_it_was(tiny_study, tmp_path):
    study = tiny_study(privacy=MASKED, study={"seed": None}, federation={"compare": ["alone", "no-privacy"]})
    record = run_study(study, tmp_path / "run")
    certificate = record.certificate
    assert certificate["statement"]["mechanism"] == "discrete Gaussian on a grid"
    assert "floating-point" not in certificate["sentence"]
    assert "one process holds all of their keys" in certificate["sentence"]
    assert certificate["statement"]["epsilon"] <= 8.0
    assert {len(charged) for charged in charges(tmp_path / "run" / "ledger.sqlite").values()} == {4}
    assert set(record.results["references"]) == {"alone", "no-privacy"}
    assert not (tmp_path / "run" / "hospitals").exists(), "keys and notes go when the run has ended"
    assert verify_run(tmp_path / "run", own_pin(), key=own_key()).unchecked == ()


def test_the_noise_witness_is_published_by_round_and_for_the_whole_run(tiny_study, tmp_path):
    study = tiny_study(privacy={**MASKED, "epsilon_limit": 20.0}, study={"seed": None})
    interrupted(study, tmp_path / "run", InterruptingRound(3))
    witness = resume_run(tmp_path / "run").certificate["witness"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [line["witness"]["coordinates"] for line in lines] == [1024] * 4
    assert witness["coordinates"] == 4 * 1024, "rounds before the interruption count"
    assert witness["statistic"] == pytest.approx(sum(line["witness"]["statistic"] for line in lines), rel=1e-12)
    assert witness["ratio"] == pytest.approx(witness["statistic"] / 4096)
    assert witness["p_too_little"] + witness["p_too_much"] == pytest.approx(1)
    assert witness["p_value"] == pytest.approx(2 * min(witness["p_too_little"], witness["p_too_much"]))
    assert witness["p_value"] > 1e-6
    finds = {(row["fault"], row["after_rounds"]): row["probability"] for row in witness["finds"]}
    assert sorted(finds) == [
        (f"one share {what}", after) for what in ("missing", "of half the size") for after in (1, 2, 4)
    ]
    assert finds["one share missing", 4] == power(3, 2, 4, 4)


def test_a_run_that_is_not_masked_has_no_witness(finished):
    assert read_json(finished / "certificate.json")["witness"] is None
    assert "witness" not in (finished / "rounds.jsonl").read_text()


def test_a_share_that_is_missing_stops_the_run(tiny_study, tmp_path, monkeypatch):
    study = tiny_study(privacy=MASKED, federation={"rounds": 6})
    noised, calls = IntegerMechanism.noised, [0]

    def without_noise(self, total_of, random_bytes):
        calls[0] += 1
        return total_of() if calls[0] % 3 == 0 else noised(self, total_of, random_bytes)

    monkeypatch.setattr(IntegerMechanism, "noised", without_noise)
    with pytest.raises(FederationError, match="keep to the protocol"):
        run_study(study, tmp_path / "run")
    assert "is too little" in (tmp_path / "run" / "hospitals.log").read_text()


@pytest.mark.parametrize(
    ("clipping", "words"),
    family(
        [
            ("per-layer", "an equal share of its square"),
            ("per-layer-by-size", "a share of its square by size"),
            ("automatic", "scaled to about that norm"),
            ("adaptive", "0.5-quantile of the norms"),
        ],
        keep=[("adaptive", "0.5-quantile of the norms")],
    ),
)
def test_every_clipping_runs_under_masks_with_the_words_of_its_own(tiny_study, tmp_path, clipping, words):
    study = tiny_study(privacy={**MASKED, "clipping": clipping})
    record = run_study(study, tmp_path / "run")
    statement = record.certificate["statement"]
    assert statement["mechanism"] == "discrete Gaussian on a grid"
    assert statement["epsilon"] == plan_of(tiny_study(privacy=MASKED)).epsilon, "no rule costs more than another"
    assert words in record.certificate["sentence"]
    norms = [line.get("clipping_norm") for line in record.rounds]
    assert len(set(norms)) == (4 if clipping == "adaptive" else 1)


def test_absent_and_late_hospitals_leave_a_run_that_foresaw_them(tiny_study, tmp_path):
    study = tiny_study(
        privacy={**MASKED, "dropouts": 1, "colluders": 0, "epsilon_limit": 50.0},
        hospitals={"count": 4, "absent_rate": 0.1, "late_rate": 0.1, "availability_seed": 1},
    )
    record = run_study(study, tmp_path / "run")
    assert record.certificate["rounds"] == 4
    availability = read_json(tmp_path / "run" / "results.json")["availability"]
    assert (availability["absences"], availability["late_answers"], availability["most_missing"]) == (1, 1, 1)
    asked = {len(charged) for charged in charges(tmp_path / "run" / "ledger.sqlite").values()}
    assert asked == {4, 5}, "a late answer cost all the others a second release, an absence nobody"
    rows = record.certificate["insiders"]
    assert {row["missing"] for row in rows} == {1}, "no row counts on a share that was not there"
    assert (
        max(row["epsilon"] for row in rows if row["colluders"] == 0) >= record.certificate["statement"]["epsilon"]
    )


@pytest.mark.parametrize(
    ("how", "counted_on"), family([("masked", {0, 1}), ("simulated", {1})], keep=[("simulated", {1})])
)
def test_only_a_run_known_to_have_lost_nobody_counts_on_every_share(tiny_study, tmp_path, how, counted_on):
    study = tiny_study(privacy={**MASKED, "sum": how, "dropouts": 1, "colluders": 0}, hospitals={"count": 4})
    rows = run_study(study, tmp_path / "run").certificate["insiders"]
    assert {row["missing"] for row in rows} == counted_on


def test_a_masked_study_is_another_study_and_a_simulated_one_is_what_it_was(tiny_study):
    simulated, masked = (tiny_study(privacy={**MASKED, "sum": how}) for how in ("simulated", "masked"))
    assert simulated.digest == tiny_study(privacy={"num_patients": 32}).digest != masked.digest


def test_references_and_their_ledgers_are_not_masked(tiny_study):
    study = tiny_study(privacy=MASKED)
    plan = plan_of(study)
    assert plan.masked is not None
    assert alone(plan, plan.hospitals, plan.releases).masked is None
    assert not answers_as_one(study, plan)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"privacy": {"trust": "coordinator"}}, 'trust must be "secure-aggregation"'),
        ({"privacy": {"plan": "correlated-noise", "cohorts": 2}}, "sum belongs to plan = dp-sgd"),
        ({"privacy": {"trust": "nobody"}}, 'trust must be "secure-aggregation"'),
        ({"privacy": {"rounding": "sum"}}, "remove rounding"),
        ({"federation": {"strategy": "alone"}}, 'use strategy = "fedsgd"'),
        ({"federation": {"strategy": "fedavg", "local_steps": 2}}, 'use strategy = "fedsgd", or sum'),
        ({"hospitals": {"count": 2}}, "must be >= 3"),
        ({"privacy": {"dropouts": 1}}, "must be >= 3"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else None,
)
def test_what_cannot_be_masked_is_refused_with_the_reason(tiny, sections, why):
    raw = tiny(**{**sections, "privacy": {**MASKED, **sections.get("privacy", {})}})
    with pytest.raises((StudyError, PrivacyError)) as refused:
        plan_of(parse_study(raw))
    assert why in str(refused.value)


@pytest.mark.thorough
def test_attempts_that_a_late_hospital_cost_are_shown_and_in_the_epsilon_of_their_round(tiny_study, tmp_path):
    details = []

    class Watching(Silent):
        def progress(self, done, total, detail=""):
            if detail:  # reading pictures has none
                details.append(detail)

    study = tiny_study(
        privacy={**MASKED, "dropouts": 1, "epsilon": None, "noise_multiplier": 2.0, "epsilon_limit": 50.0},
        hospitals={"count": 5, "late_rate": 0.1, "availability_seed": 0},
        study={"seed": None},
        federation={"evaluate_every": 1},
    )
    availability = availability_of(study)
    assert availability is not None
    late = [tuple(np.flatnonzero(row)) for row in availability.late]
    assert {len(names) for names in late} == {0, 1}, "a timetable with both kinds of rounds"
    record = simulation.run_study(study, tmp_path / "run", Watching())
    plan, charged = plan_of(study), 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    for line, names, shown in zip(lines, late, details, strict=True):
        charged += 1 + len(names)
        assert line["epsilon"] == pytest.approx(plan.epsilon_after(charged), rel=1e-12)
        assert line.get("attempts", 1) == 1 + len(names)
        assert line.get("missing", []) == [f"hospital-{position + 1}" for position in names]
        assert ("attempt 2, without hospital-" in shown) == bool(names)
    certificate = read_json(tmp_path / "run" / "certificate.json")
    assert lines[-1]["epsilon"] == certificate["statement"]["epsilon"], "the page's curve ends at it"
    assert "lost a hospital" in certificate["sentence"]
    assert summary_of_run(record)["lost_attempts"] == sum(map(len, late))


def test_noise_that_the_grid_cannot_carry_is_refused_before_anything_is_read(tiny_study):
    with pytest.raises(PrivacyError, match=r"2\^26"):
        plan_of(tiny_study(privacy={**MASKED, "epsilon": None, "noise_multiplier": 0.01}))


@pytest.mark.slow
def test_a_masked_run_learns_as_much_as_a_simulated_one(tiny_study, tmp_path):
    def aurocs(how):
        found = []
        for seed in range(5):
            study = tiny_study(
                study={"seed": seed},
                data={
                    "image_size": 64,
                    "phantom": {"patients": 800, "max_images": 2, "sites": 2, "image_size": 64},
                },
                hospitals={"count": 5},
                model={"name": "features"},
                privacy={
                    "sum": how,
                    "num_patients": 640,
                    "epsilon": None,
                    "noise_multiplier": 1.5,
                    "clipping_norm": 0.25,
                },
                federation={"rounds": 20, "evaluate_every": 20, "learning_rate": 8.0, "momentum": 0.9},
            )
            record = run_study(study, tmp_path / f"{how}-{seed}")
            found.append(record.results["metrics"]["auroc"])
        return np.array(found)

    masked, simulated = aurocs("masked"), aurocs("simulated")
    error = np.sqrt(masked.var(ddof=1) / 5 + simulated.var(ddof=1) / 5)
    assert simulated.mean() > 0.9, "there is something to lose"
    assert abs(masked.mean() - simulated.mean()) < 4 * error
