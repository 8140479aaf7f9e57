"""A hospital's review of a study, its cohort, and its own log."""

import json
import logging

import numpy as np
import pytest
from tests.errors import raises_code
from tests.hospital.deployed import make_folders, open_from, study_of

from wardround.config.site import read_policy, read_site
from wardround.errors import DataError, LedgerError, MachineError
from wardround.hospital.opening import cohort_of
from wardround.hospital.own_log import log_to
from wardround.hospital.review import review

ALONE = {"plan": "dp-sgd", "epsilon": 2.0, "delta": 1e-3, "trust": "nobody", "num_patients": 36}


@pytest.fixture
def north(tmp_path):
    return make_folders(tmp_path)[0]["north"]


def limit(folder, epsilon):
    (folder / "policy.toml").write_text(f"[policy]\nepsilon_limit = {epsilon}\ndelta = 1e-3\n")


def reviewed(folder, study):
    return review(folder, read_site(folder / "site.toml"), read_policy(folder / "policy.toml"), study)


def cohort(folder, ids):
    (folder / "cohort.txt").write_text("\n".join(ids) + "\n")
    site = (folder / "site.toml").read_text()
    (folder / "site.toml").write_text(site.replace("[site]", 'cohort = "cohort.txt"\n[site]', 1))


def test_a_review_says_what_a_study_costs_and_writes_nothing(north):
    study = study_of(ALONE, {"rounds": 2})
    found = reviewed(north, study)
    assert (found.patients, found.affording, found.spent) == (12, 12, 0.0)
    assert found.statement.epsilon <= 2.0
    assert found.after == pytest.approx(found.statement.epsilon, rel=1e-3)
    assert found.left == 50.0 - found.after
    before = {path: path.stat().st_mtime_ns for path in north.rglob("*")}
    assert north / "ledger.sqlite" not in before
    assert study.digest in "\n".join(found.lines())
    assert reviewed(north, study) == found, "its pictures being kept"
    assert {path: path.stat().st_mtime_ns for path in north.rglob("*")} == before


def test_patients_who_cannot_afford_it_are_counted_out(north):
    """Half of the patients were in a first study, beside which a second one of the same cost is beyond their limit."""
    limit(north, 2.5)
    first, second = (study_of(ALONE, {"rounds": 2}, description=text) for text in ("first", "second"))
    whole = (north / "site.toml").read_text()
    cohort(north, [f"patient-{number:05d}" for number in range(1, 12, 2)])
    with open_from(north, first):
        assert reviewed(north, first).has_begun
    (north / "site.toml").write_text(whole)
    with (north / "policy.toml").open("a") as file:
        file.write("new_patients = true\n")
    found = reviewed(north, second)
    assert (found.patients, found.affording) == (12, 6)
    assert found.after == pytest.approx(found.statement.epsilon, rel=1e-3)


def test_a_study_beyond_the_limit_is_for_nobody(north):
    limit(north, 1.0)
    assert reviewed(north, study_of(ALONE, {"rounds": 2})).affording == 0


def test_a_policy_that_forbids_is_in_the_review(north):
    with (north / "policy.toml").open("a") as file:
        file.write("least_hospitals = 9\nthreads = 1\n")
    [refusal] = reviewed(north, study_of(ALONE, {"rounds": 2})).refusals
    assert refusal.code == "privacy-policy-least-hospitals"


def test_a_cohort_leaves_the_others_out_of_the_study_and_of_the_ledger(north):
    study = study_of(ALONE, {"rounds": 2})
    with open_from(north, study) as hospital:
        everybody = hospital.agent.patients.names
    (north / "ledger.sqlite").unlink()
    (north / "ledger.sqlite.mark").unlink(missing_ok=True)
    cohort(north, [f"patient-{number:05d}" for number in range(1, 12, 2)] + ["a stranger"])
    with open_from(north, study) as hospital:
        np.testing.assert_array_equal(hospital.agent.patients.names, everybody[1::2])
        assert len(hospital.agent.account.admitted) == 6


def test_a_cohort_lists_ids_in_any_spelling_of_one(north):
    """An id is folded wherever it is read, so that no line of the list is passed over for what nobody sees."""
    cohort(north, ["patient-00001\u200b", "\u00a0patient-00003", "patient-00005"])
    site = read_site(north / "site.toml")
    assert cohort_of(site) == frozenset({"patient-00001", "patient-00003", "patient-00005"})


@pytest.mark.parametrize("ids", [[], ["a stranger"]])
def test_a_cohort_of_nobody_is_refused(north, ids):
    cohort(north, ids)
    with raises_code(DataError, "data-cohort"), open_from(north, study_of(ALONE, {"rounds": 2})):
        pass


def test_a_cohort_that_is_missing_is_refused(north):
    cohort(north, [])
    (north / "cohort.txt").unlink()
    with raises_code(DataError, "data-cohort"), open_from(north, study_of(ALONE, {"rounds": 2})):
        pass


def test_a_cohort_without_an_end_is_refused(north):
    cohort(north, [])
    (north / "cohort.txt").unlink()
    (north / "cohort.txt").symlink_to("/dev/zero")
    with raises_code(DataError, "data-cohort"), open_from(north, study_of(ALONE, {"rounds": 2})):
        pass


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (MachineError("patient-7.png could not be read.", code="machine-disk"), {"code": "machine-disk"}),
        (DataError("patient-7.png is damaged.", code="data-damaged"), {"code": "data-damaged"}),
        (KeyError("patient-7"), {}),
        (
            LedgerError("It is damaged.", code="ledger-damaged"),
            {"code": "ledger-damaged", "sentence": "It is damaged."},
        ),
    ],
    ids=["a disk", "pictures", "a mistake", "a ledger"],
)
def test_the_log_has_no_patient(tmp_path, error, kept):
    handler = log_to(tmp_path / "agent.log")
    logger = logging.Logger("apart")
    logger.addHandler(handler)
    try:
        raise error
    except Exception:
        logger.exception("cannot answer")
    handler.close()
    [line] = map(json.loads, (tmp_path / "agent.log").read_text().splitlines())
    assert line["error"] == {"type": type(error).__name__, **kept}
    assert {"at", "level", "text"} < set(line)
    assert "patient-7" not in json.dumps(line)
    assert (tmp_path / "agent.log").stat().st_mode & 0o777 == 0o600
