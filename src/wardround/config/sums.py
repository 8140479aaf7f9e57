"""`[privacy] sum` where a study leaves it out: masked wherever masks hide something, and can be made.

A simulated sum is formed in the open, by one program that sees each hospital's part: it is a rehearsal. A key that a
study names keeps its value; the resolved study shows the value, and its digest has it.
"""

from collections.abc import Mapping
from typing import Any

FEWEST = 3
"""Hospitals that answer: of two, each learns the other's vector from the sum."""


def with_sum(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tables of a study with `sum = "masked"` where it is left out and can be.

    It can be under `plan = "dp-sgd"` with shares of noise, in rounds to which all hospitals answer
    (`strategy = "fedsgd"`), where at least `FEWEST` of them are left after the dropouts that are foreseen.
    """
    privacy, federation, hospitals = (tables.get(name, {}) for name in ("privacy", "federation", "hospitals"))
    if not all(isinstance(section, dict) for section in (privacy, federation, hospitals)) or "sum" in privacy:
        return dict(tables)
    kind = privacy.get("plan"), privacy.get("trust", "secure-aggregation"), federation.get("strategy", "fedsgd")
    count, dropouts = hospitals.get("count", 5), privacy.get("dropouts", 0)
    if kind != ("dp-sgd", "secure-aggregation", "fedsgd") or not all(
        isinstance(n, int) for n in (count, dropouts)
    ):
        return dict(tables)
    return dict(tables) | ({"privacy": {"sum": "masked"} | privacy} if count - dropouts >= FEWEST else {})
