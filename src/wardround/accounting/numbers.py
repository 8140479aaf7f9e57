"""Numbers as JSON has them: it has no infinity."""

import math


def number_to_json(number: float) -> float | str:
    """A float for JSON, which has no infinity: 'infinity' in words."""
    return "infinity" if number == math.inf else float(number)


def number_from_json(value: object) -> float:
    """The float that `number_to_json` wrote."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"a number was expected, got {value!r}")
    return float(value)
