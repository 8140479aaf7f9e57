"""Writing in the folder of a run: one process at a time."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

from wardround.boundary.private import open_private
from wardround.errors import RecordError


def locked(path: Path) -> IO[str]:
    """Opens and locks a file whose content is left as it is; closing it lets another process write.

    Raises:
        MachineError: the file cannot be opened.
        RecordError: another process writes.
    """
    file = os.fdopen(open_private(path, os.O_RDWR), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RecordError(
            f"One process at a time may write {path.parent}, and another one does; wait for it."
        ) from None
    return file


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
