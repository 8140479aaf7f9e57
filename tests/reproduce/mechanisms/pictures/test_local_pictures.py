"""Studies that noise pictures once and train on them afterwards: ledger, certificate, resume, every strategy."""

import json
import shutil

import numpy as np
import pytest
from tests.cases import family
from tests.charges import begun_in, charges_in
from tests.errors import raises_code

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import PureEvent, SelfComposedEvent, from_json, leaves
from wardround.accounting.terms import NeighboringRelation
from wardround.agreed.plans import plan_of
from wardround.coordinator.observer import Silent
from wardround.errors import BudgetExhausted, PrivacyError, RecordError, StudyError
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.kinds import NoisedPictures
from wardround.records.arrays import arrays_from_file
from wardround.records.folder import RunFolder, RunRecord
from wardround.reproduce.mechanisms.pictures import simulation as local_pictures
from wardround.simulation import run as simulation
from wardround.simulation.accounts import Standing, open_accounts
from wardround.simulation.materials import gather

PRIVACY = {
    "plan": "local-pictures", "clipping_norm": None, "images_per_patient": 2, "epsilon": 8.0, "delta": 1e-3,
    "accountant": "pld",
}  # fmt: skip
GIVEN = {"epsilon": None, "label_epsilon": 2.0}
MECHANISMS = {
    "laplace-pixels": {"pictures": "laplace-pixels"},
    "published scale": {"pictures": "laplace-pixels", "noise_multiplier": 1 / 256, **GIVEN},
    "gaussian-pixels": {"pictures": "gaussian-pixels"},
    "dp-pix": {"pictures": "dp-pix", "block": 4, "neighbourhood": 4},
    "laplace-features": {"pictures": "laplace-features"},
    "gaussian-features": {},
}
SOME = family(MECHANISMS, keep=["dp-pix", "laplace-pixels", "gaussian-features", "published scale"])
STRATEGIES = (
    "fedsgd", "fedavg", "scaffold", "round-robin", "stochastic", "asynchronous", "ensemble", "alone", "pooled"
)  # fmt: skip


def run_study(study, out, observer):
    return simulation.run_study(study, out, observer)


def resume_run(out, observer):
    return simulation.resume_run(out, observer)


@pytest.fixture(scope="module")
def local_study(tiny_study):
    """A tiny study under the plan; `privacy` is laid over the plan's own keys."""

    def make(privacy=None, **sections):
        given = {"model": {"name": "features"}} | sections
        return tiny_study(**given, privacy=PRIVACY | (privacy or {}))

    return make


@pytest.fixture(scope="module")
def run(local_study, tmp_path_factory):
    """The finished run of a mechanism; each is made once."""
    made: dict[str, RunRecord] = {}

    def find(mechanism):
        if mechanism not in made:
            out = tmp_path_factory.mktemp("local") / "run"
            study = local_study(MECHANISMS[mechanism])
            made[mechanism] = run_study(study, out, Silent())
        return made[mechanism]

    return find


def entries_of(folder):
    return charges_in(folder / "ledger.sqlite")


@pytest.mark.thorough
@pytest.mark.parametrize("mechanism", SOME)
def test_a_patient_is_promised_what_the_ledger_was_charged_once(run, mechanism):
    record = run(mechanism)
    certificate = record.certificate
    event = from_json(certificate["event"])
    stated = certificate["statement"]["epsilon"]
    assert stated == pytest.approx(epsilon_of(event, 1e-3))
    if mechanism != "published scale":
        assert 0.99 * 8 < stated <= 8
    for entries in entries_of(record.path).values():
        paid = [entry for entry in entries if leaves(entry.event)]
        assert [entry.purpose for entry in paid] == ["pictures"]
        assert leaves(paid[0].event) == leaves(event)
    assert {part.relation for part in begun_in(record.path / "ledger.sqlite")} == {NeighboringRelation.REPLACE_ONE}
    for ledger in certificate["ledgers"].values():
        assert ledger["epsilon_spent"] == pytest.approx(stated)
    assert certificate["statement"]["relation"] == "replace-one"
    assert certificate["unit"] == "patient"
    assert certificate["statement"]["released_to"] == "everybody"
    assert {row.get("epsilon", stated) for row in record.rounds} == {stated}


