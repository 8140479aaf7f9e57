"""Simulated federations as whole runs: hospitals that answer as one, and hospitals that are away or late."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cases import family
from tests.charges import charges_in

import wardround.simulation.federate as assemble
from wardround.agreed.plans import plan_of
from wardround.config import parse_study
from wardround.config.recipe import LOGIT_NOISE, TWO_CLASS_NOISE
from wardround.coordinator.observer import Silent
from wardround.errors import FederationError, StudyError
from wardround.federation.robust import Median, Robust
from wardround.federation.strategies.fedsgd import FedSGD
from wardround.federation.strategies.scored import Scored
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.calibrate import alone
from wardround.records.arrays import arrays_from_file
from wardround.records.folder import RunRecord
from wardround.simulation.accounts import Standing, open_accounts
from wardround.simulation.availability import UnreliableChannel, availability_of
from wardround.simulation.estimate import estimate
from wardround.simulation.materials import gather
from wardround.simulation.run import run_study
from wardround.simulation.union import JointSum

SECURE = {"trust": "secure-aggregation", "epsilon": 8.0}
AWAY = {"count": 8, "absent_rate": 0.2, "absent_rounds": 2.0, "late_rate": 0.1, "availability_seed": 1}


def federation_of(study, tmp_path):
    plan = plan_of(study)
    materials = gather(study, Silent())
    ledger = LedgerFile(tmp_path / "ledger.sqlite")
    accounts = open_accounts(study, plan, materials, ledger, "a run", Standing.GENERATED).of
    federation = assemble.federate(
        study, plan, materials, materials.hospitals, accounts, ledger.transaction, label="main"
    )
    return federation, ledger


@pytest.mark.parametrize(("plan", "together"), [("dp-sgd", True), ("correlated-noise", False)])
def test_hospitals_answer_as_one_only_where_each_rounds_noise_is_its_own(tiny_study, tmp_path, plan, together):
    fields = {"cohorts": 2} if plan == "correlated-noise" else {}
    federation, ledger = federation_of(tiny_study(privacy={**SECURE, "plan": plan, **fields}), tmp_path)
    assert isinstance(federation.coordinator.strategy, FedSGD)
    assert isinstance(federation.coordinator.strategy.aggregator, JointSum) == together
    ledger.close()


@pytest.mark.parametrize(("classes", "noise"), [(2, TWO_CLASS_NOISE), (3, LOGIT_NOISE)])
def test_check_and_a_run_take_the_rate_of_the_classes_in_the_data(tiny_study, tmp_path, classes, noise):
    """The study names no class: the listing and the pictures have the same ones."""
    draw = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "pictures" / f"class-{number % classes}" / f"patient-{number}" / "view.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(draw.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    study = tiny_study(
        data={"layout": "folder", "path": str(tmp_path / "pictures"), "phantom": None},
        model={"name": "features", "encoder": "hog"}, privacy={"num_patients": 10, "clipping_norm": None},
    )  # fmt: skip
    schedule = estimate(study).schedule
    assert schedule is not None
    federation, ledger = federation_of(study, tmp_path)
    of = federation.coordinator.strategy
    sgd: Any = of.inner if isinstance(of, Scored) else of
    assert sgd.learning_rate == schedule.rule
    assert schedule.rule.each == pytest.approx(noise / 0.25 * schedule.mu / schedule.total)
    ledger.close()


def test_a_robust_mean_sees_the_answer_of_each_hospital(tiny_study, tmp_path):
    open_plan = dict.fromkeys(("epsilon", "clipping_norm", "sum")) | {"plan": "none"}
    study = tiny_study(privacy=open_plan, federation={"aggregate": "median", "norm_bound": 5.0})
    federation, ledger = federation_of(study, tmp_path)
    assert isinstance(federation.coordinator.strategy, FedSGD)
    assert federation.coordinator.strategy.aggregator == Robust(Median(), 5.0)
    ledger.close()


def test_a_run_whose_sums_are_of_the_union_is_the_run_of_single_replies_but_for_the_noise(
    tiny_study, tmp_path, monkeypatch
):
    """At next to no noise both ways end in the same model."""
    study = tiny_study(privacy={"trust": "secure-aggregation", "epsilon": None, "noise_multiplier": 1e-7})
    records: list[RunRecord] = []
    for answer in (assemble.answers_as_one, lambda *_: False):
        monkeypatch.setattr(assemble, "answers_as_one", answer)
        records.append(run_study(study, tmp_path / str(len(records)), Silent()))
    one, other = (json.loads((record.path / "certificate.json").read_text()) for record in records)
    models = [arrays_from_file(record.path / "model.safetensors") for record in records]
    for name, weights in models[0].items():
        np.testing.assert_allclose(weights, models[1][name], rtol=1e-4, atol=1e-6)
    assert one["statement"] == other["statement"]
    assert [ledger["epsilon_spent"] for ledger in one["ledgers"].values()] == [
        ledger["epsilon_spent"] for ledger in other["ledgers"].values()
    ]


def test_a_run_goes_on_without_hospitals_that_are_away_and_charges_those_that_were_asked(tiny_study, tmp_path):
    study = tiny_study(hospitals=AWAY, privacy={**SECURE, "dropouts": 4})
    run_study(study, tmp_path / "run", Silent())
    availability = availability_of(study)
    assert availability is not None
    record = json.loads((tmp_path / "run" / "results.json").read_text())["availability"]
    assert record["absences"] == availability.absent.sum() > 0
    assert record["late_answers"] == availability.late.sum() > 0
    charged = [
        [charge.release.split("/")[0] for charge in charges if charge.purpose == "gradient-sum"]
        for charges in charges_in(tmp_path / "run" / "ledger.sqlite").values()
    ]
    for k, rounds in enumerate(charged):
        assert rounds == [str(r + 1) for r in range(study.rounds) if not availability.absent[r, k]]
    certificate = json.loads((tmp_path / "run" / "certificate.json").read_text())
    spent = [ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()]
    assert max(spent) <= certificate["statement"]["epsilon"] + 1e-9  # nobody has spent more than is stated
    assert len(set(spent)) > 1


def test_a_run_that_could_not_end_is_refused_before_anything_is_written(tiny_study, tmp_path):
    study = tiny_study(hospitals=AWAY, privacy={**SECURE, "dropouts": 1})
    with pytest.raises(FederationError, match="At most 1 of 8 hospitals may be missing from a round"):
        run_study(study, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()
    rate = {"count": 2, "absent_rate": 0.6, "absent_rounds": 3.0}
    study = tiny_study(hospitals=rate, federation={"rounds": 40}, privacy={"trust": "nobody"})
    for refuse in (estimate, lambda study: run_study(study, tmp_path / "run", Silent())):
        with pytest.raises(FederationError, match="At most 1 of 2 hospitals"):
            refuse(study)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("strategy", "federation"),
    family(
        [("round-robin", {"rounds": 10}), ("fedavg", {"rounds": 4}), ("asynchronous", {"rounds": 10})],
        keep=[("fedavg", {"rounds": 4})],
    ),
)
def test_strategies_whose_hospitals_protect_themselves_need_no_dropouts(
    tiny_study, tmp_path, strategy, federation
):
    study = tiny_study(
        hospitals={**AWAY, "availability_seed": 2},
        privacy={"trust": "nobody"},
        federation={"strategy": strategy, **federation},
    )
    record = run_study(study, tmp_path / "run", Silent())
    assert record.certificate["rounds"] == federation["rounds"]


def test_the_reference_without_privacy_has_the_same_absences(tiny_study, tmp_path):
    study = tiny_study(hospitals=AWAY, privacy={**SECURE, "dropouts": 4}, federation={"compare": ["no-privacy"]})
    plan, materials = plan_of(study), gather(study, Silent())
    own = alone(plan, plan.hospitals, plan.releases)
    with LedgerFile(tmp_path / "ledger.sqlite") as ledger:
        accounts = open_accounts(study, plan, materials, ledger, "a run", Standing.GENERATED).of
        for strategy, away in (("fedsgd", True), ("pooled", False)):
            section = study.federation.model_copy(update={"strategy": strategy})
            other = study.model_copy(update={"federation": section})
            federation = assemble.federate(
                other, own, materials, materials.hospitals, accounts, ledger.transaction, label=strategy
            )
            assert isinstance(federation.coordinator.channel, UnreliableChannel) == away
    run_study(study, tmp_path / "run", Silent())


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ({"hospitals": {"absent_rate": 0.7}}, "absent_rate must be <= absent_rounds"),
        ({"hospitals": {"late_rate": 0.1}, "federation": {"strategy": "alone"}}, "alone has none"),
        (
            {"hospitals": {"absent_rate": 0.1}, "privacy": {"plan": "correlated-noise", "cohorts": 2}},
            "no hospital may be missing",
        ),
    ],
)
def test_absences_that_a_study_cannot_bear_are_refused(tiny, sections, text):
    with pytest.raises(StudyError, match=text):
        parse_study(tiny(**sections))
