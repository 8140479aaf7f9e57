"""A private copy of a data folder without some pictures, by hard links.

Released: nothing. A copy is read on the machine that holds the folder.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from wardround.boundary.private import make_private_folder
from wardround.errors import DataError
from wardround.images.csv_file import SEPARATORS

_BETWEEN = re.compile(f'[{re.escape("".join(SEPARATORS))}"]'.encode())
_TABLES = (".csv", ".tsv", ".txt")


def copy_without(root: Path, gone: Collection[str], kept: Collection[str], into: Path) -> None:
    """Makes a folder of hard links to all files but some pictures.

    Tables lose the lines that name one of these pictures: by its path below the folder, or by its last part where no
    file that stays has the same. Tables are copied line by line; nothing in the folder changes.

    Args:
        root: the folder.
        gone: pictures that are left out, by their paths below the folder.
        kept: pictures that the copy must have, likewise.
        into: the copy; is made.

    Raises:
        DataError: a line of a table names a picture that is left out and one that must stay, or one that must stay is
            not in the folder.
        MachineError: a folder cannot be made.
    """
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if not path.is_dir()}
    if not files.keys() >= set(kept):
        raise DataError("A folder must hold every picture that was read of it, and lacks one. Read it again.")
    staying = Counter(Path(name).name for name in files if name not in gone)
    names = {
        os.fsencode(name) for one in gone for name in (one, Path(one).name) if name == one or not staying[name]
    }
    others = {os.fsencode(name) for name in kept}
    for relative, path in files.items():
        if relative in gone:
            continue
        target = into / relative
        make_private_folder(target.parent)
        if path.suffix.lower() in _TABLES:
            cells = [(line, _cells(line)) for line in path.read_bytes().splitlines(keepends=True)]
            if any(names & found and others & found for _, found in cells):
                raise DataError("A line of a table must name pictures of one patient, and one names those of two.")
            target.write_bytes(b"".join(line for line, found in cells if not names & found))
            continue
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copyfile(path, target)


def _cells(line: bytes) -> set[bytes]:
    """Returns the cells of a table's line, and the last part of each that is a path."""
    cells = {cell.strip() for cell in _BETWEEN.split(line)}
    return cells | {cell.rpartition(b"/")[2] for cell in cells}
