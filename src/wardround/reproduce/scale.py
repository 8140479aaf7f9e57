"""Published settings made smaller for a small machine, each with its name, so that nothing shrinks unsaid."""

from typing import TypeVar

from wardround.errors import StudyError
from wardround.reproduce.table import Shrunk

_Used = TypeVar("_Used")


class Scale:
    """Shrinks numbers by one factor, and keeps a list of what it changed.

    Args:
        value: 1 leaves everything as published.

    Raises:
        StudyError: the factor is not above 0 and at most 1.
    """

    def __init__(self, value: float) -> None:
        if not 0 < value <= 1:
            raise StudyError(f"--scale must be above 0 and at most 1 (as published), got {value}; choose 0.25.")
        self.value = value
        self._said: dict[str, Shrunk] = {}

    @property
    def shrunk(self) -> tuple[Shrunk, ...]:
        """The settings that are not as published, in the order in which it was asked for."""
        return tuple(self._said.values())

    def count(self, name: str, published: int, *, least: int = 1, by: float | None = None) -> int:
        """A number of things, at least `least`, shrunk by this scale or by `by`.

        >>> scale = Scale(0.25)
        >>> scale.count("local epochs", 40), scale.shrunk[0].used
        (10, '10')
        """
        factor = 1.0 if self.value == 1 else self.value if by is None else min(1.0, by)
        used = published if factor >= 1 else max(min(published, least), round(published * factor))
        return self.said(name, published, used)

    def side(self, name: str, published: int, *, least: int, multiple: int = 8) -> int:
        """The side of a picture: a multiple of `multiple`, at least `least`."""
        wanted = round(published * self.value / multiple) * multiple
        return self.said(name, published, published if self.value >= 1 else max(least, min(published, wanted)))

    def said(self, name: str, published: object, used: _Used) -> _Used:
        """`used`, noted where it is not what was published."""
        if str(published) != str(used):
            self._said[name] = Shrunk(name, str(published), str(used))
        return used
