"""SHA-256 of files that have not changed since they were hashed, by place, size, times and inode, as Git knows files.

An entry is a hash of a file's name and of what the system says of it, with the SHA-256 of its content: no name is kept.
The system is asked before the content is read, so that a file that changes in between is hashed again the next time. A
file that changed within `_FRESH_NS` is not entered, for it may change again without another time. Setting a file's
times back changes the time of that change, which is compared as well.

All of this is what a local file system keeps; where times of changes are not kept, a file of equal size whose time was
set back is taken for the one before, until `wardround cache clear`.

What an entry says is believed as the decoded pictures beside it are: a person who can write there can change both.
"""

import time
from contextlib import suppress
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np

from wardround.boundary.private import appears_whole, make_private_folder
from wardround.boundary.rows import mapped_rows
from wardround.errors import MachineError
from wardround.images.archives import Stamp

FOLDER = "digests"
"""Below the cache folder."""

_KEY_BYTES, _SHA256_BYTES = 16, 32

_FRESH_NS = 2_000_000_000
"""The coarsest step of a file system's clock."""


class KnownDigests:
    """The digests of one data folder or archive. Safe to use from several threads.

    Args:
        root: the data folder or archive.
        cache_dir: folder of decoded pictures.
    """

    def __init__(self, root: Path, cache_dir: Path) -> None:
        name = sha256(str(root.resolve()).encode("utf-8", "surrogatepass")).hexdigest()[:40]
        self._path = cache_dir / FOLDER / f"{name}.npy"
        self._began = time.time_ns()
        self._before = self._read()
        self._now: dict[bytes, str] = {}

    def of(self, name: str, stamp: Stamp | None) -> str | None:
        """Returns the SHA-256 of a file that is as it was when it was hashed; None of any other."""
        if stamp is None or (found := self._before.get(key := _key(name, stamp))) is None:
            return None
        self._now[key] = found
        return found

    def note(self, name: str, stamp: Stamp | None, digest: str) -> None:
        """Enters the digest of a content that was read after the file had this stamp."""
        if stamp is not None and max(stamp[1:3]) < self._began - _FRESH_NS:
            self._now[_key(name, stamp)] = digest

    def keep(self) -> None:
        """Writes what was found or entered, and forgets every other file of the folder.

        A run does without where it cannot be written.
        """
        if self._now == self._before:
            return
        rows = np.frombuffer(
            b"".join(key + bytes.fromhex(digest) for key, digest in self._now.items()), dtype=np.uint8
        )
        with suppress(MachineError):
            make_private_folder(self._path.parent)
            with appears_whole(self._path) as file:
                np.save(file, rows.reshape(-1, _KEY_BYTES + _SHA256_BYTES))

    def forget(self) -> None:
        """Removes the file: a digest in it was found to be wrong."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[bytes, str]:
        rows, wide = mapped_rows(self._path), _KEY_BYTES + _SHA256_BYTES
        if rows is None or rows.dtype != np.uint8 or rows.shape[1:] != (wide,):
            return {}
        whole = rows.tobytes()
        starts = range(0, len(whole), wide)
        return {whole[at : at + _KEY_BYTES]: whole[at + _KEY_BYTES : at + wide].hex() for at in starts}


def _key(name: str, stamp: Stamp) -> bytes:
    told = f"{' '.join(map(str, stamp))} {name}".encode("utf-8", "surrogatepass")
    return blake2b(told, digest_size=_KEY_BYTES).digest()