def test_noise_of_the_published_scale_is_stated_as_what_it_is(run):
    certificate = run("published scale").certificate
    assert certificate["statement"]["epsilon"] == pytest.approx(2 * 256 + 2)  # two pictures of 16 x 16, and labels
    assert "no protection" in certificate["sentence"]
    assert "epsilon = 257 at delta" in certificate["sentence"]  # of one picture with its label


@pytest.mark.parametrize("mechanism", ["laplace-pixels", "gaussian-features"])
def test_a_promise_that_holds_is_not_called_none(run, mechanism):
    assert "no protection" not in run(mechanism).certificate["sentence"]


def test_dp_pix_says_what_its_published_promise_is_about(run):
    sentence = run("dp-pix").certificate["sentence"]
    assert "at most 4 pixels, one such neighbourhood of one picture" in sentence
    assert "nothing of a picture or a patient as a whole" in sentence


@pytest.mark.parametrize("mechanism", SOME)
def test_the_release_holds_every_training_picture_and_no_original(run, local_study, mechanism):
    record = run(mechanism)
    released = arrays_from_file(record.path / local_pictures.FILE)
    study = local_study(MECHANISMS[mechanism])
    materials = gather(study, Silent())
    kept = []
    for name, patients in materials.hospitals.items():
        pictures, labels = released[f"{name}/pictures"], released[f"{name}/labels"]
        assert len(pictures) == len(labels) == len(patients.rows)
        assert np.array_equal(released[f"{name}/patients"], patients.starts)
        originals = (
            materials.workbench.inputs_of(patients.rows).numpy()
            if "features" in mechanism
            else materials.images.pixels[patients.rows]
        )
        assert pictures.shape == originals.shape
        for noised, original in zip(pictures, originals, strict=True):
            assert np.mean(noised == original) < 0.3
        kept += (labels == patients.labels).tolist()
    assert 0.5 < np.mean(kept) < 1  # e / (1 + e) = 0.73 are


def test_training_sees_the_release_and_tests_see_the_originals(local_study, tmp_path):
    study = local_study(MECHANISMS["laplace-pixels"])
    plan, materials = plan_of(study), gather(study, Silent())
    folder = RunFolder.create(tmp_path / "run")
    with LedgerFile(tmp_path / "ledger.sqlite") as ledger:
        accounts = open_accounts(study, plan, materials, ledger, "a run", Standing.GENERATED)
        noised = local_pictures.released_materials(study, plan, materials, materials.hospitals, accounts, folder)
    folder.close()
    test = materials.test.rows
    assert np.array_equal(noised.images.pixels[test], materials.images.pixels[test])
    assert noised.test is materials.test
    rows = next(iter(materials.hospitals.values())).rows
    assert not np.array_equal(noised.images.pixels[rows], materials.images.pixels[rows])
    released = arrays_from_file(tmp_path / "run" / local_pictures.FILE)
    for name, patients in noised.hospitals.items():  # training sees what was released, of labels too
        assert np.array_equal(noised.images.pixels[patients.rows], released[f"{name}/pictures"])
        assert np.array_equal(patients.labels, released[f"{name}/labels"])
        assert not np.array_equal(patients.labels, materials.hospitals[name].labels)
    # Two workbenches over one network would mix up whose weights are loaded.
    assert noised.workbench.network is not materials.workbench.network


