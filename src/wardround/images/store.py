"""The store of files: a folder, or an archive (`archives`), read member by member and never unpacked to disk.

In a folder, a link that leads outside or nowhere is refused: passed over in silence it would be a picture less than
somebody believes. Links within the folder to files are files, and links to folders are folders; one that leads to a
folder in which it lies is passed over, for it adds nothing.
"""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from wardround.boundary.machine import reading_faults
from wardround.boundary.text import counted
from wardround.errors import DataError, as_one
from wardround.images.archives import BROKEN, MAX_BYTES, Stamp, is_hidden, open_archive, stamp_of
from wardround.images.findings import LeftOut

_MAX_LINKS = 10_000
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".gz", ".7z", ".rar")


class Source(Protocol):
    """Members with their sizes, and those that are left out."""

    sizes: dict[str, int]
    left_out: tuple[LeftOut, ...] = ()

    def read(self, name: str, limit: int) -> bytes:
        """Returns the first `limit` bytes of a member."""

    def stamp(self, name: str) -> Stamp | None:
        """Returns what the system says of a member, or of the archive; None where it says nothing."""
        return None

    def close(self) -> None:
        """Closes an archive; there is nothing to close of other members."""
        return


class Store:
    """Files by name. Safe to read from several threads.

    A file at the top is found in another case too where only one has that name: `Patients.csv` is `patients.csv`.

    Args:
        root: the folder or archive.
        source: reader of its members.
        refusals: what a study would be refused for, where somebody only looks.
    """

    def __init__(self, root: Path, source: "Source", refusals: Sequence[DataError] = ()):
        self.root = root
        self.left_out = source.left_out
        self.refusals = tuple(refusals)
        self._source = source
        self._sizes = dict(sorted(source.sizes.items()))
        tops = [name for name in self._sizes if "/" not in name]
        times = Counter(name.casefold() for name in tops)
        self._any_case = {name.casefold(): name for name in tops if times[name.casefold()] == 1}
        count = len(self._sizes)
        self._alias = {name: f"file {number} of {count}" for number, name in enumerate(self._sizes, start=1)}
        self._named = {alias: name for name, alias in self._alias.items()}
        if self._named.keys() & self._sizes.keys():
            raise DataError(
                "no file may be called 'file N of M', for files are counted so. Rename it.", code="data-file-name"
            )

    def names(self) -> list[str]:
        """Returns every file, relative, with `/`, sorted; dot files and the Mac's shadows are passed over."""
        return list(self._sizes)

    def size(self, name: str) -> int:
        """Returns the bytes of a file, uncompressed, as the store states them."""
        return self._sizes[self._real(name)]

    def read(self, name: str) -> bytes:
        """Returns a whole file; raises `DataError` where it is missing, damaged or above `MAX_BYTES`."""
        # The store may state less than there is.
        if self.size(name) > MAX_BYTES or len(data := self.head(name, MAX_BYTES + 1)) > MAX_BYTES:
            raise DataError(
                f"a file must have at most {MAX_BYTES:,} bytes, {name} has more. Leave it out.",
                code="data-file-size",
            )
        return data

    def head(self, name: str, num_bytes: int) -> bytes:
        """Returns the first bytes of a file."""
        try:
            with reading_faults(name):
                return self._source.read(self._real(name), num_bytes)
        except PermissionError:
            reason = "its permissions forbid it"
        except BROKEN:
            reason = "it is damaged or was taken away"
        raise DataError(
            f"every file must be readable, {name} is not: {reason}. Check it, or copy it again.",
            code="data-file-unreadable",
        )

    def stamp(self, name: str) -> Stamp | None:
        """Returns what the system says of a file, or its archive, now; None of one that cannot be looked at."""
        return self._source.stamp(self._real(name))

    def alias(self, name: str) -> str:
        """Returns a name that says nothing, `file 12 of 300`; every method takes it for the file's own."""
        return self._alias[self._real(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._found(name) in self._sizes

    def close(self) -> None:
        """Closes the archive."""
        self._source.close()

    def _found(self, name: str) -> str:
        real = self._named.get(name, name)
        return real if real in self._sizes or "/" in real else self._any_case.get(real.casefold(), real)

    def _real(self, name: str) -> str:
        real = self._found(name)
        if real not in self._sizes:
            raise DataError(
                f"every file that is read must be there, {name} is not. Check the folder.",
                code="data-file-missing",
            )
        return real


def open_store(path: Path, *, looking: bool = False) -> Store:
    """Opens the files of a folder, a .zip or an uncompressed .tar.

    Args:
        path: of the folder or archive.
        looking: notes links that lead outside and folders that cannot be read in `Store.refusals`.

    Raises:
        DataError: anything else, an archive that is not to be trusted, or what `looking` would note.
    """
    if path.is_dir():
        folder = _Folder(path.resolve())
        refusals = folder.refusals()
        if refusals and not looking:
            raise as_one(refusals)
        return Store(path, folder, refusals)
    ending = path.name.lower()
    if not path.is_file():
        raise DataError(f"the data folder must exist, got {path}. Check its path.", code="data-no-folder")
    if ending.endswith(_COMPRESSED):
        raise DataError(
            "a compressed tar cannot be read at random places. Unpack it, or pack it as .zip or .tar.",
            code="data-no-store",
        )
    if not ending.endswith((".zip", ".tar", ".npz")):
        raise DataError(
            f"data must be a folder, a .zip or a .tar, got {path.name}. Unpack it into a folder.",
            code="data-no-store",
        )
    damaged = f"an archive must be whole, {path.name} is damaged or of another kind. Copy it again."
    try:
        with reading_faults(path):
            return Store(path, open_archive(path))
    except BROKEN:
        # Their messages quote members' names.
        raise DataError(damaged, code="data-archive-damaged") from None


class _Folder(Source):
    def __init__(self, root: Path):
        self._root = root
        self._inside: set[str] = set()
        self.sizes: dict[str, int] = {}
        self._faults: Counter[str] = Counter()
        self._strange = 0
        self._links = 0
        self._walk(root, (root,))
        self.left_out = tuple(
            LeftOut(f"entry {number + 1}", "entries that are no files: pipes, sockets or devices")
            for number in range(self._strange)
        )

    def refusals(self) -> list[DataError]:
        """Returns a sentence with its count for each kind of fault."""
        return [
            DataError(f"{must}, got {counted(self._faults[code], one, many)}. {advice}.", code=code)
            for code, (must, one, many, advice) in _FAULTS.items()
            if self._faults[code]
        ]

    def _walk(self, top: Path, above: tuple[Path, ...]) -> None:
        """Adds the files below a folder that was met by links in the folders `above`, which are resolved."""

        def unlistable(error: OSError) -> None:
            with suppress(OSError), reading_faults(top):
                raise error
            self._faults["data-folder-unreadable"] += 1

        for folder, folders, files in os.walk(top, onerror=unlistable):
            folders[:] = [name for name in folders if not is_hidden(name)]
            for name in files:
                if not is_hidden(name):
                    self._add(os.path.join(folder, name))
            for link in (Path(folder) / name for name in folders if os.path.islink(os.path.join(folder, name))):
                target = self._target(link)
                if target is None:
                    self._faults["data-link-outside"] += 1
                elif not any(place.is_relative_to(target) for place in (*above, Path(folder).resolve())):
                    self._walk(link, (*above, Path(folder).resolve(), target))

    def _target(self, link: Path) -> Path | None:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise DataError(
                f"a data folder must have at most {_MAX_LINKS:,} links to folders, counted as they are met, got more. "
                "Copy what they lead to.",
                code="data-links",
            )
        target = link.resolve()
        return target if target.is_relative_to(self._root) else None

    def _add(self, path: str) -> None:
        try:  # a path of strings, and one look: sets have a million files
            seen = os.lstat(path)
            if stat.S_ISLNK(seen.st_mode):
                if not os.path.exists(path):
                    self._faults["data-link-broken"] += 1
                    return
                if not Path(path).resolve().is_relative_to(self._root):
                    self._faults["data-link-outside"] += 1
                    return
                seen = os.stat(path)
        except FileNotFoundError:  # taken away since the folder was listed
            self._strange += 1
            return
        if stat.S_ISREG(seen.st_mode):
            self.sizes[path.removeprefix(os.path.join(self._root, "")).replace(os.sep, "/")] = seen.st_size
        else:
            self._strange += 1

    def read(self, name: str, limit: int) -> bytes:
        path = os.path.join(self._root, name)
        if os.path.islink(path) and not Path(path).resolve().is_relative_to(self._root):
            raise ValueError  # it has become a link since the folder was listed
        folder = os.path.dirname(path)
        if folder not in self._inside:
            if not Path(folder).resolve().is_relative_to(self._root):
                raise ValueError
            self._inside.add(folder)
        with open(path, "rb") as file:
            # A buffer of the whole limit would be taken for each thread.
            return file.read(min(limit, os.fstat(file.fileno()).st_size + 1))

    def stamp(self, name: str) -> Stamp | None:
        try:
            return stamp_of(os.stat(os.path.join(self._root, name)))
        except OSError:
            return None


_INSIDE = "every file must lie in the data folder"
_FAULTS = {
    "data-link-outside": (
        _INSIDE, "link that leads outside of it", "links that lead outside of it", "Copy what is linked"
    ),
    "data-link-broken": (
        _INSIDE, "link that leads nowhere", "links that lead nowhere", "Restore what was linked, or remove the links"
    ),
    "data-folder-unreadable": (
        "every folder below the data folder must be readable", "that is not", "that are not", "Check the permissions"
    ),
}  # fmt: skip
"""The rule, what came (one or several) and the advice, by code."""
