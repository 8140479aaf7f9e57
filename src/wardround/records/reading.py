"""Reading the files of a run: bounded, and a damaged one is said in a sentence."""

from pathlib import Path

from wardround.boundary.documents import MOST_JSON_BYTES, Unfit, decoded, parse_json, read_regular
from wardround.errors import RecordError

MOST_LINES_BYTES = 64_000_000


def read_json(path: Path) -> dict[str, object]:
    """Returns the JSON object of a file.

    Raises:
        RecordError: the file is missing or holds no JSON object.
    """
    try:
        content = parse_json(read_text(path, MOST_JSON_BYTES))
    except Unfit as error:
        raise RecordError(f"{path} must hold one JSON object ({error}); restore it or run again.") from None
    if not isinstance(content, dict):
        raise RecordError(
            f"{path} must hold one JSON object, got {type(content).__name__}; restore it or run again."
        )
    return content


def read_lines(path: Path) -> list[dict[str, object]]:
    """Returns the JSON objects of a file, one a line; a last line cut off by a crash is left out.

    Raises:
        RecordError: any other line holds something else.
    """
    if not path.exists():
        return []
    lines: list[dict[str, object]] = []
    texts = read_text(path, MOST_LINES_BYTES).split("\n")
    for number, text in enumerate(texts, start=1):
        try:
            line = parse_json(text)
        except Unfit:
            line = None
        if isinstance(line, dict):
            lines.append(line)
        elif number < len(texts):  # what follows the last line's end is nothing, or a line that was cut off
            raise RecordError(f"{path} is damaged at line {number}; restore it or run again.")
    return lines


def read_text(path: Path, most_bytes: int) -> str:
    """Returns the text of a file.

    Raises:
        RecordError: it is missing, larger than `most_bytes`, or no text.
    """
    try:
        return decoded(read_regular(path, most_bytes))
    except FileNotFoundError:
        raise RecordError(
            f"The run folder must hold {path.name}, got none in {path.parent}; restore it from a copy."
        ) from None
    except (OSError, Unfit) as error:
        raise RecordError(f"{path} must be readable text ({error}); restore it or run again.") from None
