"""The code on the page of the audit runs, and says what the page says."""

import json
import re
from pathlib import Path

from benchmarks.audit_leak import CLOSES, OPENS, RESULT, markdown

from wardround.audit.broken import SCHEMES

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()


def test_the_scheme_of_the_page_is_caught():
    names: dict[str, object] = {"print": lambda *said: None}
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, names)  # the page is ours
    assert getattr(names["found"], "caught")  # noqa: B009


def test_the_page_names_every_broken_scheme():
    assert [scheme.name for scheme in SCHEMES if f"| {scheme.name} |" not in PAGE] == []
    assert f"{len(SCHEMES)} schemes" in PAGE


def test_the_table_of_the_page_is_that_of_the_committed_figures():
    found = json.loads(RESULT.read_text())
    assert f"{OPENS}\n{markdown(found)}\n{CLOSES}" in PAGE
    assert all(set(rows) == {"8", "2", "0"} for rows in found.values())
    assert not any(row["contradicts"] for rows in found.values() for row in rows.values())
