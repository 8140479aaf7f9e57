"""The files that reading and encoding keep in a cache folder: listed, and removed. A run makes again what it misses.

A file is known by its name alone: 40 hexadecimal digits and one of four endings, in the folder, in its `encodings/` or
in its `digests/`.
Everything else in the folder is left alone, and no link is followed.
"""

import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wardround.boundary.machine import machine_faults
from wardround.boundary.rows import mapped_rows
from wardround.images.rows.known import FOLDER

_NAME = re.compile(r"\.?([0-9a-f]{40})\.(npy|notes\.json|parts|(?:npy|notes\.json)\.[A-Za-z0-9_]+\.tmp)")
_DAY = 86400

Kind = Literal["pictures", "encodings", "digests"]


@dataclass(frozen=True)
class Kept:
    """One kept set of pictures, their encodings by one encoder, or the digests of the files of one folder.

    Attributes:
        key: name of its files.
        kind: pictures, or encodings of pictures.
        shape: (row, ...); None where it is not complete.
        num_bytes: of all its files.
        last_used: when one of them was last read or written, in seconds since 1970.
        files: its files and folders.
    """

    key: str
    kind: Kind
    shape: tuple[int, ...] | None
    num_bytes: int
    last_used: float
    files: tuple[Path, ...]

    def days_unused(self) -> float:
        """Returns the days since the last use."""
        return max(0.0, (time.time() - self.last_used) / _DAY)


def kept_in(cache_dir: Path) -> list[Kept]:
    """Returns what is kept in a cache folder, the one that was used last first; nothing where there is no folder.

    Raises:
        MachineError: the folder cannot be read.
    """
    folders: dict[Kind, Path] = {
        "pictures": cache_dir, "encodings": cache_dir / "encodings", "digests": cache_dir / FOLDER
    }  # fmt: skip
    found = [kept for kind, folder in folders.items() for kept in _of_folder(folder, kind)]
    return sorted(found, key=lambda kept: (-kept.last_used, kept.key))


def forget(kept: Kept) -> None:
    """Removes its files; a run that reads them now goes on with what it has mapped.

    Raises:
        MachineError: one cannot be removed.
    """
    for path in kept.files:
        with machine_faults(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _of_folder(folder: Path, kind: Kind) -> Iterator[Kept]:
    if not folder.is_dir() or folder.is_symlink():
        return
    by_key: dict[str, list[Path]] = {}
    with machine_faults(folder):
        for path in sorted(folder.iterdir()):
            if name := _NAME.fullmatch(path.name):
                by_key.setdefault(name[1], []).append(path)
        for key, paths in by_key.items():
            files = [inner for path in paths for inner in _files(path)]
            about = [path.lstat() for path in [*paths, *files]]
            last = max(max(one.st_atime, one.st_mtime) for one in about)
            size = sum(one.st_size for one in about if stat.S_ISREG(one.st_mode))
            yield Kept(key, kind, _shape(folder / f"{key}.npy"), size, last, tuple(paths))


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() and not path.is_symlink() else []


def _shape(path: Path) -> tuple[int, ...] | None:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
    except OSError:
        return None
    rows = mapped_rows(path)
    return None if rows is None else tuple(map(int, rows.shape))
