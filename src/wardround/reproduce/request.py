"""The request for a reproduction: its scale, so that nothing shrinks unsaid, and its pictures, or phantoms."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from wardround.coordinator.observer import Observer
from wardround.errors import DataError, StudyError
from wardround.images.layouts.guess import guess_layout
from wardround.images.load import open_layout
from wardround.reproduce.loops import Found, Loop, run_loops
from wardround.reproduce.repaired import Repaired, run_repaired
from wardround.reproduce.table import PHANTOMS, JsonDict, Row, Shrunk

TEST_FRACTION = 0.1
_PHANTOM_IMAGES = 2
"""Phantom patients have 1 or 2 pictures."""

_Used = TypeVar("_Used")


class Scale:
    """Shrinks numbers by one factor, and keeps a list of what it changed.

    A value of 1 leaves everything as published.

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

    def side(self, name: str, published: int, *, least: int) -> int:
        """The side of a picture: a multiple of 8, at least `least`."""
        wanted = 8 * round(published * self.value / 8)
        return self.said(name, published, published if self.value >= 1 else max(least, min(published, wanted)))

    def said(self, name: str, published: object, used: _Used) -> _Used:
        """`used`, noted where it is not what was published."""
        if str(published) != str(used):
            self._said[name] = Shrunk(name, str(published), str(used))
        return used


@dataclass(frozen=True)
class Request:
    """The settings of a reproduction.

    Attributes:
        data: folder or archive of the real set; None for phantoms.
        out: where runs, numbers and pages go; what is finished there is not run again.
        repeats: runs of each row, each with another split and other first weights.
        workers: processes at once; None takes what the machine has.
        cache: where decoded pictures are kept; None for the usual place.
    """

    data: Path | None
    out: Path
    scale: Scale
    observer: Observer
    repeats: int = 1
    workers: int | None = None
    cache: Path | None = None
    layout: str = field(init=False)

    def __post_init__(self) -> None:
        """Finds out how the pictures lie.

        Raises:
            DataError: there are none at the path, or fewer than one repeat is asked for.
        """
        if self.repeats < 1:
            raise DataError(f"--repeats must be at least 1, got {self.repeats}; choose 3 for a spread.")
        layout = "phantom"
        if self.data is not None:
            with open_layout(None, self.data) as store:
                layout = guess_layout(store)
        object.__setattr__(self, "layout", layout)

    @property
    def sentence(self) -> str:
        """The sentence that names the pictures."""
        if self.data is None:
            return (
                f"No data was given: everything of ours ran on {PHANTOMS}, generated pictures of nobody. Published "
                "numbers are of real pictures and are not to be compared with ours."
            )
        return (
            f"The pictures of {self.data.name} ({self.layout}), patients apart: nobody is in two hospitals, or both "
            "trained on and tested on."
        )

    def pictures(self, side: int, images: int, **keys: object) -> JsonDict:
        """The `[data]` section; phantoms are made enough for `images` training pictures."""
        section: JsonDict = {"layout": self.layout, "image_size": side, "test_fraction": TEST_FRACTION}
        if self.data is not None:
            return section | {"path": str(self.data.resolve())} | keys
        patients = max(40, round(1.1 * images / (1 - TEST_FRACTION) / ((1 + _PHANTOM_IMAGES) / 2)))
        phantom = {"patients": patients, "max_images": _PHANTOM_IMAGES, "image_size": max(32, side)}
        return section | {"phantom": phantom} | keys

    @property
    def performance(self) -> JsonDict:
        """The `[performance]` section: one thread a run, for runs go on side by side."""
        return {"threads": 1} | ({} if self.cache is None else {"cache": str(self.cache)})

    def repaired(self, wanted: list[Repaired]) -> list[Row]:
        """Rows of ordinary studies."""
        return run_repaired(wanted, self.out / "runs", self.observer, workers=self.workers)

    def loops(self, wanted: dict[str, Loop]) -> dict[str, Found]:
        """Numbers of published loops."""
        return run_loops(wanted, self.out / "as-published", self.observer, workers=self.workers)

    def network(self, published: str, name: str) -> JsonDict:
        """The `[model]` section: a network of that name, or a small AlexNet where the scale is below 1."""
        if self.scale.value >= 1:
            return {"name": self.scale.said("network", published, name)}
        self.scale.said("network", published, "alexnet of width 12")
        return {"name": "alexnet", "width": 12}
