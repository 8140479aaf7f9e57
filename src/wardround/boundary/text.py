"""Text from outside on its way to a terminal: characters that steer or reorder it are shown by their numbers."""

import json
import re
import sys
from collections.abc import Iterable
from textwrap import wrap

from wardround.boundary.machine import machine_faults

_STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: escape sequences, new lines
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the bidirectional algorithm's controls
    "\u2028\u2029\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"  # separators, surrogates, annotations, tags
)
_LONGEST_VALUE = 120
_LONGEST_ERROR = 8000


def shown(text: str) -> str:
    r"""Returns text with every steering character as an escape of JSON and TOML, for one line of a terminal.

    >>> print(shown("a\x1b[2Jb"))
    a\u001b[2Jb
    """
    return _STEERING.sub(_escaped, text)


def steers(text: str) -> bool:
    """Returns whether a text has a character that steers or reorders a terminal; no name may."""
    return _STEERING.search(text) is not None


def say(*lines: str, error: bool = False) -> None:
    """Prints each text as one line that steers nothing; an `error` is shortened and goes to standard error."""
    for line in lines:
        text = shown(line)
        if error and len(text) > _LONGEST_ERROR:
            text = f"{text[: _LONGEST_ERROR // 2]} ... {text[-_LONGEST_ERROR // 2 :]}"
        with machine_faults("standard error" if error else "standard output"):
            print(text, file=sys.stderr if error else sys.stdout)


def tell(as_json: bool, found: object, *lines: str) -> None:
    """Prints one JSON object, or lines for a person."""
    say(*([json.dumps(found)] if as_json else lines))


def brief(value: object) -> str:
    """Returns the representation of a value for an error message, shortened in its middle."""
    text = shown(repr(value))
    half = _LONGEST_VALUE // 2
    return text if len(text) <= _LONGEST_VALUE else f"{text[:half]} ... {text[-half:]}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Returns a count with its noun, and with its verb where the two words hold one.

    >>> counted(1, "picture"), counted(1234, "picture"), counted(2, "class is", "classes are")
    ('1 picture', '1,234 pictures', '2 classes are')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def sentence_lines(text: str) -> list[str]:
    """Returns a list with a dash before each sentence of a text, in lines of at most 100 characters."""
    sentences = re.split(r"(?<=\.) (?=[A-Z])", text)
    return [line for one in sentences for line in wrap(one, 100, initial_indent="- ", subsequent_indent="  ")]


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def read_alike(names: Iterable[str]) -> list[str]:
    """Returns the names that people would read as another one: they differ from it by case or by spaces alone."""
    by_reading: dict[str, list[str]] = {}
    for name in names:
        by_reading.setdefault("".join(name.split()).casefold(), []).append(name)
    return [name for alike in by_reading.values() if len(alike) > 1 for name in alike]
