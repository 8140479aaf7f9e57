import pickle
import re
import subprocess
import sys

import pytest

from wardround.errors import MissingExtra
from wardround.report.canvas import drawn_once
from wardround.report.numbers import numbers_of
from wardround.report.page import render
from wardround.report.write import write_report


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_a_sentence_with_the_line_that_installs_it(make_record, monkeypatch, missing):
    record = make_record()
    for name in [name for name in sys.modules if name.split(".")[0] == missing or name == "wardround.report.page"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("wardround.report.charts", "wardround.report.svg", "wardround.boundary.pages"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=rf"needs {missing}.*pip install 'wardround\[report\]'"):
        write_report(record)
    assert not (record.path / "report.html").exists()


@pytest.mark.usefixtures("without_charts")
def test_a_report_says_its_date_and_what_left(make_record):
    html = write_report(make_record()).read_text()
    assert "report of one training run, begun on 2026-11-29" in html
    assert "None" not in html
    assert re.findall(r'<section id="(\w+)">', html) == [
        "promised", "left", "well", "cost", "data", "claimed", "again",
    ]  # fmt: skip


def test_charts_of_the_same_numbers_are_drawn_once(make_record, monkeypatch):
    record = make_record()
    drawn_once.cache_clear()
    first = write_report(record).read_text()
    monkeypatch.setattr("wardround.report.canvas.both", None)
    assert write_report(record).read_text() == first
    drawn_once.cache_clear()
    with pytest.raises(TypeError):  # they were drawn by it
        write_report(record)


BESIDE = """
import os, pickle, sys
from wardround.boundary import apart
apart.begin("wardround.report.page", "prepare")
with open(sys.argv[1], "rb") as file:
    report = pickle.load(file)
sys.stdout.buffer.write(apart.made("wardround.report.page", "render", report).encode())
assert ("matplotlib" in sys.modules) != bool(apart._begun), "nothing is drawn here where it is drawn there"
"""


def test_a_page_that_another_process_draws_is_the_page_drawn_here(make_record, tmp_path):
    (tmp_path / "report").write_bytes(pickle.dumps(report := numbers_of(make_record())))
    done = subprocess.run(
        [sys.executable, "-c", BESIDE, str(tmp_path / "report")], capture_output=True, check=True
    )
    assert done.stdout.decode() == render(report)
