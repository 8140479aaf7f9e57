"""Evaluation at deployed hospitals: the test patients' own account is charged before a histogram leaves."""

import hashlib
import json
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file as load
from safetensors.numpy import save
from tests.cases import family
from tests.charges import charges_of
from tests.errors import raises_code
from tests.hospital.bytes_channel import BytesChannel, reply_to
from tests.hospital.deployed import NAMES, finished, make_folders, open_from, study_of

from wardround.accounting.events import GaussianEvent
from wardround.accounting.mechanisms import gaussian_epsilon
from wardround.agreed.plans import plan_of
from wardround.config.site import read_policy, read_site
from wardround.coordinator.evaluation import evaluate as across
from wardround.coordinator.evaluation import noise_std
from wardround.coordinator.observer import Silent
from wardround.coordinator.opening import open_coordinator
from wardround.coordinator.run import coordinate
from wardround.errors import PrivacyError, RecordError, StudyError, WardroundError
from wardround.federation.messages import Answer, Failure, FailureCode, Received, Request, Stage
from wardround.federation.wire.tables import encode_request
from wardround.hospital.accepted import accept
from wardround.hospital.examined.patients import set_aside
from wardround.hospital.hospital import Hospital
from wardround.hospital.kept.replies import Replies
from wardround.hospital.pictures import read_images
from wardround.ledger.file import LedgerFile
from wardround.models.named import vector_of
from wardround.models.vectors import to_vector
from wardround.privacy.plans.wording import evaluation_statement
from wardround.records.json_object import JsonObject
from wardround.simulation import verification
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.run import run_study
from wardround.simulation.verification import verify_run
from wardround.work import CountPatients, Evaluate, GradientSum

ALONE = {"plan": "dp-sgd", "noise_multiplier": 40.0, "delta": 1e-3, "trust": "nobody", "num_patients": 30}
MASKED = {k: v for k, v in ALONE.items() if k != "trust"} | {"sum": "masked", "colluders": 1}
NOISED = {"level": "noised", "epsilon": 3.0}
REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
NO_SPARE = Failure(FailureCode.REFUSED_SPARE, Stage.ADMISSION)
WEIGHTS = np.linspace(-0.01, 0.01, 32 * 32 * 2 + 2, dtype=np.float32)
ROUNDS = 2


def silent(done, total):
    """Progress that nobody watches."""


def asked_study(privacy=ALONE, evaluation=NOISED, **study):
    return study_of(privacy, {"rounds": ROUNDS}, data={"test_fraction": 0.5}, evaluation=evaluation, **study)


def evaluate(study, *, attempt=1, round=ROUNDS + 1, weights=WEIGHTS):
    return Request(study.digest, round, attempt, Evaluate(weights))


@pytest.fixture
def folders(tmp_path):
    paths, keys = make_folders(tmp_path)
    for path in paths.values():
        allow(path, "noised")
    return paths, keys


def allow(folder, level):
    """Writes a policy under which figures of this level may leave."""
    (folder / "policy.toml").write_text(f'[policy]\nepsilon_limit = 50.0\ndelta = 1e-3\nmetrics = "{level}"\n')


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
    train, test = set_aside(read_images(study.model_copy(update={"site": site.site}), silent).patients, study)
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


@pytest.mark.parametrize("spare", family([0, 1], keep=[1]))
def test_a_masked_sum_that_loses_a_hospital_is_charged_and_opens_nothing(folders, monkeypatch, spare):
    """Charged hospitals are charged again for another attempt, or refuse it; the model's run ends either way."""
    paths, keys = folders
    study = asked_study(MASKED | {"spare_attempts": spare})
    upload = Hospital.upload
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in NAMES}
        opened = open_coordinator(study, BytesChannel(hospitals), keys)

        def evaluated() -> Any:
            return across(opened.coordinator, {"global": opened.weights}, ("clear", "lesion"))

        def charges():
            return [len(charges_of(hospital.agent.tested.account)) for hospital in hospitals.values()]

        lost = Failure(FailureCode.INTERNAL, Stage.TRAINING)
        with monkeypatch.context() as patch:
            patch.setattr(Hospital, "upload", lambda self: lost if self is hospitals["south"] else upload(self))
            first = evaluated()
        assert (first["figures"], first["missing"]) == (None, {"south": "internal"})
        assert charges() == [1, 1, 1]
        second = evaluated()
        assert charges() == [1 + spare] * 3
    assert (second["figures"] is not None) == bool(spare)
    assert set(second["missing"].values()) == (set() if spare else {"refused-spare"})


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
    everybody = read_images(study.model_copy(update={"site": site.site}), silent).patients
    whole = [{patient.id for patient in part} for part in set_aside(everybody, study)]
    for absent in everybody:
        fewer = [patient for patient in everybody if patient is not absent]
        assert [{p.id for p in part} for part in set_aside(fewer, study)] == [part - {absent.id} for part in whole]


