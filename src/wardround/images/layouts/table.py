"""`metadata.csv`: one row a picture, checked as a whole before anything is made of it."""

import csv
import io
from pathlib import PurePosixPath

from wardround.errors import DataError
from wardround.images.entries import PICTURE_ENDINGS
from wardround.images.findings import shortened
from wardround.images.store import Store

METADATA = "metadata.csv"


def read_table(store: Store, required: tuple[str, ...]) -> list[dict[str, str]]:
    """Every row of `metadata.csv`, values stripped, columns beyond `required` kept.

    Raises:
        DataError: everything that is wrong with the table, in one sentence: columns that are missing, empty
            values, files that are missing, listed twice or outside the data folder.
    """
    try:
        lines = io.StringIO(store.read(METADATA).decode("utf-8-sig"), newline="")
        reader = csv.DictReader(lines, strict=True)
        header = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        rows = [_stripped(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{METADATA} must be a table in UTF-8 with commas, got: {error}. Save it again."
        ) from error
    missing = [name for name in required if name not in header]
    if missing:
        raise DataError(
            f"{METADATA} must have the columns {', '.join(required)}; missing: {', '.join(missing)}, "
            f"found: {', '.join(header) or 'none'}. Add them to its first line."
        )
    problems = _problems(store, rows, required)
    if problems:
        raise DataError(
            f"every row of {METADATA} must name a picture and all of {', '.join(required)}; {len(problems)} "
            f"problems: {shortened(problems, shown=10)}. Correct the table."
        )
    return rows


def files_in(store: Store, folder: str = "") -> tuple[list[str], int]:
    """Pictures anywhere below `folder`, sorted, and how many other files lie there."""
    seen = [name for name in store.names() if name.startswith(f"{folder}/" if folder else "")]
    pictures = [name for name in seen if name.lower().endswith(PICTURE_ENDINGS)]
    return pictures, len(seen) - len(pictures)


def _stripped(row: dict[str, str | None]) -> dict[str, str]:
    # A short row leaves None as value, a long one None as key.
    return {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}


def _problems(store: Store, rows: list[dict[str, str]], required: tuple[str, ...]) -> list[str]:
    problems = []
    seen: set[str] = set()
    for line, row in enumerate(rows, start=2):
        empty = [name for name in required if not row[name]]
        if empty:
            problems.append(f"line {line} has no {' and no '.join(empty)}")
        file = row["file"]
        if not file:
            continue
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            problems.append(f"line {line}: {file} lies outside the data folder")
        elif file not in store:
            problems.append(f"line {line}: {file} is missing")
        elif file in seen:
            problems.append(f"line {line}: {file} is listed twice")
        seen.add(file)
    return problems
