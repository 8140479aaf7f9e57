"""The request for a reproduction, and the pictures it takes: the given ones, or phantoms, and then it says so."""

from dataclasses import dataclass, field
from pathlib import Path

from wardround.coordinator.observer import Observer
from wardround.errors import DataError
from wardround.images.layouts.guess import guess_layout
from wardround.images.load import open_layout
from wardround.reproduce.loops import Found, Loop, run_loops
from wardround.reproduce.page import PHANTOMS
from wardround.reproduce.repaired import Repaired, run_repaired
from wardround.reproduce.scale import Scale
from wardround.reproduce.table import JsonDict, Row

TEST_FRACTION = 0.1
_PHANTOM_IMAGES = 2
"""Phantom patients have 1 or 2 pictures."""


@dataclass(frozen=True)
class Request:
    """The settings of a reproduction.

    Attributes:
        data: folder or archive of the real set; None for phantoms.
        out: where runs, numbers and pages go; what is finished there is not run again.
        scale: how much smaller than published.
        repeats: runs of each row, each with another split and other first weights.
        observer: told what is going on.
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