@pytest.mark.parametrize("strategy", family(STRATEGIES))
def test_training_on_the_release_costs_nothing_whatever_the_strategy(local_study, tmp_path, strategy):
    federation = {"strategy": strategy, "rounds": 2, "evaluate_every": 2}
    study = local_study({"epsilon": 4.0}, federation=federation)
    record = run_study(study, tmp_path / "run", Silent())
    assert 3.9 < record.certificate["statement"]["epsilon"] <= 4
    assert set(entries_of(tmp_path / "run")) == ({"pooled"} if strategy == "pooled" else {
        "hospital-1", "hospital-2", "hospital-3"})  # fmt: skip
    for entries in entries_of(tmp_path / "run").values():
        assert sum(bool(leaves(entry.event)) for entry in entries) == 1


@pytest.mark.thorough
def test_a_run_without_privacy_beside_it_reads_the_originals(local_study, tmp_path):
    federation = {"rounds": 4, "compare": ("no-privacy", "pooled"), "evaluate_every": 4}
    noised = local_study({"epsilon": 0.1}, federation=federation)
    plain = local_study(
        {"plan": "none", "epsilon": None, "delta": None, "images_per_patient": 2},
        federation=federation | {"compare": ()},
    )
    record = run_study(noised, tmp_path / "noised", Silent())
    reference = record.results["references"]["no-privacy"]["metrics"]
    alone = run_study(plain, tmp_path / "plain", Silent()).results["metrics"]
    assert reference["auroc"] == pytest.approx(alone["auroc"])
    assert record.results["references"]["pooled"]["epsilon"] == pytest.approx(0.1, rel=0.01)


class Stop(Silent):
    """Stops in the second round."""

    def progress(self, done, total, detail=""):
        if total == 4 and done == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("seed", family([7, None], keep=[None]))
def test_a_resumed_run_trains_on_the_same_release_at_no_new_cost(local_study, tmp_path, seed):
    study = local_study(study={"seed": seed})
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "run", Stop())
    before = (tmp_path / "run" / local_pictures.FILE).read_bytes()
    record = resume_run(tmp_path / "run", Silent())
    assert (tmp_path / "run" / local_pictures.FILE).read_bytes() == before
    assert record.certificate["statement"]["releases"] == 1
    assert record.certificate["statement"]["epsilon"] <= 8
    if seed is not None:
        whole = run_study(study, tmp_path / "whole", Silent())
        assert whole.certificate["model_sha256"] == record.certificate["model_sha256"]


def test_a_release_that_was_lost_is_made_anew_and_charged_again(local_study, tmp_path):
    study = local_study({"epsilon_limit": 20.0}, study={"seed": None})
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "run", Stop())
    (tmp_path / "run" / local_pictures.FILE).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "checkpoints").mkdir()
    record = resume_run(tmp_path / "run", Silent())
    one = plan_of(study).event_after(1)
    assert record.certificate["statement"]["releases"] == 2
    assert record.certificate["statement"]["epsilon"] == pytest.approx(epsilon_of(SelfComposedEvent(one, 2), 1e-3))
    assert record.certificate["statement"]["epsilon"] > 8.5


def test_a_seeded_release_that_was_lost_is_the_same_release(local_study, tmp_path):
    study = local_study()
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "run", Stop())
    file = tmp_path / "run" / local_pictures.FILE
    before = file.read_bytes()
    file.unlink()
    assert resume_run(tmp_path / "run", Silent()).certificate["statement"]["releases"] == 1
    assert file.read_bytes() == before


def test_a_release_without_its_ledger_is_not_trained_on(local_study, tmp_path):
    study = local_study(study={"seed": None})
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "run", Stop())
    for path in (tmp_path / "run").glob("ledger.sqlite*"):
        path.unlink()
    with raises_code(RecordError, "record-ledger-gone"):
        resume_run(tmp_path / "run", Silent())
    assert not (tmp_path / "run" / "ledger.sqlite").exists(), "no new one hides that it is gone"


