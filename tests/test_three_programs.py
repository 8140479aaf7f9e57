"""Hospitals opened from folders of their own and a coordinator without a picture, which share bytes alone."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cases import family
from tests.errors import raises_code
from tests.hospital.deployed import NAMES, make_folders, open_from, study_of

from wardround.agreed.operating_point import operating_points_of
from wardround.agreed.strategies import timetable_of
from wardround.coordinator.certificate import certificate_of
from wardround.coordinator.opening import open_coordinator
from wardround.coordinator.rounds import Position, Schedule, run_rounds
from wardround.errors import DataError, FederationError, PrivacyError, StudyError
from wardround.federation.messages import Answer, Failure, Request
from wardround.federation.receipts import sign_receipt
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.work import GradientSum

MASKED = {"plan": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-3, "sum": "masked", "num_patients": 36}
ALONE = {"plan": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-3, "trust": "nobody"}
STUDIES: dict[str, dict[str, Any]] = {
    "masked sums": {"privacy": MASKED, "federation": {"rounds": 2}},
    "masked sums, counted": {"privacy": MASKED | {"num_patients": None}, "federation": {"rounds": 2}},
    "masked scores": {
        "model": {"name": "features"},
        "privacy": MASKED | {"clipping_norm": 0.25},
        "federation": {"rounds": 2, "score_rounds": 1},
    },
    "masked rows": {
        "model": {"name": "features"},
        "privacy": MASKED | {"clipping_norm": 0.25},
        "federation": {"rounds": 3, "centre_rounds": 1, "score_rounds": 0},
    },
    "local steps": {"privacy": ALONE, "federation": {"strategy": "fedavg", "rounds": 2, "local_steps": 2}},
    "a ring": {"privacy": ALONE, "federation": {"strategy": "round-robin", "rounds": 5}},
}


class Bytes:
    """A channel over which each hospital is a function from bytes to bytes."""

    def __init__(self, hospitals):
        self.by_name = hospitals
        self.hospitals = tuple(hospitals)
        self.exchanges = []

    def ask(self, requests, deadline_s):
        self.exchanges.append({name: request.work.name for name, request in requests.items()})
        replies = {
            name: decode_reply(self.by_name[name].answer(encode_request(request)), Limits())
            for name, request in requests.items()
        }
        failures = {name: reply for name, reply in replies.items() if isinstance(reply, Failure)}
        return {n: r for n, r in replies.items() if n not in failures}, failures


class Forget:
    def write_checkpoint(self, round, arrays):
        pass

    def append_round(self, entry):
        pass


@pytest.fixture
def folders(tmp_path):
    """Folders of the hospitals, and their public keys."""
    return make_folders(tmp_path)


def opened(stack, folders, study):
    return {name: stack.enter_context(open_from(folder, study)) for name, folder in folders.items()}


@pytest.mark.parametrize("name", family(STUDIES, keep=["masked sums, counted", "masked scores", "local steps"]))
def test_hospitals_and_coordinator_train_over_bytes(folders, name):
    paths, keys = folders
    study = study_of(**STUDIES[name])
    with ExitStack() as stack:
        channel = Bytes(opened(stack, paths, study))
        opening = open_coordinator(study, channel, keys)
        coordinator, weights = opening.coordinator, opening.weights
        state = coordinator.strategy.init(weights, channel)
        schedule = Schedule(study.rounds, study.rounds, 0.0, study.score_rounds)
        outcome = run_rounds(
            coordinator.strategy, channel, schedule, Position(0, state), Forget(), lambda round, models: {}
        )
        coordinator.close()
        receipts = coordinator.receipts()
        certificate: dict[str, Any] = certificate_of(coordinator, outcome, "0" * 64, [], receipts, str)
    points = operating_points_of(study, coordinator.plan, outcome.position.state, ("clear", "lesion"))
    assert [point.class_name for point in points] == ["lesion"] * study.score_rounds
    [model] = outcome.models.values()
    assert np.isfinite(model).all()
    assert not np.array_equal(model, weights)
    visits = timetable_of(study).visits(study.rounds)
    steps = study.local_steps
    assert [receipt.releases for receipt in receipts.values()] == [int(visit) * steps for visit in visits]
    assert all(receipt.public_key == keys[name] for name, receipt in receipts.items())
    assert certificate["statement"]["epsilon"] == pytest.approx(coordinator.plan.epsilon)
    assert set(certificate["ledgers"]) == set(NAMES)
    for path in paths.values():
        assert (path / "ledger.sqlite").exists(), "a hospital's ledger is in its own folder"


@pytest.mark.parametrize("forged", ["unsigned", "signed by another"])
def test_a_receipt_that_its_hospital_did_not_sign_is_refused(folders, monkeypatch, forged):
    paths, keys = folders
    study = study_of(**STUDIES["local steps"])
    with ExitStack() as stack:
        channel = Bytes(opened(stack, paths, study))
        coordinator = open_coordinator(study, channel, keys).coordinator
        [honest] = (receipt for name, receipt in coordinator.receipts().items() if name == "north")
        less = replace(honest, releases=0, public_key=b"", signature=b"")
        if forged == "signed by another":
            less = sign_receipt(less, Identity("north", SigningKey.new(system_entropy)))
        answering = channel.ask
        monkeypatch.setattr(
            channel, "ask", lambda asked, deadline_s: (answering(asked, deadline_s)[0] | {"north": less}, {})
        )
        with pytest.raises(FederationError, match="signature of its pinned key"):
            coordinator.receipts()


def test_a_coordinator_needs_the_keys_of_all_hospitals(folders):
    paths, keys = folders
    study = study_of(**STUDIES["local steps"])
    with ExitStack() as stack:
        channel = Bytes(opened(stack, paths, study))
        with raises_code(FederationError, "federation-no-key"):
            open_coordinator(study, channel, {"north": keys["north"]})


def test_no_study_says_where_a_hospital_keeps_its_pictures(folders, tmp_path):
    paths, _ = folders
    study = study_of(**STUDIES["local steps"])
    study = study.model_copy(
        update={"performance": study.performance.model_copy(update={"cache": tmp_path / "c"})}
    )
    with ExitStack() as stack:
        opened(stack, paths, study)
    assert not (tmp_path / "c").exists()


def test_a_seed_on_real_pictures_is_refused(folders, tmp_path):
    paths, _ = folders
    site = paths["north"] / "site.toml"
    site.write_text(site.read_text().split("[site]")[0] + '[site]\nlayout = "folder"\npath = "pictures"\n')
    with raises_code(StudyError, "study-seed"), ExitStack() as stack:
        opened(stack, {"north": paths["north"]}, study_of(**STUDIES["masked sums"], seed=1))


def pictures_of_nobody(folder, text):
    """A hospital with pictures that name no patient."""
    for number in range(12):
        path = folder / "pictures" / ("lesion", "clear")[number % 2] / f"scan{number}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)).save(path)
    site = folder / "site.toml"
    site.write_text(site.read_text().split("[site]")[0] + f'[site]\nlayout = "folder"\npath = "pictures"\n{text}')


def test_a_hospital_with_unnamed_persons_is_refused(folders):
    """Between hospitals a study promises to patients: pictures that name none would make it a promise to pictures."""
    paths, _ = folders
    pictures_of_nobody(paths["north"], "")
    with raises_code(DataError, "data-unnamed"), ExitStack() as stack:
        opened(stack, {"north": paths["north"]}, study_of(**STUDIES["local steps"]))
    assert not (paths["north"] / "ledger.sqlite").exists(), "refused before there is an account"


@pytest.mark.parametrize("text", ['patients = "one-per-picture"', "patients = {pattern = '(scan[0-9])'}"])
def test_a_hospital_that_names_its_persons_is_opened(folders, text):
    paths, _ = folders
    pictures_of_nobody(paths["north"], text)
    with ExitStack() as stack:
        [hospital] = opened(stack, {"north": paths["north"]}, study_of(**STUDIES["local steps"])).values()
        assert hospital.agent.plan.unit == "patient"


def test_notes_of_one_study_are_not_those_of_another(folders):
    """Under correlated noise the first round pays for the run: going on with another study's run would cost nothing."""
    paths, _ = folders
    weak, strong = (
        study_of(
            {"plan": "correlated-noise", "noise_multiplier": z, "delta": 1e-3, "cohorts": 2, "bands": 2,
             "trust": "nobody", "num_patients": 36},
            {"rounds": 4},
        )
        for z in (1.0, 4.0)
    )  # fmt: skip
    for study, round in ((strong, 1), (weak, 2)):
        with ExitStack() as stack:
            [hospital] = opened(stack, {"north": paths["north"]}, study).values()
            asked = Request(study.digest, round, 1, GradientSum(hospital.agent.workbench.initial_weights))
            reply = hospital.reply(asked)
            charged = hospital.agent.account.charged()
        assert isinstance(reply, Answer) == bool(charged) == (study is strong)


