"""The store of files: a folder, a .zip or a .tar, read member by member and never unpacked to disk.

An archive is judged as a whole when it is opened and refused with one sentence: names that lead elsewhere, links,
devices, names that a file system might take for one, encryption, sizes that no collection of pictures has. No
sentence here names a member, for names may hold names of people. Reading then stops at a limit, which the
archive cannot change.

In a folder, a link that leads outside or nowhere is refused: passed over in silence it would be a picture less than
somebody believes. Links within the folder to files are files, and links to folders are folders; one that leads to a
folder in which it lies is passed over, for it adds nothing.
"""

import io
import os
import re
import stat
import struct
import tarfile
import threading
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wardround.boundary.machine import reading_faults
from wardround.errors import DataError

MAX_BYTES = 1_000_000_000
"""A larger file is not opened."""

MAX_MEMBERS = 300_000
"""An archive with more members is refused."""

MAX_TOTAL_BYTES = 2_000_000_000_000
"""An archive that says it unpacks to more is refused."""

MAX_RATIO = 250
"""The most that a large archive may shrink as a whole: one mask shrinks a thousandfold, a collection does not."""

_SMALL_BYTES = 200_000_000
_MAX_DIRECTORY_BYTES = 64_000_000
_MAX_NAME = 1024
_MAX_LINKS = 10_000
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".gz", ".7z", ".rar")
_BROKEN = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError,
    struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
"""Errors that zipfile and tarfile let through on damaged archives."""


