"""A reproduction as one self-contained page, and as JSON beside it."""

import json
from importlib import resources
from pathlib import Path

from wardround.errors import MissingExtra
from wardround.records.folder import write_whole
from wardround.reproduce.table import Table

PHANTOMS = "phantoms"
"""Stands in what a table says of its pictures exactly when they were generated."""


def write_table(table: Table, out: Path) -> Path:
    """Writes `table.json` and `reproduction.html` into a folder; returns the page's path.

    Raises:
        MissingExtra: matplotlib or Jinja2 is not installed; the JSON is written all the same.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "table.json", (json.dumps(table.to_json(), indent=2) + "\n").encode())
    page = out / "reproduction.html"
    try:
        write_whole(page, render(table).encode())
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"The page needs {error.name}, which is not installed; {out / 'table.json'} is complete without it. "
            "Install it with: pip install 'wardround[report]'."
        ) from None
    return page


def render(table: Table) -> str:
    """The page; all that came with the studies is text in it, never markup."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from wardround.reproduce.figure import draw

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = _file("wardround.reproduce", "reproduction.html.j2")
    # The style sheet and the drawing are ours; the drawing's own texts were escaped when it was written as XML.
    return environment.from_string(template).render(
        t=table,
        phantoms=PHANTOMS in table.data,
        style=Markup(_file("wardround.report", "report.css")),
        drawing=Markup(draw(table.drawn)),
    )


def _file(room: str, name: str) -> str:
    return (resources.files(room) / name).read_text(encoding="utf-8")