@pytest.mark.parametrize("kind", family(["masked", "nobody"]))
def test_the_sum_is_that_of_all_test_patients_with_the_noise_that_is_stated(folders, kind):
    """Federated is pooled: the sum of all hospitals less the rows of all their test patients is noise of that size."""
    paths, keys = folders
    study = asked_study(ALONE if kind == "nobody" else MASKED)
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in NAMES}
        opened = open_coordinator(study, BytesChannel(hospitals), keys)
        coordinator = opened.coordinator
        weights = opened.weights
        found: Any = across(coordinator, {"global": weights}, ("clear", "lesion"))
        coordinator.close()
        exact = sum(h.agent.tested.histograms(h.agent.workbench, weights, 2) for h in hospitals.values())
        events = [charges_of(h.agent.tested.account) for h in hospitals.values()]
        own = [charges_of(h.agent.account) for h in hospitals.values()]
    part: Any = coordinator.plan.evaluation
    std = noise_std(part, 3)
    noise = np.array(found["figures"]["histograms"]).ravel() - exact
    assert found["missing"] == {}
    assert found["figures"]["noise_std"] == std
    statistic = (noise**2).sum() / std**2  # chi-squared, 32 degrees of freedom: beyond these twice in a million
    assert 7 < statistic < 86
    assert [len(charged) for charged in events] == [1, 1, 1]
    assert own == [[], [], []]


@pytest.mark.parametrize("trust", family(["nobody", "secure-aggregation"]))
def test_an_outside_model_is_evaluated_without_training(folders, tmp_path, without_charts, trust):
    """The whole program: the given weights are the model, the promise is to test patients, and nobody else is asked."""
    paths, keys = folders
    file = tmp_path / "outside.safetensors"
    weights = {"classifier.0.weight": WEIGHTS[:-2].reshape(2, -1), "classifier.0.bias": WEIGHTS[-2:]}
    file.write_bytes(save(weights))
    study = study_of(
        {"plan": "evaluation", "delta": 1e-3, "trust": trust, "spare_attempts": 1}
        | ({"colluders": 1} if trust == "secure-aggregation" else {}),
        {"strategy": "evaluation"},
        data={"test_fraction": 0.5},
        model={"weights": str(file), "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
        evaluation=NOISED,
    )
    with ExitStack() as stack:
        hospitals: Any = {name: stack.enter_context(open_from(paths[name], study)) for name in NAMES}
        channel = BytesChannel(hospitals)
        record = coordinate(study, channel, keys, own_key(), tmp_path / "run", Silent())
        exact = sum(h.agent.tested.histograms(h.agent.workbench, WEIGHTS, 2) for h in hospitals.values())
        spent = [h.agent.tested.account.spent() for h in hospitals.values()]
    certificate: Any = record.certificate
    figures: Any = record.results["evaluation"]
    assert load(tmp_path / "run" / "model.safetensors").keys() == weights.keys()
    assert np.array_equal(load(tmp_path / "run" / "model.safetensors")["classifier.0.bias"], WEIGHTS[-2:])
    noise = np.array(figures["figures"]["histograms"]).ravel() - exact
    assert 7 < (noise**2).sum() / figures["figures"]["noise_std"] ** 2 < 86
    assert certificate["statement"]["epsilon"] < 3.0, "one release; the spare one was not needed"
    assert certificate["statement"]["epsilon"] == pytest.approx(max(spent), rel=1e-6)
    assert "about the test patients" in certificate["sentence"]
    assert verify_run(tmp_path / "run", own_pin(), key=own_key()).signed.is_finished
    assert {GradientSum, CountPatients}.isdisjoint(channel.exchanges)
    refused = reply_to(hospitals["north"], Request(study.digest, 1, 2, GradientSum(WEIGHTS)))
    assert refused == REFUSED
    with raises_code(StudyError, "study-evaluation-only"):
        run_study(study, tmp_path / "simulated", Silent())


@pytest.mark.parametrize("odd", [1, 31, 33])
def test_a_hospital_that_sends_histograms_of_another_length_is_missing(odd):
    """One number would have been added to every bin, and any other length would have ended the run in an error."""
    study = asked_study()
    updates = {
        "north": np.ones(32, np.float32),
        "south": np.ones(odd, np.float32),
        "west": np.ones(32, np.float32),
    }

    def ask(requests, deadline_s):
        assert all(isinstance(request.work, Evaluate) for request in requests.values())
        return {name: Answer(update, GaussianEvent(1.0)) for name, update in updates.items()}, {}

    channel = SimpleNamespace(hospitals=tuple(updates), ask=ask)
    coordinator: Any = SimpleNamespace(study=study, plan=plan_of(study), masked=None, channel=channel)
    found: Any = across(coordinator, {"global": WEIGHTS}, ("clear", "lesion"))
    assert found["missing"] == {"south": "protocol"}
    assert found["figures"]["histograms"] == np.full((1, 2, 16), 2.0).tolist()


def unprotected_record(tmp_path):
    """The parts of a record whose test patients' figures left without protection, without figures."""
    study = asked_study(evaluation={"level": "unprotected"})
    said = evaluation_statement(plan_of(study), simulated=False, seeded=False)
    row = {"level": "unprotected", "statement": said.to_json(), "sentence": said.sentence(), "short": said.short()}
    results: dict[str, dict[str, Any]] = {"evaluation": {"level": "unprotected", "figures": None, "missing": {}}}
    return study, {"standing": "hospitals", "evaluation": row}, results


EDITS = {
    "level": ("certificate", lambda said, results: said["evaluation"].update(level="noised")),
    "guarantee": (
        "certificate",
        lambda said, results: said["evaluation"]["statement"].update(guarantee=True, epsilon=1.0, reason=""),
    ),
    "short": ("certificate", lambda said, results: said["evaluation"].update(short="epsilon = 1")),
    "none": ("certificate", lambda said, results: said.update(evaluation=None)),
    "standing": ("certificate", lambda said, results: said.update(standing="lasting")),
    "results": ("results", lambda said, results: results["evaluation"].update(level="noised")),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_signed_record_cannot_call_test_patients_protected_who_are_not(tmp_path, edit):
    study, certificate, results = unprotected_record(tmp_path)
    record: Any = SimpleNamespace(results=results)
    assert list(verification._evaluated(tmp_path, study, record, JsonObject(certificate, "certificate.json")))
    file, change = EDITS[edit]
    change(certificate, results)
    with raises_code(RecordError, f"record-{file}"):
        list(verification._evaluated(tmp_path, study, record, JsonObject(certificate, "certificate.json")))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"evaluation": {"level": "none"}}, "study-evaluation-only"),
        ({"model": None}, "study-evaluation-only"),
        ({"federation": {"rounds": 2}}, "study-plan-strategy"),
        ({"privacy": ALONE}, "study-plan-strategy"),
    ],
)
def test_a_study_that_evaluates_only_needs_a_model_and_a_level(changed, code):
    given = {
        "privacy": {"plan": "evaluation", "delta": 1e-3},
        "federation": {"strategy": "evaluation"},
        "model": {"weights": "outside.safetensors"},
        "evaluation": NOISED,
    }
    with raises_code(StudyError, code):
        study_of(**(given | changed))


