"""Bounded reading of files from outside: bytes of a regular file, TOML tables and JSON values.

A file is opened only if it is a regular one, so that a device or a named pipe is no endless read, and at most a given
number of bytes is taken from it. A document nests at most `DEEPEST` levels, and its whole numbers have 64 bits.
Every reason for a refusal is an `Unfit`, which the caller puts into a sentence with its own remedy.
"""

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wardround.boundary.machine import reading_faults

MOST_TOML_BYTES = 1_000_000
MOST_JSON_BYTES = 16_000_000
DEEPEST = 64
MOST_KEY_PARTS = 32

_MOST_TENSOR_HEADER_BYTES = 100_000_000  # of safetensors itself
_LARGEST_INTEGER = 2**64
_PART = r"(?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{1,256}+|\"(?:[^\"\\\n]|\\.){0,256}+\"|'[^'\n]{0,256}+')"
# Memory of tomllib grows with the square of the parts of one dotted key.
_LONG_KEY = re.compile(rf"(?:{_PART}[ \t]*+\.[ \t]*+){{{MOST_KEY_PARTS},}}")


class Unfit(ValueError):
    """A reason in words why a file or a document cannot be read."""


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Returns the bytes of a regular file, or of the one that a link leads to.

    Raises:
        MachineError: its disk fails.
        OSError: the file is missing or cannot be opened.
        Unfit: no regular file, or one with more than `most_bytes` bytes.
    """
    with reading_faults(path):
        try:
            # A pipe without a writer would block.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except ValueError:
            raise Unfit("its path has a null character") from None
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise Unfit("it is no regular file")
            if about.st_size > most_bytes:
                raise Unfit(f"it has more than {most_bytes:,} bytes")
            content = file.read(about.st_size + 1)
    if len(content) > about.st_size:
        raise Unfit("it grew while it was read")
    return content


def check_tensor_header(path: Path) -> None:
    """Refuses a safetensors file whose header does not lie inside it, before anything else of it is read.

    Raises:
        MachineError: its disk fails.
        OSError: the file is missing or cannot be opened.
        Unfit: no regular file, or another header.
    """
    with reading_faults(path):
        if not path.is_file():
            path.stat()
            raise Unfit("it is no regular file")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(path.stat().st_size - 8, _MOST_TENSOR_HEADER_BYTES):
            raise Unfit("its header does not lie inside it")


def decoded(content: bytes) -> str:
    """Returns text in UTF-8 without its byte order mark.

    Raises:
        Unfit: the bytes are no UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unfit(f"it is no text in UTF-8: {error.reason} at byte {error.start}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Returns the tables of a TOML document.

    Raises:
        Unfit: it is no TOML, or is beyond the bounds of this module.
    """
    if len(text) > MOST_TOML_BYTES:
        raise Unfit(f"it has more than {MOST_TOML_BYTES:,} characters")
    if _LONG_KEY.search(text):
        raise Unfit(f"a key has more than {MOST_KEY_PARTS} parts")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Unfit(str(error)) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise Unfit("a number has too many digits, or no day and hour has it") from None
    _check(tables, finite=False)
    return tables


def dotted(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields the values of tables within tables by dotted key, written in quotes or not."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parse_json(content: bytes | str) -> Any:
    """Returns the value of a JSON document; its numbers are finite.

    Raises:
        Unfit: it is no JSON in UTF-8, or is beyond the bounds of this module.
    """
    if len(content) > MOST_JSON_BYTES:
        raise Unfit(f"it has more than {MOST_JSON_BYTES:,} bytes")
    text = decoded(content) if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Unfit(str(error)) from None
    except RecursionError:
        raise _too_deep() from None
    except Unfit:
        raise
    except ValueError:
        raise Unfit("a number has too many digits") from None
    _check(value, finite=True)
    return value


def load_json(path: Path, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """Returns the value of a JSON file.

    Raises:
        MachineError, OSError, Unfit: as `read_regular` and `parse_json`.
    """
    return parse_json(read_regular(path, most_bytes))


def load_table(path: Path, most_bytes: int) -> object:
    """Returns the content of a file in JSON where its name ends so, and else in TOML.

    Raises:
        MachineError, OSError, Unfit: as `read_regular`, `parse_toml` and `parse_json`.
    """
    text = decoded(read_regular(path, most_bytes))
    return parse_json(text) if path.suffix.lower() == ".json" else parse_toml(text)


def _no_constant(name: str) -> float:
    raise Unfit(f"{name} is no number of JSON")


def _too_deep() -> Unfit:
    return Unfit(f"it nests more than {DEEPEST} levels")


def _check(document: object, *, finite: bool) -> None:
    """Refuses values that later code could not take: too deep, beyond 64 bits, or half of a surrogate pair."""
    levels: list[Iterator[object]] = [iter((document,))]
    while levels:
        for value in levels[-1]:
            if isinstance(value, dict):
                for key in value:
                    _check_text(key)
                levels.append(iter(value.values()))
                break
            if isinstance(value, list):
                levels.append(iter(value))
                break
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, int) and not -_LARGEST_INTEGER < value < _LARGEST_INTEGER:
                raise Unfit("a whole number has more than 64 bits")
            elif finite and isinstance(value, float) and not math.isfinite(value):
                raise Unfit("a number is too large")
        else:
            levels.pop()
        if len(levels) > DEEPEST + 1:
            raise _too_deep()


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise Unfit("a text has half of a surrogate pair")
