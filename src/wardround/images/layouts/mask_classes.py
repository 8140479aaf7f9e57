"""Names of the values of masks, from a table with the columns index and name."""

from typing import NamedTuple

from wardround.errors import DataError
from wardround.images.csv_file import read_table
from wardround.images.findings import shortened
from wardround.images.table import refusal

BACKGROUND = "background"
"""The name of class 0 of a mask where the table leaves it out."""

_MAX_CLASSES = 256


class MaskClasses(NamedTuple):
    """Names of the classes of masks, and the values that stand for them in files, which rise; empty for 0, 1, 2, ..."""

    names: tuple[str, ...]
    values: tuple[int, ...] = ()


def mask_classes(name: str, data: bytes) -> MaskClasses:
    """Returns the names of the values of masks; value 0 is the background unless the table says otherwise.

    Args:
        name: of the table, for sentences.
        data: its bytes.

    Raises:
        DataError: no table, or indices that are no numbers of a byte or have two names.
    """
    table = read_table(name, data, ("index", "name"))
    problems = [
        f"line {row.line} must have a whole number as index and a name"
        for row in table.rows
        if not (row.values["index"].isascii() and row.values["index"].isdigit() and row.values["name"])
    ]
    if problems or table.ragged:
        raise refusal(table, problems)[0]
    named: dict[int, str] = {}
    for row in table.rows:
        # A long index is out of range in any case, and Python converts no number of thousands of digits.
        index = int(row.values["index"][:9])
        if named.setdefault(index, row.values["name"]) != row.values["name"]:
            problems.append(f"line {row.line}: index {index} has two names")
    if problems:
        raise refusal(table, problems)[0]
    named.setdefault(0, BACKGROUND)
    values = tuple(sorted(named))
    if len(values) < 2 or values[-1] >= _MAX_CLASSES:
        raise DataError(
            f"{name} must number the classes 1, 2, ... up to {_MAX_CLASSES - 1} (0 is the background), got: "
            f"{shortened([str(index) for index in values])}. Number them anew, and the masks as well.",
            code="data-class-numbers",
        )
    names = tuple(named[value] for value in values)
    return MaskClasses(names, values if values[-1] >= len(values) else ())