def test_a_release_that_was_never_charged_is_charged_before_training(local_study, tmp_path):
    study = local_study(study={"seed": None})
    plan, materials = plan_of(study), gather(study, Silent())
    folder = RunFolder.create(tmp_path / "run")
    for name in ("first", "second"):  # the same file, and a ledger that knows nothing of it
        with LedgerFile(tmp_path / f"{name}.sqlite") as ledger:
            accounts = open_accounts(study, plan, materials, ledger, "a run", Standing.GENERATED)
            local_pictures.released_materials(study, plan, materials, materials.hospitals, accounts, folder)
        charged = charges_in(tmp_path / f"{name}.sqlite")
        assert all([entry.purpose for entry in entries] == ["pictures"] for entries in charged.values())
    folder.close()


def test_nothing_is_released_that_the_ledger_refuses(local_study, tmp_path):
    study = local_study({"epsilon_limit": 2.0})
    with pytest.raises(BudgetExhausted):
        run_study(study, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_a_damaged_release_stops_the_run(local_study, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_study(local_study(), tmp_path / "run", Stop())
    (tmp_path / "run" / local_pictures.FILE).write_bytes(b"not a release")
    with pytest.raises(RecordError, match="safetensors"):
        resume_run(tmp_path / "run", Silent())


@pytest.mark.thorough
def test_resemblance_stands_in_the_results(run, local_study, tmp_path):
    # 160 patients: of 40, chance alone moves the ratio below by half of itself.
    study = local_study(MECHANISMS["published scale"], data={"phantom": {"patients": 160, "image_size": 32}})
    pixels = run_study(study, tmp_path / "run", Silent()).results["resemblance"]
    features = run("gaussian-features").results["resemblance"]
    assert 0 < pixels["ssim"] < 0.5
    assert pixels["reidentified"] > 4 * pixels["chance"]  # 514 is no protection, and it shows
    assert features["ssim"] is None
    assert 0 <= features["reidentified"] < 0.5


def test_features_need_a_fixed_encoding(local_study, tmp_path):
    with pytest.raises(PrivacyError, match="fixed encoding, got linear"):
        run_study(local_study(model={"name": "linear"}), tmp_path / "run", Silent())


REFUSED = {
    "trust": ({"trust": "secure-aggregation"}, "trust: input should be 'nobody'"),
    "clipping": ({"clipping": "automatic"}, "remove clipping"),
    "foreign key": ({"plan": "dp-sgd", "clipping_norm": 1.0, "pictures": "dp-pix"}, "pictures belongs to"),
    "key of another mechanism": ({"pictures": "laplace-pixels", "block": 4}, "block belongs to"),
    "labels take all": ({"label_epsilon": 8.0}, "label_epsilon is a part of epsilon"),
    "labels forgotten": ({"epsilon": None, "noise_multiplier": 1.0}, "label_epsilon must be given"),
    "block": ({"pictures": "dp-pix", "block": 5}, "block must divide image_size"),
    "default block": ({"pictures": "dp-pix", "neighbourhood": 1000}, "neighbourhood must be <="),
    "one scalar for a picture": ({"pictures": "scalar-shift"}, "pictures"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_promised_is_refused_by_the_study_file(local_study, case):
    given, message = REFUSED[case]
    with pytest.raises(StudyError, match=message):
        local_study(given)


def test_the_resolved_study_says_what_was_not_given_and_reads_back(local_study, tmp_path):
    from wardround.config import read_study

    study = local_study()
    (tmp_path / "study.toml").write_text(study.to_toml())
    assert read_study(tmp_path / "study.toml") == study
    assert (study.privacy.pictures, study.privacy.label_epsilon) == ("gaussian-features", 2.0)
    assert study.privacy.feature_norm == 1.0


def test_pure_releases_add_up_exactly(local_study):
    pictures = plan_of(local_study(MECHANISMS["laplace-features"])).training
    assert isinstance(pictures, NoisedPictures)
    event = pictures.release.event
    assert isinstance(event, PureEvent)
    assert 8 * (1 - 1e-12) < event.epsilon <= 8


def test_the_record_is_json(run):
    assert json.loads((run("dp-pix").path / "certificate.json").read_text())["statement"]["guarantee"]
