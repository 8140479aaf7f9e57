"""The hospital's own log: a JSON object a line, without patient data.

An error is a type, a code and a line of the program. Its sentence may name files or ids, as that of a `DataError` or
of a mistake does, so sentences are kept of errors that never do. An answer has fields of its own (`event`, `work`,
`round`, `seconds`, `bytes_in`, `bytes_out`, `code`), which `wardround status` reads. Of the warnings and errors of one
line of the program `MOST_A_MINUTE` are written, and how many were not (`left_out`).
"""

import json
import logging
import os
import sys
import traceback
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from wardround.boundary.machine import machine_error
from wardround.boundary.private import open_private
from wardround.boundary.text import say
from wardround.errors import DataError, MachineError, WardroundError

MOST_A_MINUTE = 60

_PROGRAM = Path(__file__).parents[1]


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname, "text": record.getMessage(), **getattr(record, "fields", {})}
        error = record.exc_info[1] if record.exc_info else None
        return json.dumps(line | ({} if error is None else {"error": described(error)}))


def described(error: BaseException) -> dict[str, str]:
    """Returns an error as its type, its code and where it arose, and its sentence where that names no patient."""
    found = {"type": type(error).__name__}
    if isinstance(error, WardroundError):
        found["code"] = error.code
        if not isinstance(error, DataError | MachineError):
            found["sentence"] = str(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(_PROGRAM)]
    if frames:
        found["where"] = f"{Path(frames[-1].filename).relative_to(_PROGRAM)}:{frames[-1].lineno}"
    return found


class _Log(logging.FileHandler):
    """A log of which one line of the program writes so many warnings and errors a minute, and no more.

    Refused messages must not fill the ledger's disk, nor hide other warnings. A disk that fails is said in a sentence
    on standard error, and the answer is not held back.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self._minute, self._counts = 0, Counter[tuple[str, int]]()

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, and after the end of a minute how many of it were not written."""
        if record.levelno >= logging.WARNING:
            if int(record.created // 60) != self._minute:
                self._say_left_out()
                self._minute = int(record.created // 60)
            place = record.pathname, record.lineno
            self._counts[place] += 1
            if self._counts[place] > MOST_A_MINUTE:
                return
        super().emit(record)

    def close(self) -> None:
        """Writes how many records of the last minute were not written, and closes the file."""
        self.acquire()
        try:
            self._say_left_out()
        finally:
            self.release()
        super().close()

    def _say_left_out(self) -> None:
        for (path, line), count in self._counts.items():
            if count > MOST_A_MINUTE:
                text = f"more of {Path(path).name}:{line} in one minute than are written"
                record = logging.LogRecord(__name__, logging.WARNING, path, line, text, None, None)
                record.fields = {"left_out": count - MOST_A_MINUTE}
                super().emit(record)
        self._counts.clear()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # a name of the standard library
        """Says that a line is missing."""
        error = sys.exception()
        fault = None if error is None else machine_error(error, self.baseFilename)
        if fault is None:
            super().handleError(record)
        else:
            say(f"wardround: {fault}", error=True)


def log_to(path: Path) -> logging.Handler:
    """Returns a handler that appends to a file of mode 0600."""
    os.close(open_private(path, os.O_RDWR))
    handler = _Log(path)
    handler.setFormatter(JsonLines())
    return handler
