"""Archives (.zip, .tar) as files by name, judged as a whole when they are opened and never unpacked to disk.

An archive is refused with one sentence for names that lead elsewhere, links that lead outside, devices, names that a
file system might take for one, encryption, and sizes that no collection of pictures has. A hard link to an earlier
member of a tar is that member. Other links, and files with holes, are left out with the cause. No sentence here names a
member, for names may hold names of people. Reading stops at a limit, which the archive cannot change.
"""

import io
import os
import posixpath
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

from wardround.errors import DataError
from wardround.images.findings import LeftOut

MAX_BYTES = 1_000_000_000
"""A larger file is not opened."""

MAX_MEMBERS = 300_000
"""An archive with more members is refused."""

MAX_TOTAL_BYTES = 2_000_000_000_000
"""An archive that says it unpacks to more is refused."""

MAX_RATIO = 250
"""The most that a large archive may shrink as a whole: one mask shrinks a thousandfold, a collection does not."""

BROKEN = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError,
    struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
"""Errors that zipfile and tarfile let through on damaged archives."""

Stamp = tuple[int, ...]
"""Size, time of the content, time of the last change of any kind (nanoseconds since 1970), inode and device."""

_SMALL_BYTES = 200_000_000
_MAX_DIRECTORY_BYTES = 64_000_000
_MAX_NAME = 1024


def stamp_of(seen: os.stat_result) -> Stamp:
    """Returns what the system says of a file, by which a later change of it is noticed."""
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_dev


def open_archive(path: Path) -> "Zip | Tar":
    """Opens a .tar by its ending, and anything else as a .zip.

    Raises:
        DataError: it is not to be trusted.
        Exception: one of `BROKEN`, whose sentences may quote names of members.
    """
    kind = Tar if path.name.lower().endswith(".tar") else Zip
    file = _Bounded(io.FileIO(path))
    try:
        return kind(file, path.stat().st_size)
    except BaseException:
        file.close()
        raise


class Zip:
    """Members of a .zip; see `Source`."""

    def __init__(self, file: "_Bounded", num_bytes: int):
        self._archive = zipfile.ZipFile(file)
        file.bound = None
        self._file = file
        members = _Members()
        for info in self._archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                raise _refused("device", "a device or a pipe")
            if info.flag_bits & 0x2041:
                raise _refused("encrypted", "an encrypted member")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile bounds what deflate unpacks to at once, and only that.
                raise _refused("method", "a member that is neither stored nor deflated")
            if info.filename != info.orig_filename:
                raise _refused("name", _ODD_NAME)
            if kind == stat.S_IFLNK:
                with self._archive.open(info) as member:
                    members.leave_out(info.filename, _LINK, member.read(_MAX_NAME).decode("utf-8", "replace"))
            else:
                members.add(info.filename, info.file_size, is_folder=info.is_dir())
        members.check_ratio(num_bytes)
        self.sizes, self.left_out = members.sizes, tuple(members.left_out)
        self._stored = {members.plain(info.filename): info for info in self._archive.infolist()}

    def read(self, name: str, limit: int) -> bytes:
        """See `Source`."""
        info = self._stored[name]
        with self._archive.open(info) as member:
            data = member.read(min(limit, info.file_size))
            # The checksum is compared when the end is met.
            if limit > info.file_size and (member.read(1) or len(data) != info.file_size):
                raise ValueError
            return data

    def stamp(self, name: str) -> Stamp:
        """See `Source`: that of the archive, which is read through one handle."""
        return stamp_of(os.fstat(self._file.fileno()))

    def close(self) -> None:
        """See `Source`."""
        self._archive.close()
        self._file.close()