def test_a_limit_holds_at_the_hospitals_own_delta(folders):
    """At a larger delta every epsilon is smaller, whatever is released."""
    paths, _ = folders
    with raises_code(PrivacyError, "privacy-policy-delta"), ExitStack() as stack:
        opened(stack, paths, study_of(ALONE | {"delta": 0.01}, STUDIES["local steps"]["federation"]))


@pytest.mark.parametrize(
    "trusted", [{"trust": "secure-aggregation", "sum": "simulated"}, {"trust": "coordinator"}]
)
def test_noise_that_is_not_in_what_a_hospital_sends_is_refused(folders, trusted):
    paths, _ = folders
    with raises_code(PrivacyError, "privacy-not-deployable"), ExitStack() as stack:
        opened(stack, paths, study_of(ALONE | trusted, {"rounds": 2}))


def test_pictures_that_nothing_has_noised_are_refused(folders):
    paths, _ = folders
    privacy = {"plan": "local-pictures", "epsilon": 8.0, "delta": 1e-3, "pictures": "laplace-pixels"}
    with raises_code(PrivacyError, "privacy-not-deployable"), ExitStack() as stack:
        opened(stack, paths, study_of(privacy, {"rounds": 2}))


def test_a_study_without_this_hospital_is_refused(folders):
    paths, _ = folders
    site = paths["north"] / "site.toml"
    site.write_text(site.read_text().replace("north", "west"))
    with raises_code(StudyError, "study-hospital-names"), ExitStack() as stack:
        opened(stack, paths, study_of(**STUDIES["masked sums"]))