class Source(Protocol):
    """Members with their sizes; `read` gives the first `limit` bytes of one."""

    sizes: dict[str, int]

    def read(self, name: str, limit: int) -> bytes: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class Store:
    """Files by name. Safe to read from several threads.

    Args:
        root: the folder or archive.
        source: reader of its members.
    """

    def __init__(self, root: Path, source: "Source"):
        self.root = root
        self._source = source
        self._sizes = dict(sorted(source.sizes.items()))
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
        except _BROKEN:
            reason = "it is damaged or was taken away"
        raise DataError(
            f"every file must be readable, {name} is not: {reason}. Check it, or copy it again.",
            code="data-file-unreadable",
        )

    def alias(self, name: str) -> str:
        """Returns a name that says nothing, `file 12 of 300`; every method takes it for the file's own."""
        return self._alias[self._real(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._sizes or name in self._named

    def close(self) -> None:
        """Closes the archive."""
        self._source.close()

    def _real(self, name: str) -> str:
        real = self._named.get(name, name)
        if real not in self._sizes:
            raise DataError(
                f"every file that is read must be there, {name} is not. Check the folder.",
                code="data-file-missing",
            )
        return real


def open_store(path: Path) -> Store:
    """Opens the files of a folder, a .zip or an uncompressed .tar.

    Raises:
        DataError: anything else, or an archive that is not to be trusted.
    """
    if path.is_dir():
        return Store(path, _Folder(path.resolve()))
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
    damaged = f"the archive {path.name} must be whole, got one that is damaged or of another kind. Copy it again."
    try:
        return Store(path, _archive(path, _Tar if ending.endswith(".tar") else _Zip))
    except _BROKEN:
        # Their messages quote members' names.
        raise DataError(damaged, code="data-archive-damaged") from None


def _archive(path: Path, kind: "type[_Zip] | type[_Tar]") -> "_Zip | _Tar":
    file = _Bounded(io.FileIO(path))
    try:
        return kind(file, path.stat().st_size)
    except BaseException:
        file.close()
        raise


class _Folder:
    def __init__(self, root: Path):
        self._root = root
        self._inside: set[str] = set()
        self.sizes: dict[str, int] = {}
        self._links = 0
        self._walk(root, (root,))

    def _walk(self, top: Path, above: tuple[Path, ...]) -> None:
        """Adds the files below a folder that was met by links in the folders `above`, which are resolved."""
        for folder, folders, files in os.walk(top, onerror=_unlistable):
            folders[:] = [name for name in folders if not _is_hidden(name)]
            for name in files:
                if not _is_hidden(name):
                    self._add(Path(folder) / name)
            for link in (Path(folder) / name for name in folders if os.path.islink(os.path.join(folder, name))):
                target = self._target(link)
                if not any(place.is_relative_to(target) for place in (*above, Path(folder).resolve())):
                    self._walk(link, (*above, Path(folder).resolve(), target))

    def _target(self, link: Path) -> Path:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise DataError(
                f"a data folder must have at most {_MAX_LINKS:,} links to folders, counted as they are met, got more. "
                "Copy what they lead to.",
                code="data-links",
            )
        if not (target := link.resolve()).is_relative_to(self._root):
            raise _leads_out("a link to a folder that leads outside of it")
        return target

    def _add(self, path: Path) -> None:
        if path.is_symlink():
            if not path.exists():
                raise _leads_out("a link that leads nowhere", "data-link-broken")
            if not path.resolve().is_relative_to(self._root):
                raise _leads_out("a link that leads outside of it")
        if path.is_file():
            self.sizes[path.relative_to(self._root).as_posix()] = path.stat().st_size

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

    def close(self) -> None:
        pass


class _Zip:
    def __init__(self, file: "_Bounded", num_bytes: int):
        self._archive = zipfile.ZipFile(file)
        file.bound = None
        self._file = file
        members = _Members()
        for info in self._archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused("link", "a link or a device")
            if info.flag_bits & 0x2041:
                raise _refused("encrypted", "an encrypted member")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile bounds what deflate unpacks to at once, and only that.
                raise _refused("method", "a member that is neither stored nor deflated")
            if info.filename != info.orig_filename:
                raise _refused("name", _ODD_NAME)
            members.add(info.filename, info.file_size, is_folder=info.is_dir())
        members.check_ratio(num_bytes)
        self.sizes = members.sizes
        self._stored = {members.plain(info.filename): info for info in self._archive.infolist()}

    def read(self, name: str, limit: int) -> bytes:
        info = self._stored[name]
        with self._archive.open(info) as member:
            data = member.read(min(limit, info.file_size))
            # The checksum is compared when the end is met.
            if limit > info.file_size and (member.read(1) or len(data) != info.file_size):
                raise ValueError
            return data

    def close(self) -> None:
        self._archive.close()
        self._file.close()


class _Tar:
    def __init__(self, file: "_Bounded", num_bytes: int):
        self._file = file
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        members, last = _Members(), -1
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every one
                if info.offset_data <= last or info.size < 0 or info.offset_data + info.size > num_bytes:
                    raise _refused("overlap", "members that overlap or end after the archive")
                last = info.offset_data
                if not (info.isreg() or info.isdir()) or info.issparse():
                    raise _refused("link", "a link or a device")
                if members.add(info.name, info.size, is_folder=info.isdir()):
                    self._places[members.plain(info.name)] = info.offset_data
        self._file.bound = None
        self.sizes = members.sizes

    def read(self, name: str, limit: int) -> bytes:
        with self._lock:
            self._file.seek(self._places[name])
            data = self._file.read(min(limit, self.sizes[name]))
        if len(data) < min(limit, self.sizes[name]):
            raise ValueError
        return data

    def close(self) -> None:
        self._file.close()


class _Bounded(io.BufferedReader):
    """A file that gives no more than `bound` bytes at once: a directory or a name longer than that is an attack."""

    bound: int | None = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.bound is not None and (size is None or size > self.bound):
            raise _refused("directory", "a directory of more bytes than pictures need")
        return super().read(size)


_ODD_NAME = "a member whose name leads elsewhere"


@dataclass
class _Members:
    """Collects members and refuses what no honest archive holds."""

    sizes: dict[str, int] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _count: int = 0
    _total: int = 0

    @staticmethod
    def plain(name: str) -> str:
        return name.removeprefix("./").rstrip("/")

    def add(self, name: str, size: int, *, is_folder: bool) -> bool:
        """Returns True if the member is one that is read."""
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise _refused("members", f"more than {MAX_MEMBERS:,} members")
        plain = self.plain(name)
        if plain in ("", ".") and is_folder:
            return False
        if _leads_elsewhere(plain):
            raise _refused("name", _ODD_NAME)
        if is_folder:
            return False
        # What one file system tells apart is one file to another.
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", plain).casefold())
        if folded in self._seen:
            raise _refused("name-twice", "two members of one name")
        self._seen.add(folded)
        if size > MAX_BYTES:
            raise _refused("member-size", f"a member of more than {MAX_BYTES:,} bytes")
        self._total += size
        if self._total > MAX_TOTAL_BYTES:
            raise _refused("total-size", f"more than {MAX_TOTAL_BYTES:,} bytes")
        if any(map(_is_hidden, plain.split("/"))):
            return False
        self.sizes[plain] = size
        return True

    def check_ratio(self, packed: int) -> None:
        if self._total > max(_SMALL_BYTES, MAX_RATIO * packed):
            raise _refused("ratio", f"members that unpack to more than {MAX_RATIO} times its size")


def _leads_elsewhere(name: str) -> bool:
    return (
        not name
        or len(name) > _MAX_NAME
        or name.startswith("/")
        or re.match(r"[A-Za-z]:", name) is not None
        or any(mark in name for mark in ("\\", "\0", "\n", "\r"))
        or any(part in ("", ".", "..") for part in name.split("/"))
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _refused(kind: str, what: str) -> DataError:
    return DataError(
        f"an archive must be a plain collection of files, this one has {what}. Unpack and check it.",
        code=f"data-archive-{kind}",
    )


def _leads_out(what: str, code: str = "data-link-outside") -> DataError:
    return DataError(
        f"every file must lie in the data folder, got {what}. Copy what it leads to, or take it away.", code=code
    )


def _unlistable(error: OSError) -> None:
    raise DataError(
        "every folder below the data folder must be readable, got one that is not. Check its permissions.",
        code="data-folder-unreadable",
    )
