"""Writing in the folder of a run: whole files, one process at a time, and sentences for what the disk says."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from wardround.errors import RecordError


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes beside the place, syncs when `durable`, and renames; on any failure the old file stands."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise disk_error(path, error) from None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns a run folder that cannot be used into a sentence."""
    try:
        yield
    except NotADirectoryError:
        raise RecordError(
            f"A run folder must be a folder, and {path} is a file or lies below one; choose another --out."
        ) from None
    except OSError as error:
        raise RecordError(
            f"The run folder {path} must be writable ({error.strerror}); choose another --out."
        ) from None


def locked(path: Path) -> IO[str]:
    """Opens and locks a file; closing it lets another process write."""
    try:
        file = path.open("w")
    except OSError as error:
        raise disk_error(path, error) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RecordError(
            f"One process at a time may write {path.parent}, and another one does; wait for it."
        ) from None
    return file


def disk_error(path: Path, error: OSError) -> RecordError:
    """Returns the sentence of a file that could not be written."""
    return RecordError(f"{path} could not be written ({error.strerror}); what was there before still stands.")
