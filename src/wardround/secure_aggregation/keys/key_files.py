"""Key files and files of pins appear whole or not at all, with the mode they are to have from the first byte."""

import os
from pathlib import Path

from wardround.errors import FederationError


def write_key_file(path: Path, content: bytes, *, mode: int, replace: bool) -> None:
    """Writes beside the place, syncs, moves there, and syncs the folder; on any failure a whole file stands.

    The folder exists. Permissions are never wider than `mode` for a moment.

    Raises:
        FederationError: it exists and must not go, or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.unlink(missing_ok=True)  # of a process that was killed while writing
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                beside.replace(path)
            else:
                os.link(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except FileExistsError:
        raise FederationError(
            f"{path} must not exist yet, for a key that is replaced is lost; choose another name, or move it away."
        ) from None
    except OSError as error:
        raise FederationError(
            f"{path} must be a file that can be written ({error.strerror}); choose another."
        ) from None


def _sync_folder(folder: Path) -> None:
    """Has the folder's own entries on disk: without it a power cut may bring the old file back."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def is_private_key(path: Path) -> bool:
    """Returns whether a file begins as a key file does, in PEM; False if it cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(10) == b"-----BEGIN"
    except OSError:
        return False
