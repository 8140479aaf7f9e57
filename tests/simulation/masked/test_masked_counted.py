"""A masked run that counts its patients first, with noise and under masks: said, charged, repeated and resumed."""

import json

import pytest
from tests.cases import family
from tests.charges import charges_in
from tests.simulation.runs import charges, resume_run, run_study, what_counts

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import from_json
from wardround.agreed.plans import plan_of
from wardround.privacy.plans.costs import release_event
from wardround.records.folder import RunFolder
from wardround.simulation.estimate import estimate

COUNTED = {"sum": "masked"}


def test_a_counted_run_says_what_it_was_and_all_of_it_agrees(tiny_study, tmp_path):
    study = tiny_study(privacy=COUNTED, study={"seed": None}, federation={"compare": ["alone"]})
    plan, out = plan_of(study), tmp_path / "run"
    assert plan.count is not None
    record = run_study(study, out)
    certificate = record.certificate
    statement, event = certificate["statement"], from_json(certificate["event"])
    assert statement["epsilon"] == plan.epsilon <= 8.0
    assert event == plan.event_after(4)
    assert plan.epsilon == pytest.approx(epsilon_of(event, plan.delta, plan.accountant), rel=1e-12)
    assert statement["releases"] == 5
    assert "one noised count of patients" in certificate["sentence"]
    [promised] = [row["epsilon"] for row in certificate["insiders"] if row["colluders"] == 1]
    assert promised == plan.epsilon
    for count, *rounds in charges_in(out / "ledger.sqlite").values():
        assert (count.release, count.purpose, count.event) == ("0/count/1", "count", release_event(plan.count))
        assert [entry.event for entry in rounds] == [release_event(plan.training)] * 4
    spent = [ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()]
    assert spent == pytest.approx([plan.epsilon] * 3, rel=1e-12)
    assert max(spent) <= plan.epsilon
    [told] = [row for row in record.results["released"] if row["what"] == "the number of training patients"]
    assert told["to"] == "the coordinator and every hospital"
    assert estimate(study).statement.epsilon == plan.epsilon


def test_a_counted_run_has_more_noise_in_its_rounds_than_one_whose_size_is_public(tiny_study):
    counted, public = (plan_of(tiny_study(privacy={**COUNTED, "num_patients": n})) for n in (None, 32))
    assert counted.masked is not None
    assert public.masked is not None
    assert counted.masked.noise_multiplier > public.masked.noise_multiplier
    assert counted.epsilon_after(4) <= 8.0
    assert counted.epsilon_after(0) > 0 == public.epsilon_after(0)


class Stopped(BaseException):
    """Nothing catches it."""


def stopped_after_the_count(study, out, monkeypatch):
    """Killed when the count was opened, and before anything of it was kept."""

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_checkpoint", stop)
        with pytest.raises(Stopped):
            run_study(study, out)


def test_seeded_a_run_stopped_between_count_and_round_1_is_the_run_that_was_not(tiny_study, tmp_path, monkeypatch):
    study, out = tiny_study(privacy=COUNTED), tmp_path / "run"
    run_study(study, tmp_path / "whole")
    stopped_after_the_count(study, out, monkeypatch)
    notes = json.loads((out / "hospitals" / "hospital-1" / "notes.json").read_text())
    assert (notes["round"], notes["attempt"]) == (0, 1)
    resume_run(out)
    assert what_counts(out) == what_counts(tmp_path / "whole")
    once = [("0/count/1", 1), *((f"{round}/gradient-sum/1", 1) for round in (1, 2, 3, 4))]
    assert all(entries == once for entries in charges(out / "ledger.sqlite").values())


@pytest.mark.parametrize("how", family(["masked", "simulated"]))
def test_in_earnest_a_count_that_is_repeated_is_charged_and_certified_again(
    tiny_study, tmp_path, monkeypatch, how
):
    study, out = tiny_study(privacy={"sum": how, "epsilon_limit": 20.0}, study={"seed": None}), tmp_path / "run"
    plan = plan_of(study)
    stopped_after_the_count(study, out, monkeypatch)
    certificate = resume_run(out).certificate
    for entries in charges(out / "ledger.sqlite").values():
        assert entries[:2] == [("0/count/1", 1), ("0/count/1", 2)]
        assert len(entries) == 6
    assert certificate["statement"]["releases"] == 6
    assert certificate["statement"]["epsilon"] == plan.epsilon_after(4, 2) > plan.epsilon
    assert from_json(certificate["event"]) == plan.event_after(4, 2)
    assert max(row["epsilon"] for row in certificate["insiders"] if row["colluders"] == 1) == plan.epsilon_after(
        4, 2
    )
    spent = [ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()]
    assert spent == pytest.approx([plan.epsilon_after(4, 2)] * 3, rel=1e-12)
    assert "2 noised counts of patients" in certificate["sentence"]
    assert "1 of the releases were charged for rounds that were interrupted" in certificate["sentence"]


@pytest.mark.thorough
def test_a_counted_run_with_absent_hospitals_counts_everybody(tiny_study, tmp_path):
    study = tiny_study(
        privacy={**COUNTED, "dropouts": 1, "colluders": 0, "epsilon_limit": 50.0},
        hospitals={"count": 4, "absent_rate": 0.1, "late_rate": 0.1, "availability_seed": 1},
    )
    run_study(study, tmp_path / "run")
    asked = {len(charged) for charged in charges(tmp_path / "run" / "ledger.sqlite").values()}
    assert asked == {5, 6}, "everybody was counted once"


@pytest.mark.thorough
def test_a_counted_run_learns(tiny_study, tmp_path):
    study = tiny_study(
        data={"image_size": 64, "phantom": {"patients": 400, "max_images": 1, "sites": 2, "image_size": 64}},
        model={"name": "features"},
        privacy={**COUNTED, "epsilon": None, "noise_multiplier": 1.5, "clipping_norm": 0.25},
        federation={"rounds": 20, "evaluate_every": 20, "learning_rate": 8.0, "momentum": 0.9},
    )
    assert run_study(study, tmp_path / "run").results["metrics"]["auroc"] > 0.8
