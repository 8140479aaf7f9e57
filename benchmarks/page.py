"""Tables that a benchmark writes into a page of docs/, between two marks, and what it says of a busy machine."""

from pathlib import Path
from typing import Any


def put_between(page: Path, opens: str, closes: str, text: str) -> None:
    """Replaces what stands between the two marks of the page."""
    before, _, rest = page.read_text().partition(opens)
    _, _, after = rest.partition(closes)
    page.write_text(f"{before}{opens}\n{text}\n{closes}{after}")


def say_if_not_quiet(table: dict[str, Any]) -> None:
    """Prints that the times are not to be quoted, where other processes used the machine."""
    if not table["quiet"]:
        most = table["others_use_percent"]["most"]
        print(f"NOT QUIET: others used up to {most:.0f} % of the processors. Do not quote these times; repeat.")
