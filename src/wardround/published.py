"""The names of plans and strategies that only published systems need, and the one way to what they are.

Every name has a package in `reproduce/mechanisms`, whose modules are imported when a study names it. Each module plays
one role, and offers what the room that asks for it needs:

| role         | asked for by | offers                                                                        |
|--------------|--------------|-------------------------------------------------------------------------------|
| `section`    | `config`     | `SECTIONS`: the section class of each name; it imports no torch               |
| `plan`       | `agreed`     | `part_of(study, section, hospitals, releases)`, `calibrated(plan, section)`   |
| `strategy`   | `agreed`     | `timetable_of(...)`, `work_of(section, steps)`, `strategy_of(...)`, `selects_as(...)` |
| `hospital`   | `hospital`   | `update_of(...)`: the update that answers the strategy's work, noised         |
| `simulation` | `simulation` | where pictures are released: `check_noised`, `released_materials`, `resemblance_of` |
"""

from importlib import import_module
from typing import Any, Literal

PublishedStrategyName = Literal["selective"]
PublishedPlanName = Literal["sparse-vector", "top-k", "local-pictures"]

_HOMES = {
    "sparse-vector": "sparse_vector",
    "top-k": "sparse_vector",
    "local-pictures": "pictures",
    "selective": "selective",
}


def published(name: str, role: str) -> Any:
    """Returns the module of a published plan or strategy that plays a role; a module has no closer type."""
    return import_module(f"wardround.reproduce.mechanisms.{_HOMES[name]}.{role}")
