"""`[model] name = "auto"`: the network that a study gets by public facts, from one small table.

The choice follows from the study file, and from the extras that are installed; never from pictures or patients. Parties
of one study with other extras get another network, so another digest, and refuse each other before round 1.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["classes", "masks"]
"""A class or grade for each picture, or a class for each of its pixels or voxels."""

_OF_MASKS = ("decathlon", "nnunet")
"""Layouts that hold masks and nothing else."""


@dataclass(frozen=True)
class Choice:
    """A row of the table.

    Attributes:
        name: of the network.
        kind: of prediction that it gives.
        module: that must be installed; None needs no extra.
        why: the rest of a sentence about the network.
    """

    name: str
    kind: Kind
    module: str | None
    why: str

    @property
    def is_there(self) -> bool:
        """True if its extra is installed."""
        return self.module is None or importlib.util.find_spec(self.module) is not None


CHOICES = (
    Choice(
        "features",
        "classes",
        None,
        "a linear head on fixed features needs the fewest patients under privacy, and these features need no extra",
    ),
    Choice(
        "voxel_features",
        "masks",
        None,
        "few numbers on fixed features of every voxel need the fewest patients under privacy",
    ),
)
"""The first row of a kind whose extra is installed is taken."""


def choice_for(data: Mapping[str, Any], site: Mapping[str, Any]) -> Choice | None:
    """Returns the row for `[data]` and `[site]`; None for classes of whole volumes, which no head is known for."""
    task = data.get("task")
    masks = task == "segmentation" or (task is None and site.get("layout") in _OF_MASKS)
    if not masks and data.get("volume_size") is not None and data.get("view") != "slices":
        return None
    return next((row for row in CHOICES if row.kind == ("masks" if masks else "classes") and row.is_there), None)


def with_choice(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tables of a study with the network's name where it is left out, or "auto"."""
    model, data, site = (tables.get(name, {}) for name in ("model", "data", "site"))
    if not all(isinstance(section, dict) for section in (model, data, site)):
        return dict(tables)
    if model.get("name", "auto") != "auto":
        return dict(tables)
    found = choice_for(data, site)
    return dict(tables) | ({} if found is None else {"model": model | {"name": found.name}})
