"""Evaluation at deployed hospitals: the test patients' own account is charged before a histogram leaves."""

import json
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.cases import family
from tests.charges import charges_of
from tests.errors import raises_code
from tests.hospital.bytes_channel import reply_to
from tests.hospital.deployed import finished, open_from, study_of
from tests.hospital.evaluated import ALONE, MASKED, NOISED, REFUSED, ROUNDS, WEIGHTS, allow, asked_study

from wardround.agreed.plans import plan_of
from wardround.config.site import read_policy, read_site
from wardround.errors import PrivacyError, WardroundError
from wardround.federation.messages import Answer, Failure, FailureCode, Received, Request, Stage
from wardround.federation.wire.tables import encode_request
from wardround.hospital.accepted import accept
from wardround.hospital.examined.patients import set_aside
from wardround.hospital.kept.replies import Replies
from wardround.hospital.pictures import read_images
from wardround.ledger.file import LedgerFile
from wardround.models.vectors import to_vector, vector_of
from wardround.work import Evaluate, GradientSum

NO_SPARE = Failure(FailureCode.REFUSED_SPARE, Stage.ADMISSION)


def evaluate(study, *, attempt=1, round=ROUNDS + 1, weights=WEIGHTS):
    return Request(study.digest, round, attempt, Evaluate(weights))


@pytest.fixture
def opened(folders):
    """A factory of the hospital named north, opened anew each time, as after a restart."""
    with ExitStack() as stack:

        def start(study):
            stack.close()
            return stack.enter_context(open_from(folders[0]["north"], study))

        yield start


def lines(folder):
    with LedgerFile(folder / "ledger.sqlite") as ledger:
        return ledger.position()


def test_the_test_patients_pay_before_the_histograms_leave(folders, opened, monkeypatch):
    """Those who train pay for rounds, those who test for the evaluation, nobody for both; the charge is there first."""
    study = asked_study()
    hospital = opened(study)
    agent, tested = hospital.agent, hospital.agent.tested
    seen = []
    rows = type(tested).rows

    def watched(*given):
        seen.append(len(charges_of(tested.account)))
        return rows(*given)

    monkeypatch.setattr(type(tested), "rows", watched)
    answer = reply_to(hospital, evaluate(study))
    assert isinstance(answer, Answer)
    assert seen == [1]
    assert isinstance(reply_to(hospital, Request(study.digest, 1, 1, GradientSum(WEIGHTS))), Answer)
    plan, site = agent.plan, read_site(folders[0]["north"] / "site.toml")
    train, test = set_aside(read_images(study.model_copy(update={"site": site.site})).patients, study)
    with LedgerFile(folders[0]["north"] / "ledger.sqlite") as ledger:
        spent = {patient.id: ledger.epsilon_of(patient.id, plan.delta) for patient in (*train, *test)}
    assert [spent[patient.id] for patient in test] == pytest.approx([3.0] * len(test), rel=1e-3)
    assert len(test) == len(tested.patients) > 0 < len(train)
    assert len({spent[patient.id] for patient in train}) == 1
    assert spent[train[0].id] == pytest.approx(agent.account.spent()) != pytest.approx(3.0)


def test_a_repetition_costs_nothing_and_a_further_attempt_only_what_is_foreseen(folders, opened, monkeypatch):
    study = asked_study(ALONE | {"spare_attempts": 1})
    hospital, message = opened(study), encode_request(evaluate(study))
    reply = hospital.answer(message)
    assert hospital.answer(message) == reply == opened(study).answer(message)
    assert isinstance(reply_to(opened(study), evaluate(study, attempt=2)), Answer)
    before = lines(folders[0]["north"])
    assert reply_to(opened(study), evaluate(study, attempt=3)) == NO_SPARE
    assert lines(folders[0]["north"]) == before
    account = opened(study).agent.tested.account
    assert len(charges_of(account)) == 2
    assert account.spent() <= 3.0, "the promise covers the spare attempt"


@pytest.mark.parametrize("spare", family([0, 1], keep=[1]))
def test_killed_between_charge_and_release(folders, opened, monkeypatch, spare):
    """What was charged stays charged: asked again it is a further attempt, which the study pays for or not."""
    study = asked_study(ALONE | {"spare_attempts": spare})

    class Killed(BaseException):
        pass

    def dying(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Replies, "keep", dying)
        with pytest.raises(Killed):
            opened(study).answer(encode_request(evaluate(study)))
    assert len(charges_of(opened(study).agent.tested.account)) == 1
    again = reply_to(opened(study), evaluate(study))
    assert isinstance(again, Answer) if spare else again == NO_SPARE
    assert len(charges_of(opened(study).agent.tested.account)) == 1 + spare


@pytest.mark.parametrize("privacy", family([MASKED, ALONE]), ids=["masked", "nobody"])
@pytest.mark.parametrize(
    ("evaluation", "round"),
    family([({"level": "none"}, ROUNDS + 1), (NOISED, 0), (NOISED, ROUNDS), (NOISED, ROUNDS + 2)]),
)
def test_what_the_study_does_not_ask_for_is_refused(folders, opened, privacy, evaluation, round):
    study = asked_study(privacy, evaluation)
    hospital = opened(study)
    before = lines(folders[0]["north"])
    assert reply_to(hospital, evaluate(study, round=round)) == REFUSED
    assert lines(folders[0]["north"]) == before


