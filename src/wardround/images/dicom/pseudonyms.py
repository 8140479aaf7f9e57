"""Names that only the hospital can give: HMAC-SHA256 under a key that it keeps.

The key makes guessing useless: a patient number has few digits, and a plain hash of it is found by trying them all.
Without the key there is no way from a pseudonym back to a patient; another key changes every pseudonym.
"""

import contextlib
import hmac
import os
import stat
from pathlib import Path

from wardround.boundary.private import make_private_folder, write_whole
from wardround.errors import DataError
from wardround.images.identity import folded

KEY_BYTES = 32

_HEX = 20
"""80 bits: among a million patients two share a pseudonym with probability below 1e-12."""


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """Returns a name for `value` that tells nothing without the key; of another kind it has another name.

    >>> pseudonym(bytes(32), "patient", "12345") == pseudonym(bytes(32), "study", "12345")
    False

    Args:
        key: of `KEY_BYTES` bytes, from `load_or_create_key`.
        kind: of the value, such as "patient".
        value: as the header has it; it is folded (`identity.folded`), so blanks and NULs around it, which DICOM pads
            with, do not count.
    """
    assert "\0" not in kind, "the NUL keeps kinds and values apart"
    said = f"wardround\0{kind}\0" + folded(value)
    return hmac.digest(key, said.encode("utf-8", "surrogatepass"), "sha256").hex()[:_HEX]


def load_or_create_key(path: Path) -> bytes:
    """Returns the hospital's own key; made from the operating system's randomness where there is none.

    The file appears whole and for its owner alone (mode 0600); of two who make it at once, both get the same key.

    Raises:
        DataError: the key can be read by others, has another size, or cannot be read.
        MachineError: it cannot be written.
    """
    try:
        with contextlib.suppress(FileExistsError):
            if not path.exists():
                _create(path)
        return _loaded(path)
    except OSError as error:
        raise DataError(
            f"the key for pseudonyms must be a file that can be read, got: {error.strerror}. "
            "Choose another place for it."
        ) from None


def _create(path: Path) -> None:
    make_private_folder(path.parent)
    write_whole(path, os.urandom(KEY_BYTES), replace=False)  # fails where somebody was faster


def _loaded(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        about = os.fstat(file.fileno())
        if about.st_mode & 0o077 or not stat.S_ISREG(about.st_mode):
            raise DataError(
                "the key for pseudonyms must be readable by its owner alone, this one is open to others. "
                "Who read it can find patients: delete it to get a new one, or set its mode to 0600."
            )
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise DataError(
            f"the key for pseudonyms must have {KEY_BYTES} bytes, this file has another size. "
            "Restore it, or delete it to get a new one."
        )
    return key