def test_a_hospital_without_a_key_is_refused(folders):
    paths, _ = folders
    (paths["south"] / "identity.pem").unlink()
    with raises_code(StudyError, "study-no-key"), ExitStack() as stack:
        opened(stack, paths, study_of(**STUDIES["local steps"]))


@pytest.mark.parametrize(("file", "code"), [("identity.pem", "study-no-key"), ("pins.toml", "study-no-pin")])
def test_masked_sums_need_keys(folders, file, code):
    paths, _ = folders
    (paths["south"] / file).unlink()
    if file == "pins.toml":
        Pins().write(paths["south"] / file)
    with raises_code(StudyError, code), ExitStack() as stack:
        opened(stack, paths, study_of(**STUDIES["masked sums"]))


def test_hospitals_that_differ_are_found_before_the_first_round(folders):
    paths, keys = folders
    study, other = (study_of(**STUDIES["masked sums"], description=text) for text in ("one", "other"))
    with ExitStack() as stack:
        hospitals = opened(stack, paths, study)
        hospitals["east"] = opened(stack, {"east": paths["east"]}, other)["east"]
        with pytest.raises(FederationError):
            open_coordinator(study, Bytes(hospitals), keys)


DIFFERENT = {
    "study": "0" * 64,
    "version": "0.0.1",
    "classes": ("lesion", "clear"),
    "input_shape": (3, 32, 32),
    "weights_sha256": "0" * 64,
    "threads": 99,
}


@pytest.mark.parametrize("field", DIFFERENT)
def test_a_hospital_that_differs_is_named_with_the_field_before_any_charge(folders, monkeypatch, field):
    paths, keys = folders
    study = study_of(**STUDIES["local steps"], seed=1)
    with ExitStack() as stack:
        hospitals = opened(stack, paths, study)
        channel = Bytes(hospitals)
        honest = channel.ask

        def ask(requests, deadline_s):
            replies, failures = honest(requests, deadline_s)
            return replies | {"east": replace(replies["east"], **{field: DIFFERENT[field]})}, failures

        monkeypatch.setattr(channel, "ask", ask)
        with raises_code(FederationError, "federation-hospitals-differ") as caught:
            open_coordinator(study, channel, keys)
        assert "east" in str(caught.value)
        assert field.replace("_", " ") in str(caught.value)
        assert not any(hospital.agent.account.charged() for hospital in hospitals.values())
