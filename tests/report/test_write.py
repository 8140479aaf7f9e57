import sys

import pytest

from wardround.errors import MissingExtra
from wardround.report.write import write_report


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_a_sentence_with_the_line_that_installs_it(make_record, monkeypatch, missing):
    record = make_record()
    for name in [name for name in sys.modules if name.split(".")[0] == missing or name == "wardround.report.page"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("wardround.report.charts", "wardround.report.svg"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=rf"needs {missing}.*pip install 'wardround\[report\]'"):
        write_report(record)
    assert not (record.path / "report.html").exists()
