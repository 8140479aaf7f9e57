"""Everything of the shared record that one patient can change stands in the list of what leaves."""

import json
import shutil
from fnmatch import fnmatchcase

import pytest

from wardround.agreed.plans import plan_of
from wardround.coordinator.observer import Silent
from wardround.images.entries import Target
from wardround.records.folder import SHARED
from wardround.simulation.materials import gather
from wardround.simulation.released import UNPROTECTED, releases_of
from wardround.simulation.run import run_study

OWN = {"own.html", "patients.csv", "ledger.json", "ledger.sqlite", "ledger.sqlite.mark", "hospitals.log", ".lock"}
KINDS: dict[str, dict[str, dict[str, object]]] = {
    "counted": {"federation": {"compare": ["no-privacy"]}},
    "masked": {"privacy": {"sum": "masked", "num_patients": 20}},
    "validation": {"data": {"validation_fraction": 0.3}, "privacy": {"clipping": "adaptive"}},
    "none": {"privacy": {"plan": "none", "epsilon": None, "clipping_norm": None}},
}


@pytest.fixture
def study_of(tiny_study, make_pictures, tmp_path):
    """A seeded study of 24 patients with a picture each, of one kind."""
    data = make_pictures(tmp_path / "pictures")
    site = {"layout": "folder", "path": str(data)}

    def make(kind):
        sections = KINDS[kind]
        layout: dict[str, object] = {"layout": None, "phantom": None} | sections.get("data", {})
        return tiny_study(**sections | {"data": layout, "site": site})

    return make


def leaves(value, path):
    """Every value inside some JSON by its place; an empty object or list is a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {place: leaf for key, inner in inside for place, leaf in leaves(inner, f"{path}/{key}").items()}
    return found or {path: value}


def places(folder):
    """Every byte of the shared record: the values of its JSON, and other files whole."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name in OWN:
            continue
        assert name in SHARED or name.startswith(("checkpoints/", "references/")), (
            f"{name} is neither shared nor kept"
        )
        if path.suffix == ".json":
            found |= leaves(json.loads(path.read_text()), name)
        elif path.suffix == ".jsonl":
            found |= leaves([json.loads(line) for line in path.read_text().splitlines()], name)
        else:
            found[name] = path.read_bytes()
    return found


def add_one(study, part):
    """Adds one patient, who goes to the test part or to a hospital."""
    [first, *_] = sorted(path for path in study.site.path.glob("*/*") if path.is_dir())
    places = {}
    for number in range(50):
        name = f"new-{number}"
        shutil.copytree(first, first.with_name(name))
        split = gather(study, Silent()).split
        places["test"] = {patient.id for patient in split.test}
        places["validation"] = {patient.id for patient in split.validation}
        places["hospital"] = {patient.id for patients in split.hospitals.values() for patient in patients}
        if name in places[part]:
            return
        shutil.rmtree(first.with_name(name))
    raise AssertionError("somebody goes there")


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("counted", "hospital"),
        ("counted", "test"),
        pytest.param("masked", "hospital", marks=pytest.mark.thorough),
        pytest.param("validation", "hospital", marks=pytest.mark.thorough),
        pytest.param("none", "hospital", marks=pytest.mark.thorough),
    ],
)
def test_what_one_patient_changes_in_the_shared_record_is_listed(study_of, tmp_path, kind, part):
    study = study_of(kind)
    run_study(study, tmp_path / "first", Silent())
    add_one(study, part)
    run_study(study, tmp_path / "second", Silent())
    first, second = places(tmp_path / "first"), places(tmp_path / "second")
    changed = {place for place in first.keys() | second.keys() if first.get(place) != second.get(place)}
    certificate = json.loads((tmp_path / "second" / "certificate.json").read_text())
    results = json.loads((tmp_path / "second" / "results.json").read_text())
    listed = {(row["what"], row["protected_by"]) for row in results["released"]}
    where = {
        pattern for row in known(study, kind) if (row.what, row.protected_by) in listed for pattern in row.where
    }
    assert {p for p in changed if not any(fnmatchcase(p, pattern) for pattern in where)} == set()
    counts = [place for place in changed if fnmatchcase(place, "results.json/*/patients")]
    assert counts, "it can be seen"
    open_ = [row for row in results["released"] if row["protected_by"].startswith("nothing")]
    assert certificate["unprotected"] == open_


def known(study, kind):
    from wardround.agreed.plans import plan_of

    return releases_of(
        study, plan_of(study), gather(study, Silent()).images.target,
        leaking=False, validation=kind == "validation", is_lasting=True,
    )  # fmt: skip


def test_every_place_of_the_list_is_in_a_record_and_no_digest_of_the_pictures(study_of, tmp_path):
    """A pattern that nothing matches would say nothing."""
    study = study_of("counted")
    run_study(study, tmp_path / "run", Silent())
    found = places(tmp_path / "run")
    for row in known(study, "counted"):
        patterns = [pattern for pattern in row.where if pattern != "report.html"]
        assert not patterns or any(fnmatchcase(place, pattern) for pattern in patterns for place in found), row
    # Known data, all of them but one person's, could be held against a digest of the pictures.
    digest = gather(study, Silent()).images.digest
    shared = [path for name in SHARED if (path := tmp_path / "run" / name).exists()]
    assert len(shared) > 5
    assert not any(digest in path.read_text(errors="replace") for path in shared)


def test_the_whole_list_says_that_nothing_protects_it():
    assert all(not row.is_protected for row in UNPROTECTED)


@pytest.mark.parametrize("rounds", [0, 2])
def test_thresholds_are_listed_where_scores_are_released(tiny_study, rounds):
    study = tiny_study(model={"name": "features"}, federation={"score_rounds": rounds})
    found = releases_of(study, plan_of(study), Target.CLASSES, leaking=False, validation=False, is_lasting=False)
    assert any("thresholds" in one.what for one in found) is (rounds > 0)