class Tar:
    """Members of a .tar; see `Source`."""

    def __init__(self, file: "_Bounded", num_bytes: int):
        self._file = file
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        members, last = _Members(), -1
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every one
                has_holes = info.issparse()  # its size is that of the file with its holes
                if info.offset_data <= last or info.size < 0 or info.offset_data > num_bytes:
                    raise _refused("overlap", _OVERLAP)
                last = info.offset_data
                if has_holes:
                    members.leave_out(info.name, "files with holes in an archive; pack them without --sparse")
                elif info.issym():
                    members.leave_out(info.name, _LINK, info.linkname)
                elif info.islnk():
                    self._add_again(info, members)
                elif not (info.isreg() or info.isdir()):
                    raise _refused("device", "a device or a pipe")
                elif info.offset_data + info.size > num_bytes:
                    raise _refused("overlap", _OVERLAP)
                elif members.add(info.name, info.size, is_folder=info.isdir()):
                    self._places[members.plain(info.name)] = info.offset_data
        self._file.bound = None
        self.sizes, self.left_out = members.sizes, tuple(members.left_out)

    def _add_again(self, info: tarfile.TarInfo, members: "_Members") -> None:
        """Adds a hard link as the member that it is, or leaves it out where that is not a file of the archive."""
        target = members.plain(info.linkname)  # from the top of the archive
        if _leads_elsewhere(target):
            raise _refused("link", _OUTSIDE)
        if target not in self._places:
            members.leave_out(info.name, "links to files that are not in the archive")
        elif members.add(info.name, members.sizes[target], is_folder=False):
            self._places[members.plain(info.name)] = self._places[target]

    def read(self, name: str, limit: int) -> bytes:
        """See `Source`."""
        with self._lock:
            self._file.seek(self._places[name])
            data = self._file.read(min(limit, self.sizes[name]))
        if len(data) < min(limit, self.sizes[name]):
            raise ValueError
        return data

    def stamp(self, name: str) -> Stamp:
        """See `Source`: that of the archive, which is read through one handle."""
        return stamp_of(os.fstat(self._file.fileno()))

    def close(self) -> None:
        """See `Source`."""
        self._file.close()


class _Bounded(io.BufferedReader):
    """A file that gives no more than `bound` bytes at once: a directory or a name longer than that is an attack."""

    bound: int | None = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.bound is not None and (size is None or size > self.bound):
            raise _refused("directory", "a directory of more bytes than pictures need")
        return super().read(size)


_ODD_NAME = "a member whose name leads elsewhere"
_OUTSIDE = "a link that leads outside of it"
_OVERLAP = "members that overlap or end after the archive"
_LINK = "links in an archive, which are not followed; pack the files themselves"


@dataclass
class _Members:
    """Collects members and refuses what no honest archive holds."""

    sizes: dict[str, int] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _count: int = 0
    _total: int = 0

    @staticmethod
    def plain(name: str) -> str:
        return name.removeprefix("./").rstrip("/")

    def add(self, name: str, size: int, *, is_folder: bool) -> bool:
        """Returns True if the member is one that is read."""
        plain = self._counted(name)
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
        if any(map(is_hidden, plain.split("/"))):
            return False
        self.sizes[plain] = size
        return True

    def leave_out(self, name: str, cause: str, target: str = "") -> None:
        """Notes a member that is not read; refuses a link whose target, relative to its folder, leads outside."""
        plain = self._counted(name)
        place = posixpath.normpath(posixpath.join(posixpath.dirname(plain), target)) if target else plain
        if _leads_elsewhere(plain):
            raise _refused("name", _ODD_NAME)
        if _leads_elsewhere(place):
            raise _refused("link", _OUTSIDE)
        if not any(map(is_hidden, plain.split("/"))):
            self.left_out.append(LeftOut(f"member {self._count}", cause))

    def _counted(self, name: str) -> str:
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise _refused("members", f"more than {MAX_MEMBERS:,} members")
        return self.plain(name)

    def check_ratio(self, packed: int) -> None:
        if self._total > max(_SMALL_BYTES, MAX_RATIO * packed):
            raise _refused("ratio", f"members that unpack to more than {MAX_RATIO} times its size")


_OF_SYSTEMS = frozenset(
    {"__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"}
    | {"@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot"}
)
"""Folders of macOS, Windows and Linux, and of the network disks of Synology, QNAP and NetApp, in lower case."""


def _leads_elsewhere(name: str) -> bool:
    return (
        not name
        or len(name) > _MAX_NAME
        or name.startswith("/")
        or re.match(r"[A-Za-z]:", name) is not None
        or any(mark in name for mark in ("\\", "\0", "\n", "\r"))
        or any(part in ("", ".", "..") for part in name.split("/"))
    )


def is_hidden(name: str) -> bool:
    """Returns True for dot files, the Mac's shadows, and folders that systems keep on a disk, which are passed over.

    The latter hold thumbnails, earlier states and deleted files.
    """
    return name.startswith(".") or name.casefold() in _OF_SYSTEMS


def _refused(kind: str, what: str) -> DataError:
    return DataError(
        f"an archive must be a plain collection of files, this one has {what}. Unpack and check it.",
        code=f"data-archive-{kind}",
    )
