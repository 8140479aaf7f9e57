"""A reproduction on a terminal."""

from rich.console import Console
from rich.table import Table as Grid

from wardround.reproduce.table import Table

_SHORT = 90


def show(table: Table, console: Console) -> None:
    """What pictures, what was shrunk, every row with what it guarantees, and the notes."""
    console.print(f"[bold]{table.title}[/bold]\n{table.source}\n{table.data}\n", highlight=False)
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
        said = row.guarantee if len(row.guarantee) <= _SHORT else row.guarantee[: _SHORT - 1].rstrip() + "…"
        grid.add_row(row.setting, row.name, row.origin, *scores, row.unit, row.epsilon, row.delta, said)
    console.print(grid, highlight=False, markup=False)
    for name, score in table.baselines.items():
        console.print(f"to be read against: {name} {score.text}", highlight=False)
    for note in table.notes:
        console.print(note, highlight=False, markup=False)