def test_a_sum_under_masks_never_leaves_without_them(folders, opened):
    study = asked_study(MASKED)
    assert reply_to(opened(study), evaluate(study)) == REFUSED


@pytest.mark.parametrize(("evaluation", "rule"), [({"level": "unprotected"}, "noised"), (NOISED, "none")])
def test_a_level_that_the_policy_does_not_allow_is_refused(folders, evaluation, rule):
    north, study = folders[0]["north"], asked_study(evaluation=evaluation)
    allow(north, rule)
    with raises_code(PrivacyError, "privacy-policy-metrics"):
        accept(north, read_site(north / "site.toml"), read_policy(north / "policy.toml"), study, by="a person")
    with raises_code(PrivacyError, "privacy-policy-metrics"), open_from(north, study):
        pass
    assert not (north / "ledger.sqlite").exists()


def test_noise_of_an_evaluation_below_the_policys_is_refused(folders):
    north, asked = folders[0]["north"], asked_study()
    part: Any = plan_of(asked).evaluation
    policy = (north / "policy.toml").read_text()
    (north / "policy.toml").write_text(f"{policy}least_noise_multiplier = {part.noise.noise_multiplier * 1.01}\n")
    with raises_code(PrivacyError, "privacy-policy-least-noise"), open_from(north, asked):
        pass
    (north / "policy.toml").write_text(f"{policy}least_noise_multiplier = {part.noise.noise_multiplier * 0.99}\n")
    with open_from(north, asked):
        pass


def test_an_epsilon_above_the_policys_is_refused(folders):
    north = folders[0]["north"]
    with (north / "policy.toml").open("a") as file:
        file.write("most_epsilon = 2.9\n")
    with raises_code(PrivacyError, "privacy-policy-most-epsilon"), open_from(north, asked_study()):
        pass


@pytest.mark.parametrize("why", ["the rounds cost more than the limit", "a pin is missing"])
def test_a_study_that_is_refused_keeps_no_budget_back(folders, why):
    """Test patients, or all of them, would have been short of it in every study that follows."""
    north = folders[0]["north"]
    if why == "a pin is missing":
        study, code = asked_study(MASKED), "study-no-pin"
        (north / "pins.toml").write_text((north / "pins.toml").read_text().replace("south", "another"))
    else:
        study, code = asked_study(ALONE | {"noise_multiplier": 0.1}), "budget-exhausted"
    with pytest.raises(WardroundError) as refused, open_from(north, study):
        pass
    assert refused.value.code == code
    assert lines(north)[0] == 1, "its limit alone"


def test_unprotected_figures_are_exact_and_listed_in_the_ledger(folders, opened):
    north, study = folders[0]["north"], asked_study(evaluation={"level": "unprotected"})
    allow(north, "unprotected")
    hospital = opened(study)
    answer = reply_to(hospital, evaluate(study))
    tested = hospital.agent.tested
    exact = tested.histograms(hospital.agent.workbench, WEIGHTS, 2)
    assert np.array_equal(answer.update, exact.astype(np.float32))
    assert answer.update.sum() == pytest.approx(len(tested.patients))
    with LedgerFile(north / "ledger.sqlite") as ledger:
        assert (ledger.book().unprotected > 0).sum() == len(tested.patients)


def test_own_figures_stay_in_the_hospitals_folder(folders, opened):
    study = asked_study(evaluation={"level": "none"})
    hospital = opened(study)
    before = lines(folders[0]["north"])
    network = hospital.agent.workbench.network
    model = finished(study, network, WEIGHTS)
    assert np.array_equal(vector_of(network, model.model), WEIGHTS)
    assert not to_vector(network.trained).any(), "left as it was"
    reply = reply_to(hospital, Request(study.digest, 0, 1, model))
    assert reply == Received(), "the same for all pictures"
    assert lines(folders[0]["north"]) == before
    path = folders[0]["north"] / "evaluation" / f"{study.digest}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    page = path.with_suffix(".html")
    assert page.stat().st_mode & 0o777 == 0o600
    assert "Shows patients." in page.read_text()
    found = json.loads(path.read_text())
    tested = hospital.agent.tested.everybody
    assert found["figures"]["n_patients"] == found["test_patients"] == len(tested)
    hospital.agent.tested.keep_own_figures(hospital.agent.workbench, WEIGHTS)
    assert json.loads(path.read_text())["figures"] == found["figures"], "of these weights"


def test_a_place_follows_from_the_patients_own_id(folders):
    """One patient more, and everybody else stays where they were."""
    study, site = asked_study(), read_site(folders[0]["north"] / "site.toml")
    everybody = read_images(study.model_copy(update={"site": site.site})).patients
    whole = [{patient.id for patient in part} for part in set_aside(everybody, study)]
    for absent in everybody:
        fewer = [patient for patient in everybody if patient is not absent]
        assert [{p.id for p in part} for part in set_aside(fewer, study)] == [part - {absent.id} for part in whole]


def test_level_none_is_the_study_of_before(folders):
    """A study without `[evaluation]` has the digest that it had before there were levels."""
    without, none, noised = (
        study_of(ALONE, {"rounds": 2}, evaluation=level) for level in (None, {"level": "none"}, NOISED)
    )
    assert without.digest == none.digest != noised.digest
    assert "evaluation" not in without.to_toml()
    assert plan_of(without) == replace(plan_of(noised), parts=plan_of(noised).parts[:-1])
