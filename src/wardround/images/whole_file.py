"""Files that only their owner may read, written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def appears_whole(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that appears under its name when the block ends well, and leaves nothing when it does not.

    Its mode is 0600 from the first byte on: a file opened to others and closed again could have been read between.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
