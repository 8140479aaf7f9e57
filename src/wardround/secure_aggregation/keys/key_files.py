"""Key files, files of pins and a hospital's notes: whole or not at all, for their owner alone."""

import os
from pathlib import Path

from wardround.boundary.documents import Unfit, read_regular
from wardround.boundary.machine import machine_faults
from wardround.boundary.private import write_whole
from wardround.errors import FederationError

_LARGEST_FILE = 1 << 20


def write_key_file(path: Path, content: bytes, *, replace: bool) -> None:
    """Writes beside the place, syncs, moves there, and syncs the folder; on any failure a whole file stands.

    The folder exists. The file has mode 0600 from the first byte on.

    Raises:
        FederationError: it exists and must not go.
        MachineError: it cannot be written.
    """
    try:
        write_whole(path, content, replace=replace)
    except FileExistsError:
        raise FederationError(
            f"{path} must not exist yet, for a key that is replaced is lost; choose another name, or move it away."
        ) from None
    with machine_faults(path):  # without the folder's own entries a power cut may bring the old file back
        opened = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def is_private_key(path: Path) -> bool:
    """Returns whether a file begins as a key file does, in PEM; False if it cannot be read."""
    try:
        return read_regular(path, _LARGEST_FILE).startswith(b"-----BEGIN")
    except (OSError, Unfit):
        return False
