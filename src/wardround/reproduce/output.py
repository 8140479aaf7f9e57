"""A reproduction on a terminal, as JSON and as a page."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from wardround.boundary.extras import needed
from wardround.boundary.private import make_private_folder, write_whole
from wardround.boundary.text import shown
from wardround.reproduce.table import Table

_WIDTH_OF_FILES = 220
"""Columns where there is no terminal to ask."""


def show(table: Table, console: Console) -> None:
    """Shows the pictures, what was shrunk, every row with what it guarantees, and the notes."""
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    console.print(Text(table.title, "bold"))
    for line in (table.source, table.data, ""):
        console.print(shown(line), highlight=False, markup=False)
    if table.shrunk:
        console.print("Not as published:")
        for entry in table.shrunk:
            console.print(f"  {entry.name}: {entry.published} -> {entry.used}", highlight=False, markup=False)
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("setting", "method", "whose"):
        grid.add_column(title)
    for _, title in table.metrics:
        grid.add_column(title, justify="right", no_wrap=True)
    for title in ("unit", "epsilon", "delta"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("guarantee")
    for row in table.rows:
        scores = [row.scores[key].text if key in row.scores else "–" for key, _ in table.metrics]
        grid.add_row(row.setting, row.name, row.origin, *scores, row.unit, row.epsilon, row.delta, table.said(row))
    console.print(grid, highlight=False, markup=False)
    for number, reason in enumerate(table.reasons, start=1):
        console.print(f"[{number}] {reason}", highlight=False, markup=False)
    for name, score in table.baselines.items():
        console.print(f"to be read against: {name} {score.text}", highlight=False, markup=False)
    for note in table.notes:
        console.print(shown(note), highlight=False, markup=False)


def write_table(table: Table, out: Path) -> Path:
    """Writes `table.json` and `reproduction.html` into a folder; returns the page's path.

    Raises:
        MissingExtra: matplotlib or Jinja2 is not installed; the JSON is written all the same.
    """
    make_private_folder(out)
    write_whole(out / "table.json", (json.dumps(table.to_json(), indent=2) + "\n").encode())
    with needed("report", "The page", f"{out / 'table.json'} is complete without it"):
        from wardround.reproduce.page import render
    page = out / "reproduction.html"
    write_whole(page, render(table).encode())
    return page
