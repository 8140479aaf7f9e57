"""Correlated noise from the study file to the record."""

import json

import pytest
from tests.charges import charges_in
from tests.simulation.runs import InterruptingRound, interrupted, resume_run, run_study

from wardround.accounting.events import from_json, leaves
from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import strategy_of
from wardround.config import parse_study
from wardround.errors import BudgetExhausted, StudyError
from wardround.federation.aggregators import PlainSum
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.kinds import CorrelatedGradients
from wardround.privacy.plans.releases import correlation_of

CORRELATED = {"plan": "correlated-noise", "cohorts": 2}


def ledgers(folder):
    return charges_in(folder / "ledger.sqlite")


@pytest.mark.parametrize("num_patients", [32, None])
def test_a_run_spends_its_epsilon_in_the_first_round_and_no_more(tiny_study, tmp_path, num_patients):
    study = tiny_study(study={"seed": None}, privacy=CORRELATED | {"num_patients": num_patients})
    record = run_study(study, tmp_path / "run")
    plan, certificate = plan_of(study), record.certificate
    assert isinstance(plan.training, CorrelatedGradients)
    assert 7.9 < certificate["statement"]["epsilon"] <= 8
    assert certificate["rounds"] == 4
    assert leaves(from_json(certificate["event"])) == leaves(plan.event_after(1))
    for entries in ledgers(tmp_path / "run").values():
        spent = [leaf for entry in entries for leaf in leaves(entry.event) if entry.purpose == "gradient-sum"]
        assert spent == [(plan.training.noise, 1)]
        assert len(entries) == 4 + (num_patients is None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    shown = {line["epsilon"] for line in lines if "epsilon" in line}
    assert len(shown) == 1, "the whole epsilon is shown from the first look on"
    assert shown.pop() == pytest.approx(certificate["statement"]["epsilon"])
    assert not (tmp_path / "run" / "hospitals").exists(), "the noise of earlier rounds is forgotten in the end"


@pytest.mark.parametrize("round", [1, 3])
def test_an_interrupted_run_goes_on_within_the_same_epsilon(tiny_study, tmp_path, round):
    out, study = tmp_path / "run", tiny_study(study={"seed": None}, privacy=CORRELATED)
    interrupted(study, out, InterruptingRound(round))
    record = resume_run(out)
    assert record.certificate["rounds"] == 4
    assert record.certificate["stopped"] is None
    assert "were interrupted" not in record.certificate["sentence"]
    assert all(hospital["epsilon_spent"] <= 8 for hospital in record.certificate["ledgers"].values())


def test_a_second_run_on_one_ledger_is_a_second_run_and_is_refused(tiny_study, tmp_path):
    shared = CORRELATED | {"ledger": str(tmp_path / "shared.sqlite")}
    study = tiny_study(study={"seed": None}, privacy=shared)
    with LedgerFile(tmp_path / "shared.sqlite") as ledger:
        ledger.set_limit(8.0, 1e-3, by="a test", reason="one run")
    run_study(study, tmp_path / "one")
    with pytest.raises(BudgetExhausted):
        run_study(study, tmp_path / "two")


def test_reference_runs_share_the_cohorts_and_not_the_noise(tiny_study, tmp_path):
    study = tiny_study(privacy=CORRELATED, federation={"compare": ["no-privacy", "pooled", "alone"]})
    references = run_study(study, tmp_path / "run").results["references"]
    assert references["no-privacy"]["epsilon"] == "infinity"
    assert 7.9 < references["pooled"]["epsilon"] <= 8
    assert 7.9 < references["alone"]["epsilon"] <= 8


def test_bands_are_chosen_where_they_are_not_given(tiny_study):
    found = correlation_of(
        plan_of(tiny_study(privacy=CORRELATED | {"cohorts": 4}, federation={"rounds": 12})).training
    )
    assert found is not None
    assert (found.rounds, found.cohorts, found.bands, found.momentum) == (12, 4, 4, 0.9)
    given = correlation_of(plan_of(tiny_study(privacy=CORRELATED | {"bands": 1})).training)
    assert given is not None
    assert given.bands == 1


def test_a_rounds_sum_is_divided_by_the_public_size_of_a_cohort(tiny_study):
    study = tiny_study(privacy=CORRELATED | {"cohorts": 4, "num_patients": 32})
    strategy = strategy_of(study, plan_of(study), PlainSum(), classes=2)
    assert isinstance(strategy, FedSGD)
    assert strategy.sampling_prob * 32 == 8


@pytest.mark.parametrize(
    ("privacy", "federation", "message"),
    [
        ({"cohorts": None}, {}, "cohorts is missing"),
        ({"bands": 3}, {}, "bands must be <= cohorts"),
        ({"cohorts": 5}, {}, "cohorts must be <= rounds"),
        ({"sampling_prob": 0.5}, {}, "remove sampling_prob"),
        ({"clipping": "adaptive"}, {}, "clipping: input should be .*, got 'adaptive'"),
        ({"trust": "coordinator"}, {}, "trust: input should be .*, got 'coordinator'"),
        ({"dropouts": 1}, {}, "remove dropouts"),
        ({"trust": "nobody"}, {"strategy": "fedavg"}, r'strategy = "fedavg" asks .* \(local-steps\)'),
        ({"plan": "dp-sgd"}, {}, "cohorts belongs to plan = correlated-noise"),
    ],
)
def test_a_study_that_would_not_hold_is_refused_in_a_sentence(tiny, privacy, federation, message):
    with pytest.raises(StudyError, match=message):
        plan_of(parse_study(tiny(privacy=CORRELATED | privacy, federation=federation)))
