"""`metadata.csv`: one row a picture, checked as a whole before anything is made of it."""

import csv
from pathlib import Path, PurePosixPath

from wardround.errors import DataError
from wardround.images.entries import PICTURE_ENDINGS
from wardround.images.findings import shortened

METADATA = "metadata.csv"


def read_table(root: Path, required: tuple[str, ...]) -> list[dict[str, str]]:
    """Every row of `metadata.csv` below `root`, values stripped, columns beyond `required` kept.

    Raises:
        DataError: everything that is wrong with the table, in one sentence: columns that are missing, empty
            values, files that are missing, listed twice or outside the data folder.
    """
    path = root / METADATA
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
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
    problems = _problems(root, rows, required)
    if problems:
        raise DataError(
            f"every row of {METADATA} must name a picture and all of {', '.join(required)}; {len(problems)} "
            f"problems: {shortened(problems, shown=10)}. Correct the table."
        )
    return rows


def files_in(folder: Path, root: Path) -> tuple[list[str], int]:
    """Pictures anywhere below `folder`, as sorted paths below `root`, and how many other files lie there.

    Names that start with a dot are the file manager's and are passed over.
    """
    seen = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    pictures = [path for path in seen if path.suffix.lower() in PICTURE_ENDINGS]
    return sorted(path.relative_to(root).as_posix() for path in pictures), len(seen) - len(pictures)


def _stripped(row: dict[str, str | None]) -> dict[str, str]:
    # A short row leaves None as value, a long one None as key.
    return {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}


def _problems(root: Path, rows: list[dict[str, str]], required: tuple[str, ...]) -> list[str]:
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
        elif not (root / file).is_file():
            problems.append(f"line {line}: {file} is missing")
        elif file in seen:
            problems.append(f"line {line}: {file} is listed twice")
        seen.add(file)
    return problems