@pytest.mark.parametrize("privacy", [ALONE, MASKED], ids=["nobody", "masked"])
def test_the_noise_is_worth_the_epsilon_by_the_closed_form(privacy):
    """An oracle beside the accountant: one Gaussian release (Balle and Wang 2018), of the honest hospitals' noise."""
    plan = plan_of(asked_study(privacy))
    part: Any = plan.evaluation
    honest = 3 - (privacy is MASKED)
    added = noise_std(part, honest) if privacy is MASKED else noise_std(part, 1)
    assert gaussian_epsilon(added / part.sensitivity, plan.delta) == pytest.approx(3.0, abs=2e-3)
    assert plan.evaluation_epsilon <= 3.0


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"data": {"classes": None}}, "study-evaluation-classes"),
        ({"data": {"test": "stratified"}}, "study-evaluation-test"),
        ({"federation": {"strategy": "alone", "rounds": 2}}, "study-evaluation-model"),
    ],
)
def test_a_level_needs_what_its_figures_are_made_of(changed, code):
    federation = changed.get("federation", {"rounds": 2})
    with raises_code(StudyError, code):
        study_of(ALONE, federation, data=changed.get("data"), evaluation=NOISED)


def test_level_none_is_the_study_of_before(folders):
    """A study without `[evaluation]` has the digest that it had before there were levels."""
    without, none, noised = (
        study_of(ALONE, {"rounds": 2}, evaluation=level) for level in (None, {"level": "none"}, NOISED)
    )
    assert without.digest == none.digest != noised.digest
    assert "evaluation" not in without.to_toml()
    assert plan_of(without) == replace(plan_of(noised), parts=plan_of(noised).parts[:-1])
