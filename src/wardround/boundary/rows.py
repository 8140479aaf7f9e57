"""Tables of numbers that the tool keeps in files, and makes anew where it cannot use them: data, never unpickled."""

import shutil
import tokenize
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wardround.boundary.machine import reading_faults
from wardround.errors import DataError

_BROKEN = (
    OSError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, SyntaxError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip
"""Errors that numpy lets through on damaged files: it reads their header with Python's own parser."""


def mapped_rows(path: Path, mode: Literal["r", "c"] = "r") -> npt.NDArray[Any] | None:
    """Returns the table of a .npy file, mapped to be read, or copied on write; None where there is none to be used.

    Raises:
        MachineError: its disk fails.
    """
    try:
        with reading_faults(path):
            return np.lib.format.open_memmap(path, mode=mode)
    except _BROKEN:
        return None


def check_room(folder: Path, num_bytes: int, holds: str) -> None:
    """Refuses, before an hour of work rather than after it, to fill a disk.

    Args:
        folder: of the cache, which is there.
        num_bytes: that will be written.
        holds: the content, for the sentence.

    Raises:
        DataError: there is less room (code `data-cache-room`).
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise DataError(
            f"`[performance] cache` must have {num_bytes / 1e6:.0f} MB of room for {holds}, and {folder} has "
            f"{free / 1e6:.0f} MB. Free some space, or choose another folder.",
            code="data-cache-room",
        )
