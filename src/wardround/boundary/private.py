"""Files with private content: mode 0600 in folders of mode 0700 under any umask, and no link is followed.

Private are a hospital's keys, ledger, notes and pictures, and everything in the folder of a run.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from wardround.boundary.machine import machine_faults

_FILE = 0o600
_FOLDER = 0o700


def make_private_folder(path: Path) -> None:
    """Makes a folder and the missing ones above it, each for its owner alone; one that exists keeps its mode.

    Raises:
        MachineError: the folder cannot be made, or something else has its name.
    """
    missing, above = [], path
    with machine_faults(path):
        while not above.is_dir():
            missing.append(above)
            if above.parent == above:
                break
            above = above.parent
        for folder in reversed(missing):
            try:
                folder.mkdir(mode=_FOLDER)
            except FileExistsError:
                if not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def open_private(path: Path, flags: int) -> int:
    """Returns the descriptor of a regular file, made where there is none.

    Args:
        path: of the file; a link in its place is refused, for what it leads to is another's.
        flags: of `os.open`, such as `os.O_RDWR`.

    Raises:
        MachineError: the file cannot be opened, or is a link or no regular file.
    """
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with machine_faults(path):
        try:
            handle = os.open(path, flags, _FILE)
        except OSError as error:
            if error.errno == errno.ELOOP and path.is_symlink():
                raise OSError(errno.ELOOP, "it is a link") from None
            raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "it is no regular file")
    return handle


def check_place(path: Path, *, makes_folders: bool = False) -> None:
    """Checks that a file can appear under a name, before the work whose result it will hold; leaves nothing.

    Args:
        path: of the file.
        makes_folders: missing folders above it will be made.

    Raises:
        MachineError: a folder has the name, or the folder of the file is missing or cannot be written.
    """
    with machine_faults(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = path.parent
        while makes_folders and not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def appears_whole(path: Path, *, replace: bool = True, durable: bool = True) -> Iterator[IO[bytes]]:
    """Opens a file that appears under its name when the block ends well, and leaves nothing when it does not.

    Args:
        path: of the file; a link in its place is replaced, and not followed.
        replace: a file may be there already.
        durable: the content is on disk before the name is there.

    Raises:
        FileExistsError: a file is there and is not replaced.
        MachineError: the file cannot be written.
    """
    with machine_faults(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)  # mode 0600
        beside = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if replace:
                beside.replace(path)
            else:
                os.link(beside, path)
                beside.unlink()
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def write_whole(path: Path, content: bytes, *, replace: bool = True, durable: bool = True) -> None:
    """Writes a file as `appears_whole` does; on any failure the old one is left as it was.

    Raises:
        FileExistsError, MachineError: as `appears_whole`.
    """
    with appears_whole(path, replace=replace, durable=durable) as file:
        file.write(content)
