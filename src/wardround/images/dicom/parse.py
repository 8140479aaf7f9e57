"""Bytes to a pydicom data set, within limits that hold for every file.

Files have the DICM mark, or begin at once with the elements that it should precede. A header is sought in the first
bytes and has a largest size; a data set that was deflated as a whole is unpacked up to a limit before pydicom sees it,
for pydicom would unpack all of it.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from wardround.errors import DataError
from wardround.images.dicom.values import tag_of
from wardround.images.store import Store

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag
    from pydicom.uid import UID

MAX_HEADER_BYTES = 16 << 20
"""A file whose header is longer is refused; ten thousand frames have about half of this."""

MAX_INFLATED_BYTES = 300_000_000
"""A data set that was deflated as a whole is unpacked to at most as much."""

_HEAD_BYTES = (16 << 10, 128 << 10)
"""First bytes in which a header is sought, one after another: most are shorter than the first."""

_PIXELS = (0x7FE00001, 0x7FE00002, 0x7FE00010)
"""Offsets of frames, their lengths, and the pixels."""

_PIXEL_GROUP = 0x7FE0
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MARK = bytes(128) + b"DICM"
_LONGEST_FIRST = 64
"""The first element of a data set is a character set, a type or a UID."""

_IMPLICIT = "1.2.840.10008.1.2"
UNCOMPRESSED = (_IMPLICIT, "1.2.840.10008.1.2.1")
"""Transfer syntaxes of pixels as they are, little-endian."""

_GROUP_LENGTH = struct.pack("<HH2sH", 2, 0, b"UL", 4)
_ENCAPSULATED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")

_Stop = Callable[["BaseTag", str | None, int], bool]

_PLAIN_META = _MARK + struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"


def is_dicom(head: bytes) -> bool:
    """Returns True if a file begins as DICOM files do: with the mark, or without its preamble, as some are saved."""
    return head[128:132] == b"DICM" or _is_bare(head)


def _is_bare(head: bytes) -> bool:
    """Returns True for bytes that begin with an element of group 2 or 8, of a length that it may have."""
    if len(head) < 8 or head[128:132] == b"DICM":
        return False
    order = "<" if head[0] else ">"
    group, element, length = struct.unpack(f"{order}HHI", head[:8])
    if group not in (2, 8) or element > 0xFF:
        return False
    is_explicit = head[4:6].isalpha() and head[4:6].isupper()
    return is_explicit or (order == "<" and group == 8 and length <= _LONGEST_FIRST)


def _marked(data: bytes) -> bytes:
    return _MARK + data if _is_bare(data) else data


def header_of(store: Store, name: str, keywords: tuple[str, ...]) -> "tuple[Dataset, bool] | None":
    """Returns the named elements of a header, and True if pixels follow it; None where the file is no DICOM.

    Raises:
        DataError: the header is too long.
        Exception: any that pydicom lets through; call it within `sealed`.
    """
    tags = [int(tag_of(keyword)) for keyword in keywords]
    size = store.size(name)
    for length in (*_HEAD_BYTES, MAX_HEADER_BYTES):
        head = store.head(name, length)
        if not is_dicom(head):
            return None
        is_whole = len(head) < length or len(head) == size
        try:
            found, stopped_at = _parsed(_marked(head), tags)
        except Exception:
            if is_whole:
                raise
            continue  # cut off in the middle of a sequence
        if stopped_at is not None or is_whole:
            return found, stopped_at in _PIXELS
    raise DataError(_TOO_LONG)


def whole(data: bytes) -> "Dataset":
    """Returns the data set of a whole file, pixels included, and nothing that follows them.

    Raises:
        DataError: no DICOM, or a header that is too long.
        Exception: any that pydicom lets through; call it within `sealed`.
    """
    if not is_dicom(data):
        raise DataError("a DICOM file must begin with its mark, this one does not. Copy it again.")
    data = _marked(data)
    if len(data) > MAX_HEADER_BYTES and _parsed(data[:MAX_HEADER_BYTES], [int(tag_of("SOPClassUID"))])[1] is None:
        raise DataError(_TOO_LONG)
    found, _ = _parsed(data, None)
    return found


_TOO_LONG = f"a DICOM header must have at most {MAX_HEADER_BYTES:,} bytes, this one has more. Leave the file out."


def _parsed(data: bytes, tags: list[int] | None) -> "tuple[Dataset, int | None]":
    """Returns a data set, up to its pixels where tags are given, and the first tag that was not read."""
    from pydicom.filereader import read_partial
    from pydicom.uid import UID

    stopped_at: list[int] = []

    def is_far_enough(tag: "BaseTag", vr: str | None, length: int) -> bool:
        if tag >> 16 < _PIXEL_GROUP or (tags is None and tag <= _PIXELS[-1]):
            return False
        stopped_at.append(int(tag))
        return True

    limit = MAX_INFLATED_BYTES if tags is None else MAX_HEADER_BYTES
    content = _inflated(data, limit) if _DEFLATED in data else data
    found = _usual(content, is_far_enough, tags)
    if found is None:
        found = read_partial(io.BytesIO(content), is_far_enough, specific_tags=tags)
    if content is not data:
        found.file_meta.TransferSyntaxUID = UID(_DEFLATED.decode())  # the file holds fewer bytes than its pixels
    elif not found.file_meta.get("TransferSyntaxUID"):
        found.file_meta.TransferSyntaxUID = _guessed(found)
    return found, stopped_at[0] if stopped_at else None


def _usual(content: bytes, stop_when: _Stop, tags: list[int] | None) -> "Dataset | None":
    """Returns the data set that `read_partial` returns, in 60 % of its time; None of a file that it has to guess about.

    Such a file begins otherwise than with the length of its meta group or has another later on, names no usual transfer
    syntax, or has command elements or nothing behind that group.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset

    if not content.startswith(_GROUP_LENGTH, len(_MARK)):
        return None
    file = io.BytesIO(content)
    file.seek(len(_MARK))
    meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2))
    length = meta.get_item(tag_of("FileMetaInformationGroupLength"))
    if length is None or (length.VR, length.value) != ("UL", content[140:144]):  # a later one takes its place
        return None
    named = meta.get(tag_of("TransferSyntaxUID"))
    syntax = "" if named is None else str(named.value)
    group = content[file.tell() : file.tell() + 2]
    if group in (b"", b"\0", b"\0\0") or not (syntax in UNCOMPRESSED or syntax.startswith(_ENCAPSULATED)):
        return None
    found = read_dataset(file, syntax == _IMPLICIT, True, stop_when=stop_when, specific_tags=tags)
    found.file_meta = meta
    return found


def _inflated(data: bytes, limit: int) -> bytes:
    """Returns a file whose data set is not deflated, with the same data set as far as the limit allows."""
    from pydicom.filereader import read_dataset

    file = io.BytesIO(data)
    file.seek(132)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != _DEFLATED.decode():
        return data
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = unpacking.decompress(data[file.tell() :], limit)
    if unpacking.unconsumed_tail and limit == MAX_INFLATED_BYTES:
        raise DataError(
            f"a file must unpack to at most {MAX_INFLATED_BYTES:,} bytes, this one has more. Leave it out."
        )
    return _PLAIN_META + plain


def _guessed(found: "Dataset") -> "UID":
    """Returns the uncompressed transfer syntax that pydicom read a file with that names none."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    is_implicit, is_little = found.original_encoding
    return ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
