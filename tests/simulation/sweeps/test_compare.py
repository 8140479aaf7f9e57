"""A comparison from its files to its page: what it charges, what a spent ledger stops, and what it says then."""

import json
from dataclasses import replace

import pytest
from tests.errors import raises_code

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.events import ComposedEvent
from wardround.config import parse_study
from wardround.config.sweep import parse_sweep, read_sweep
from wardround.coordinator.observer import Silent
from wardround.errors import BudgetExhausted, RecordError, StudyError, WardroundError
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_ledger
from wardround.records.folder import RunRecord
from wardround.simulation.run import run_study
from wardround.simulation.sweeps import compare as room
from wardround.simulation.sweeps.compare import compare
from wardround.simulation.sweeps.many import Finished


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Runs without processes of their own, which have tests of their own; remembers how many were to go at once."""
    at_once = []

    def finish(studies, out, observer, *, workers=None, rehearsal=False):
        at_once.append(workers)
        out.mkdir(parents=True, exist_ok=True)
        records, failures, spent = {}, {}, set()
        for name, study in studies.items():
            try:
                done = (out / name / "certificate.json").exists()
                records[name] = (
                    RunRecord.read(out / name)
                    if done
                    else run_study(study, out / name, observer, rehearsal=rehearsal)
                )
            except WardroundError as error:
                failures[name] = str(error)
                spent |= {name} if isinstance(error, BudgetExhausted) else set()
        return Finished(records, failures, frozenset(spent))

    monkeypatch.setattr(room, "finish_many", finish)
    return at_once


@pytest.fixture
def sweep(tiny):
    return lambda own, **sections: parse_sweep(tiny(federation={"rounds": 2}, **sections) | {"sweep": own})


def test_a_comparison_has_every_configuration_and_stands_in_its_folder(sweep, tmp_path):
    own = {"privacy.epsilon": [1, 8], "repeats": 2}
    overview = compare([sweep(own, data={"validation_fraction": 0.2})], tmp_path, Silent())
    assert [row.values for row in overview.rows] == [{"privacy.epsilon": 1}, {"privacy.epsilon": 8}]
    assert [len(row.runs) for row in overview.rows] == [2, 2]
    assert overview.best in {row.name for row in overview.rows}
    assert overview.dealt_anew
    assert (tmp_path / "comparison.html").exists()
    read = json.loads((tmp_path / "comparison.json").read_text())
    assert read["together"][0]["runs"] == 4
    for row in overview.rows:
        for run in row.runs:
            assert (tmp_path / run / "results.json").exists()


def test_a_charged_sweep_stops_when_the_limit_is_spent_and_no_patient_loses_more(sweep, tmp_path, in_this_process):
    """Three runs of epsilon 4 in an allowance for about two: what is charged in all stays within it."""
    limit = 7.0
    charged = sweep({"repeats": 4, "charge": True}, privacy={"epsilon": 4.0, "epsilon_limit": limit})
    overview = compare([charged], tmp_path / "out", Silent())
    assert in_this_process == [1], "one after the other"
    assert 0 < len(overview.missing) < 4
    assert all("has spent" in why or "must stay within" in why for why in overview.missing.values())
    with LedgerFile(tmp_path / "out" / "ledger.sqlite") as ledger:
        book = ledger.book()
        for history in book.histories[1:]:
            assert len({book.parts[part].begun.study for part in history}) > 1
            events = [event for part in history for _, event in book.parts[part].releases.values()]
            assert epsilon_of(ComposedEvent(tuple(events)), 1e-3, AccountantKind.RDP) <= limit
    assert overview.charge is not None
    assert overview.charge.limit == limit
    assert 4 < overview.charge.spent.epsilon <= limit
    assert overview.together[0].guarantee.epsilon <= limit


def test_a_charged_sweep_of_real_pictures_is_on_the_lasting_ledger(
    sweep, make_pictures, tmp_path, in_this_process
):
    """Its limit is the ledger's: neither a new folder nor the study's file begins a new account."""
    data = {"layout": "folder", "path": str(make_pictures(tmp_path / "data")), "phantom": None}
    charged = sweep(
        {"repeats": 3, "charge": True}, study={"seed": None}, data=data,
        privacy={"epsilon": 4.0, "epsilon_limit": 100.0, "num_patients": 20},
    )  # fmt: skip
    with raises_code(StudyError, "study-charge-limit"):
        compare([charged], tmp_path / "refused", Silent())
    with LedgerFile(own_ledger()) as ledger:
        ledger.set_limit(7.0, 1e-3, by="a test", reason="enough")
    overview = compare([charged], tmp_path / "out", Silent())
    assert not (tmp_path / "out" / "ledger.sqlite").exists()
    assert 0 < len(overview.missing) < 3
    assert overview.charge is not None
    assert overview.charge.limit == 7.0
    with pytest.raises(WardroundError):
        compare([charged], tmp_path / "again", Silent())
    with raises_code(StudyError, "study-charged-rehearsal"):
        compare([charged], tmp_path / "rehearsal", Silent(), rehearsal=True)


def test_a_failed_run_is_an_error_after_the_page_of_the_others(sweep, tmp_path):
    with pytest.raises(WardroundError, match="1 of 2 did not"):
        compare([sweep({"model.name": ["linear", "unet"]})], tmp_path, Silent())
    read = json.loads((tmp_path / "comparison.json").read_text())
    assert len(read["configurations"]) == 1
    assert "model.name must be one of" in read["missing"]["tiny_name-unet"]


def test_two_studies_of_one_name_are_refused(tiny, tmp_path):
    with pytest.raises(StudyError, match="two are called tiny"):
        compare([parse_sweep(tiny()), parse_sweep(tiny())], tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_finished_runs_stand_beside_a_study_and_are_not_changed(sweep, tiny, tmp_path):
    """Two runs elsewhere, whose folders have one name, and a study that is run: three rows with their links."""
    runs = [tmp_path / place / "tiny" for place in ("a", "b")]
    for seed, path in enumerate(runs):
        run_study(parse_study(tiny(federation={"rounds": 1}, hospitals={"split_seed": seed})), path, Silent())
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}
    records = [RunRecord.read(path) for path in runs]
    overview = compare([sweep({})], tmp_path / "out", Silent(), finished=records)
    assert [row.label for row in overview.rows] == ["tiny", "a/tiny", "b/tiny"]
    assert [row.folders for row in overview.rows] == [("tiny",), ("../a/tiny",), ("../b/tiny",)]
    assert [row.rounds for row in overview.rows] == [2, 1, 1]
    assert overview.not_comparable
    assert {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")} == before
    with pytest.raises(StudyError):
        compare([], tmp_path / "out", Silent(), finished=[records[0], records[0]])


@pytest.fixture
def one_run(tiny, tmp_path):
    run_study(parse_study(tiny(federation={"rounds": 1})), tmp_path / "one", Silent())
    return RunRecord.read(tmp_path / "one")


def test_a_finished_run_without_test_figures_is_refused_before_any_study_runs(
    sweep, one_run, tmp_path, in_this_process
):
    unmeasured = replace(one_run, results=one_run.results | {"metrics": None})
    with raises_code(RecordError, "record-not-measured"):
        compare([sweep({})], tmp_path / "out", Silent(), finished=[unmeasured])
    assert in_this_process == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["one", "one/both", "link", "link/both", "two/../one"])
def test_no_comparison_is_written_into_a_run_that_it_compares(sweep, one_run, tmp_path, out):
    (tmp_path / "link").symlink_to(tmp_path / "one")
    (tmp_path / "two").mkdir()
    before = {path: path.stat().st_mtime_ns for path in one_run.path.rglob("*")}
    for sweeps in ([], [sweep({})]):
        with raises_code(StudyError, "study-compare-out"):
            compare(sweeps, tmp_path / out, Silent(), finished=[one_run])
    assert {path: path.stat().st_mtime_ns for path in one_run.path.rglob("*")} == before


def test_no_study_runs_in_the_folder_of_a_run_that_it_is_compared_with(sweep, tiny, tmp_path):
    """The two finished runs have the names a/tiny and b/tiny, and the study that of the folder of one of them."""
    study = parse_study(tiny(federation={"rounds": 1}))
    records = [run_study(study, tmp_path / place / "tiny", Silent()) for place in ("a", "b")]
    with raises_code(StudyError, "study-compare-out"):
        compare([sweep({})], tmp_path / "a", Silent(), finished=records)
    assert not (tmp_path / "a" / "comparison.json").exists()


def test_a_comparison_may_lie_above_and_beside_the_runs(one_run, tmp_path):
    for out in (tmp_path, tmp_path / "one-more"):
        compare([], out, Silent(), finished=[one_run])
        assert (out / "comparison.json").exists()


@pytest.mark.thorough
def test_the_command_compares_finished_runs_and_refuses_one_that_was_edited(wardround, study_file, tmp_path):
    runs = [tmp_path / name for name in ("one", "two")]
    study = study_file("a.toml", federation={"rounds": 2})
    for run in runs:
        assert wardround("run", study, "--out", run).code == 0
    ended = wardround("compare", *runs, "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert [row["name"] for row in answer["configurations"]] == ["one", "two"]
    assert answer["settings"] == {}
    assert answer["not_comparable"] is None
    results = runs[1] / "results.json"
    results.write_text(results.read_text().replace("auroc", "auprc"))
    ended = wardround("compare", *runs, "--out", tmp_path / "again")
    assert ended.code == 2
    assert "results.json must be as it was signed" in ended.err
    assert not (tmp_path / "again").exists()


@pytest.mark.thorough
def test_the_command_compares_files_and_prints_what_its_json_says(wardround, study_file, tmp_path):
    open_ = {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}
    paths = [
        study_file("a.toml", federation={"rounds": 2}),
        study_file("b.toml", study={"name": "open"}, federation={"rounds": 2}, privacy=open_),
    ]
    ended = wardround("compare", *paths, "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert answer == json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["epsilon"] for row in answer["configurations"]] == [pytest.approx(8.0, abs=0.1), "infinity"]
    assert answer["together"][0]["runs_without_privacy"] == 1
    printed = wardround("compare", *paths, "--out", tmp_path / "out")
    assert printed.code == 0, printed.err
    assert answer["together"][0]["sentence"] in printed.out
    assert "comparison.html" in printed.out


def test_the_command_takes_repeats_and_refuses_an_unknown_key(wardround, study_file, tmp_path):
    path = study_file("a.toml", federation={"rounds": 1})
    assert len(next(iter(read_sweep(path, repeats=2).configurations)).runs) == 2
    path.write_text(path.read_text() + '\n[sweep]\n"privacy.epsilom" = [1, 2]\n')
    ended = wardround("compare", path, "--out", tmp_path / "out")
    assert ended.code == 2
    assert "did you mean privacy.epsilon?" in ended.err
