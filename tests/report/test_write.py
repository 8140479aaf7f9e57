import sys

import pytest

from wardround.errors import MissingExtra
from wardround.report.write import write_report


def test_a_missing_extra_is_a_sentence_with_the_line_that_installs_it(make_record, monkeypatch):
    record = make_record()
    for name in [
        name for name in sys.modules if name.split(".")[0] == "jinja2" or name == "wardround.report.page"
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match=r"needs jinja2.*pip install 'wardround\[report\]'"):
        write_report(record)
    assert not (record.path / "report.html").exists()


def test_a_page_is_drawn_without_matplotlib(make_record, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("wardround.report.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "<svg" in write_report(make_record()).read_text()
