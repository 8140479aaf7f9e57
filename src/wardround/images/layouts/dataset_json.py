"""The description of a segmentation set, `dataset.json`, as the Decathlon and nnU-Net have it."""

from typing import Any

from wardround.boundary.documents import MOST_JSON_BYTES, Unfit, parse_json
from wardround.errors import DataError
from wardround.images.store import Store

DESCRIPTION = "dataset.json"


def description_of(store: Store, layout: str, expected: str) -> dict[str, Any]:
    """Returns the description of a layout that must look like `expected`.

    Raises:
        DataError: there is none, or it is no JSON object.
    """
    if DESCRIPTION not in store:
        raise DataError(f"the layout {layout} must look like {expected}, but there is no {DESCRIPTION}.")
    try:
        found = parse_json(store.head(DESCRIPTION, MOST_JSON_BYTES + 1))
    except Unfit as error:
        raise DataError(f"{DESCRIPTION} must be JSON, got: {error}. Restore it.") from None
    return as_dict(found)


def as_list(value: object) -> list[Any]:
    """Returns a list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def as_dict(value: object) -> dict[str, Any]:
    """Returns an object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}
