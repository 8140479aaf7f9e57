"""Runs from Python: `run`, what it shows, and the model that it leaves."""

import inspect
import io

import pytest
from tests.errors import raises_code

import wardround
from wardround.errors import RecordError
from wardround.inference.answers import Classified
from wardround.notebook import Run, run


@pytest.fixture
def done(finished):
    return Run.read(finished)


def test_a_study_runs_from_its_file_with_data_laid_over(tiny_study, tmp_path, without_charts, capsys):
    (tmp_path / "study.toml").write_text(tiny_study().to_toml())
    found = run(tmp_path / "study.toml", tmp_path / "run", rehearsal=True, quiet=True)
    streams = capsys.readouterr()
    assert streams.out + streams.err == ""
    assert found.report is not None
    assert found.path == tmp_path / "run"


def test_each_form_of_a_study_is_the_same_study(tiny, tiny_study, tmp_path):
    from wardround.notebook import _resolved

    study = tiny_study()
    (tmp_path / "study.toml").write_text(study.to_toml())
    forms = (study, tiny(), tmp_path / "study.toml", str(tmp_path / "study.toml"))
    assert {_resolved(given, None).digest for given in forms} == {study.digest}
    laid = [_resolved(given, {"hospitals": {"count": 2}}) for given in forms]
    assert [one.hospitals.count for one in laid] == [2] * 4


def test_a_run_shows_its_promise_and_figures_everywhere(done, without_charts):
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=250).print(done)
    for shown in (str(done), stream.getvalue(), done._repr_html_()):
        assert done.statement in " ".join(shown.split())
        assert "AUROC" in shown
    assert done.summary()["study"] == "tiny"


@pytest.mark.thorough
def test_a_notebook_shows_the_plots(done):
    shown = done._repr_html_()
    assert shown.count("<svg") >= 2
    assert "<script" not in shown


def test_the_model_of_a_run_answers(done):
    import numpy as np

    (answer,) = done.model().predict(np.full((32, 32), 9, dtype=np.uint8))
    assert isinstance(answer, Classified)
    assert "constant" in answer.findings[0]


def test_a_folder_that_was_changed_is_refused(finished, tmp_path):
    import shutil

    shutil.copytree(finished, tmp_path / "copy")
    text = (tmp_path / "copy" / "results.json").read_text()
    (tmp_path / "copy" / "results.json").write_text(text.replace("0.", "1.", 1))
    with raises_code(RecordError, "record-edited-results-json"):
        Run.read(tmp_path / "copy")


def test_public_functions_have_complete_hints_and_documentation():
    """`help(wardround.run)` is worth reading: arguments, result and errors are described, and every name has a type."""
    for function in (wardround.run, wardround.load, wardround.Model.predict, wardround.clipped_sum):
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        for name, parameter in signature.parameters.items():
            assert name == "self" or parameter.annotation is not inspect.Parameter.empty
        documented = inspect.getdoc(function) or ""
        assert "Args:" in documented
        assert "Raises:" in documented
    assert set(wardround.__all__) <= set(dir(wardround))
