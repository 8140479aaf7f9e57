"""A simulated run while it goes on: its page and its writers have what the record has, and nothing of a patient."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from tests.errors import raises_code

from wardround.errors import MissingExtra
from wardround.records.reading import read_lines
from wardround.watching.markup import html_of
from wardround.watching.page import metrics_of
from wardround.watching.views import json_of
from wardround.watching.watched import Watched
from wardround.watching.words import lines_of
from wardround.watching.writers import MLflow, Rounds, TensorBoard

SHOWN = [{"key": "auroc", "title": "AUROC", "unit": ""}]
METRICS = {"models": 1, "shown": SHOWN, "auroc": 0.875, "accuracy": 0.75}
LINES = (
    {"round": 1, "missing": [], "attempts": 1},
    {
        "round": 2,
        "epsilon": 1.5,
        "measured_on": "test",
        "metrics": METRICS,
        "missing": ["hospital-2"],
        "attempts": 2,
    },
)


class Kept:
    """A writer that keeps what it is given; `fails` raises instead."""

    def __init__(self, *, fails=False):
        self.rows, self.ended, self.fails = [], 0, fails

    def write(self, round, numbers):
        if self.fails:
            raise OSError("no server\x1b[2J")
        self.rows.append((round, dict(numbers)))

    def close(self):
        self.ended += 1


@pytest.fixture
def run(tmp_path):
    """The folder of a run that goes on, by its history."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path / "run"


def test_the_view_is_what_the_record_holds_by_then(tiny_study, run):
    seen = Watched(run, tiny_study())
    seen.stage("reading pictures")
    assert (seen.view().round, seen.view().figures) == (0, ()), "an earlier run may still be in the folder"
    seen.stage("training: fedsgd, 4 rounds, 3 hospitals")
    seen.progress(1, 4)
    assert seen.view().seconds_left is None
    seen.progress(2, 4)
    found = seen.view()
    assert (found.round, found.rounds, found.done, found.total) == (2, 4, 2, 4)
    assert (found.epsilon_spent, found.figures, found.measured_on) == (1.5, (("AUROC", 0.875),), "test")
    assert found.epsilon == pytest.approx(8.0, abs=5e-3)
    assert found.seconds_left is not None
    assert found.seconds_left > 0
    text = "\n".join(lines_of(found))
    assert "round 2 of 4" in text
    assert "epsilon spent by round 2: 1.50 of 8.00 at delta = 0.001 for one patient; 6.5 left" in text
    assert "on the test set, released without protection: AUROC 0.875" in text
    assert "2 of 3 hospitals answered in round 2; away: hospital-2" in text
    assert 'wardround_figure{title="AUROC",on="test"} 0.875' in metrics_of(found).splitlines()
    assert "<dt>AUROC</dt><dd>0.875</dd>" in html_of(found)
    assert found.curve == ((2, 0.875),)
    assert json_of(found)["view"] == "run"


def test_each_round_is_written_once_and_one_writer_that_fails_stops_no_other(run):
    kept, failing = Kept(), Kept(fails=True)
    said: list[str] = []
    rounds = Rounds(run, [failing, kept], said.append)
    rounds.stage("starting")
    assert kept.rows == []
    rounds.stage("training: fedsgd")
    with (run / "rounds.jsonl").open("a") as file:
        file.write(json.dumps({"round": 3, "epsilon": "infinity"}) + "\n")
        file.write(json.dumps({"round": 4, "epsilon": 2.5}) + "\n")
    rounds.close()
    measured = {"epsilon": 1.5, "test/auroc": 0.875, "test/accuracy": 0.75}
    assert kept.rows == [(2, measured), (4, {"epsilon": 2.5})]
    assert (kept.ended, failing.ended) == (1, 0)
    assert len(said) == 1
    assert said[0].startswith("Kept failed")
    assert "\x1b" not in said[0]


def test_mlflow_gets_the_rounds_and_the_digest_of_the_study(tiny_study, run, monkeypatch):
    calls: list[tuple[object, ...]] = []
    fake = SimpleNamespace(
        start_run=lambda run_name: calls.append(("start", run_name)),
        log_param=lambda key, value: calls.append((key, value)),
        log_metrics=lambda numbers, step: calls.append((step, numbers)),
        end_run=lambda: calls.append(("end",)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    study = tiny_study()
    writer = MLflow(run, study)
    writer.write(2, {"epsilon": 1.5})
    writer.close()
    assert calls == [("start", study.study.name), ("study_digest", study.digest), (2, {"epsilon": 1.5}), ("end",)]


@pytest.mark.parametrize(("module", "kind"), [("torch.utils.tensorboard", TensorBoard), ("mlflow", MLflow)])
def test_a_missing_package_is_one_sentence(tiny_study, run, monkeypatch, module, kind):
    monkeypatch.setitem(sys.modules, module, None)
    with raises_code(MissingExtra, "missing-extra"):
        kind(run, tiny_study())
    assert [path.name for path in run.parent.iterdir()] == ["run"]


@pytest.mark.usefixtures("without_charts")
def test_a_run_is_watched_and_logged_by_the_command(study_file, tmp_path, wardround, monkeypatch):
    written: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, key, value, round):
            written.append((round, key, value))

        def close(self):
            written.append(self.folder)

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    out = tmp_path / "run"
    ended = wardround("run", study_file(), "--out", out, "--watch", 0, "--log", "tensorboard")
    assert ended.code == 0
    assert "watch it at http://127.0.0.1:" in ended.err
    lines: list[Any] = [line for line in read_lines(out / "rounds.jsonl") if "metrics" in line]
    rows = {(line["round"], "test/auroc", line["metrics"]["auroc"]) for line in lines}
    assert rows
    assert rows <= set(written)
    assert written[-1] == str(out.with_name("run.tensorboard"))
    assert out.with_name("run.tensorboard").stat().st_mode & 0o777 == 0o700
    assert wardround("run", study_file(), "--out", tmp_path / "b", "--log", "wandb").error.code == "study-log"
