"""Files that only their owner may read, written whole or not at all."""

import os
import tempfile
from pathlib import Path

from wardround.errors import DataError


def write_private(path: Path, content: bytes) -> None:
    """Writes a file with mode 0600; an earlier file is replaced whole, or stays as it was.

    Raises:
        DataError: the folder is missing or cannot be written.
    """
    try:
        # Mode 0600 from the first byte on: a file opened to others and closed again could have been read between.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> DataError:
    return DataError(
        f"the file must be writable, got: {error.strerror or error} ({path}). Choose a folder that exists."
    )
