"""Faults of the machine in one sentence each: the file, the system's own words for the cause, and the remedy.

A disk that is full, read-only, broken or gone, a limit of the system, and memory that is used up are nobody's input.
The functions that read and write here raise a `MachineError` for them, and every other command ends with one by
`machine_error`, which its program asks last.
"""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround.errors import MachineError

_ROOM = "free some space on its disk"
_MOUNT = "mount its disk again"
_FAULTS = {
    errno.ENOSPC: ("full", _ROOM),
    errno.EDQUOT: ("quota", "free some space of your quota, or have it raised"),
    errno.EFBIG: ("file-size", "raise the largest size of a file (`ulimit -f`), or choose another disk"),
    errno.EROFS: ("read-only", "mount its disk for writing, or choose another folder"),
    errno.EIO: ("disk", "check its disk and the connection to it"),
    errno.ENOMEM: ("memory", "close other programs"),
    errno.EMFILE: ("files", "raise the number of open files (`ulimit -n`)"),
    errno.ENFILE: ("files", "close other programs"),
    **dict.fromkeys(
        (
            errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.EHOSTUNREACH,
            errno.ETIMEDOUT, errno.EREMOTEIO,
        ),
        ("mount", _MOUNT),
    ),
}  # fmt: skip
"""The end of the code and the remedy, by the system's number of an error that no input causes."""

_OF_INPUT = {
    errno.EACCES: ("permission", "change its permissions, or choose another place"),
    errno.EPERM: ("permission", "change its permissions, or choose another place"),
    errno.ENOENT: ("path", "check that its folder is there, or choose another place"),
    errno.ENOTDIR: ("path", "a file is in the place of a folder: move it away, or choose another place"),
    errno.EISDIR: ("path", "a folder is in the place of a file: move it away, or choose another place"),
}
"""The same of errors that a wrong path causes as well: they are faults where a file is written."""

_DAMAGED = 0
_OF_SQLITE = {
    "disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "readonly": errno.EROFS,
    "unable to open": errno.EACCES,
    "malformed": _DAMAGED,
    "not a database": _DAMAGED,
}
"""Parts of SQLite's own messages, which say less than the system's numbers; a damaged file has none."""

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "failed to map segment",
)
"""Parts of messages of torch and of the loader of libraries, in a `RuntimeError` or an `ImportError`."""

_MEMORY = (
    "The memory of this machine must suffice, and does not{}; close other programs, or lower "
    "`[performance] memory_gb`."
)


def machine_error(error: BaseException, path: Path | str | None = None) -> MachineError | None:
    """Returns an error of the machine as a sentence about a file; None for any other error, which is a mistake.

    Args:
        error: that came.
        path: of the file; default: the one that the error names.
    """
    match error:
        case MachineError():
            return error
        case MemoryError():
            return MachineError(_MEMORY.format(f" ({error})" if str(error) else ""), code="machine-memory")
        case RuntimeError() | ImportError() if any(words in str(error) for words in _OUT_OF_MEMORY):
            return MachineError(_MEMORY.format(f" ({str(error).splitlines()[0]})"), code="machine-memory")
        case OSError() if error.errno is not None:  # a library's own OSError has none
            return _of_disk(error, path)
        case sqlite3.Error():
            return of_sqlite(error, Path(path or "a database"))
        case _:
            return None


def raise_fault(error: BaseException, path: Path | str | None = None) -> None:
    """Raises an error of the machine as a `MachineError`; returns for any other, which the caller deals with."""
    fault = machine_error(error, path)
    if fault is not None:
        raise fault from error


def _of_disk(error: OSError, path: Path | str | None) -> MachineError:
    kind, remedy = (_FAULTS | _OF_INPUT).get(error.errno or 0, ("disk", "check the path and its disk"))
    named = path or error.filename2 or error.filename or "A file"
    named = os.fsdecode(named) if isinstance(named, str | bytes | Path) else f"file {named}"
    words = error.strerror or str(error) or type(error).__name__
    return MachineError(f"{named} could not be read or written ({words}); {remedy}.", code=f"machine-{kind}")


@contextmanager
def machine_faults(path: Path | str) -> Iterator[None]:
    """Turns errors of the disk in its block into a `MachineError` about a file; for a block that writes it.

    A name that is taken, and a reader that has gone, are for the caller to judge: these errors come through.
    """
    try:
        yield
    except (FileExistsError, BrokenPipeError):
        raise
    except OSError as error:
        raise _of_disk(error, path) from error


@contextmanager
def reading_faults(path: Path | str) -> Iterator[None]:
    """Turns those errors of the disk into a `MachineError` that no wrong path causes; for a block that reads a file."""
    try:
        yield
    except OSError as error:
        if error.errno in _FAULTS:
            raise _of_disk(error, path) from error
        raise


def is_moved(error: sqlite3.Error) -> bool:
    """Returns whether SQLite refuses because another file was put in the place of the open one."""
    return getattr(error, "sqlite_errorname", "") == "SQLITE_READONLY_DBMOVED"


def of_sqlite(error: sqlite3.Error, path: Path) -> MachineError | None:
    """Returns an error of SQLite as one of the machine; None for any other.

    SQLite says that a disk refused, and not for which reason; a disk that cannot be read is a damaged file to it. So
    the file is read, and one is written beside it, to learn the reason.
    """
    number = next((number for words, number in _OF_SQLITE.items() if words in str(error)), None)
    if number is None or is_moved(error):
        return None
    try:
        if path.is_file() or path.is_dir():
            with path.open("r+b") as file:
                while file.read(1 << 20):
                    pass
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        return _of_disk(refused, path)
    if number == _DAMAGED:
        return None
    return _of_disk(OSError(number, f"{os.strerror(number)}; SQLite: {error}"), path)
