"""One thing that was noticed: how much it matters, its meaning, and the advice."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Weight of a notice, the gravest first."""

    STOP = "stop"
    """Training or testing on the data as they are would give a wrong figure or a wrong promise."""
    LOOK = "look"
    """A person should look at these pictures before they are trained on."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class Notice:
    """One sentence each of the fact, its meaning and the advice.

    Args:
        code: a short name that does not change, for programs.
        count: of what the first sentence counts.
        rows: pictures in question, in groups to be shown side by side; rows of `ImageSet.pixels`.
        names: files or patients in question, where they are not pictures that can be shown.
    """

    code: str
    level: Level
    count: int
    what: str
    meaning: str
    advice: str
    rows: tuple[tuple[int, ...], ...] = ()
    names: tuple[str, ...] = ()
