"""One thing that was noticed: how much it matters, what it means and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a notice matters, most first."""

    STOP = "stop"
    """Training or testing on the data as they are would give a wrong figure or a wrong promise."""
    LOOK = "look"
    """A person should look at these pictures before they are trained on."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class Notice:
    """One sentence each of what there is, what it means and what to do.

    Args:
        code: a short name that does not change, for programs.
        level: how much it matters.
        count: of what the first sentence counts.
        what: what there is, with the count.
        meaning: what follows from it.
        advice: what to do.
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


def by_level(notices: Sequence[Notice]) -> tuple[Notice, ...]:
    """The gravest first; within one level in the order given."""
    order = list(Level)
    return tuple(sorted(notices, key=lambda notice: order.index(notice.level)))


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> counted(1, "picture"), counted(1234, "picture"), counted(2, "class", "classes")
    ('1 picture', '1,234 pictures', '2 classes')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"
