"""Published parts, sites and weights that are edited, in a set of the same pictures, labels and persons."""

import json

import pytest
from safetensors.torch import load_file, save_file
from tests.charges import charges_in
from tests.errors import raises_code
from tests.simulation.runs import read_json, resume_run, run_study, stopped

from wardround.errors import RecordError
from wardround.ledger.place import own_ledger
from wardround.report.side_by_side import Entry, overview_of

PARTS = {"data": {"test": "published"}}
SITES = {"hospitals": {"scheme": "site", "count": 2}}
EDITED = {"p14": {"split": "test"}}
MOVED = {"p04": {"site": "south"}}


@pytest.fixture
def placed(tiny_study, make_pictures, tmp_path):
    """Writes the table of 24 patients, some of them edited, and makes the study of it."""
    data = make_pictures(tmp_path / "data")
    files = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))

    def make(edits, *, seed=None, **sections):
        lines = ["file,label,patient_id,site,split"]
        for number, file in enumerate(files):
            label, patient, _ = file.split("/")
            row = {"site": ("north", "south")[number % 2], "split": "test" if number < 6 else "train"}
            row |= edits.get(patient, {})
            lines.append(f"{file},{label},{patient},{row['site']},{row['split']}")
        (data / "metadata.csv").write_text("\n".join(lines))
        own = {"layout": "folder", "path": str(data)} | sections.pop("data", {})
        return tiny_study(study={"seed": seed}, data=own, privacy={"num_patients": 20}, **sections)

    return make


def releases():
    return {hospital: len(charged) for hospital, charged in charges_in(own_ledger()).items()}


def test_runs_on_an_edited_published_part_are_not_comparable(placed, tmp_path):
    runs = [run_study(placed(edits, **PARTS), tmp_path / str(n)) for n, edits in enumerate(({}, {}, EDITED))]
    entries = [Entry(str(n), str(n), "", {"number": n}, record) for n, record in enumerate(runs)]
    assert overview_of("same", entries[:2]).not_comparable == ""
    edited = overview_of("edited", entries[1:])
    assert "different held-out patients" in edited.not_comparable
    assert edited.dealt_anew


def test_edited_sites_leave_figures_comparable(placed, tmp_path):
    """The same patients are held out."""
    runs = [run_study(placed(edits, **SITES), tmp_path / str(n)) for n, edits in enumerate(({}, MOVED))]
    entries = [Entry(str(n), str(n), "", {"number": n}, record) for n, record in enumerate(runs)]
    assert overview_of("sites", entries).not_comparable == ""


@pytest.mark.parametrize(("edits", "sections"), [(EDITED, PARTS), (MOVED, SITES)], ids=["part", "site"])
def test_a_run_goes_on_with_the_places_that_it_began_with(placed, tmp_path, edits, sections):
    stopped(placed({}, **sections), tmp_path / "run")
    placed(edits, **sections)
    with raises_code(RecordError, "record-dataset"):
        resume_run(tmp_path / "run")
    placed({}, **sections)
    resume_run(tmp_path / "run")


def test_a_run_that_noted_no_places_does_not_go_on(placed, tmp_path):
    """As earlier versions began them."""
    stopped(placed({}, **SITES), tmp_path / "run")
    path = tmp_path / "run" / "ledger.json"
    noted = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in noted.items() if key not in ("places", "held_out")}))
    with raises_code(RecordError, "record-earlier"):
        resume_run(tmp_path / "run")


@pytest.mark.parametrize(("edits", "sections"), [(EDITED, PARTS), (MOVED, SITES)], ids=["part", "site"])
def test_a_seeded_run_on_other_places_is_charged(placed, tmp_path, edits, sections):
    """Its releases are other ones, of other patients; the same places again are repeated at no cost."""
    run_study(placed({}, seed=7, **sections), tmp_path / "first")
    once = releases()
    run_study(placed({}, seed=7, **sections), tmp_path / "again")
    assert releases() == once
    run_study(placed(edits, seed=7, **sections), tmp_path / "edited")
    assert releases() == {hospital: 2 * count for hospital, count in once.items()}
    noted = [read_json(tmp_path / name / "ledger.json")["run"] for name in ("first", "again", "edited")]
    assert noted[0] == noted[1] != noted[2]


def test_a_seeded_run_of_other_weights_in_a_file_of_the_same_name_is_charged(placed, tmp_path):
    """Without `weights_sha256` the study knows the file by its name alone; its releases are other ones."""
    run_study(placed({}, model={"name": "small_cnn"}), tmp_path / "trained", rehearsal=True)
    start = tmp_path / "start.safetensors"
    save_file(weights := load_file(tmp_path / "trained" / "model.safetensors"), start)
    study = placed({}, seed=7, model={"name": "small_cnn", "weights": str(start)})
    run_study(study, tmp_path / "first")
    once = releases()
    run_study(study, tmp_path / "again")
    assert releases() == once
    save_file({name: values + 0.01 for name, values in weights.items()}, start)
    run_study(study, tmp_path / "other")
    assert releases() == {hospital: 2 * count for hospital, count in once.items()}
