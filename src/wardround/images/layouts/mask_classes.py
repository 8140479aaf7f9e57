"""Names of the values of masks, from a table with the columns index and name."""

from wardround.errors import DataError
from wardround.images.csv_file import read_table
from wardround.images.findings import shortened
from wardround.images.table import refusal

BACKGROUND = "background"
"""The name of class 0 of a mask where the table leaves it out."""

_MAX_CLASSES = 256


def mask_classes(name: str, data: bytes) -> tuple[str, ...]:
    """Returns the names of the values 0, 1, ...; value 0 is the background unless the table says otherwise.

    Args:
        name: of the table, for sentences.
        data: its bytes.

    Raises:
        DataError: no table, or indices that are no numbers, have two names or have a gap.
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
    if not 2 <= len(named) <= _MAX_CLASSES or max(named) != len(named) - 1:
        raise DataError(
            f"{name} must number the classes 1, 2, ... without a gap, up to {_MAX_CLASSES - 1} (0 is the "
            f"background), got: {shortened([str(index) for index in sorted(named)])}. Number them anew.",
            code="data-class-numbers",
        )
    return tuple(named[index] for index in range(len(named)))
