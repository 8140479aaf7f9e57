"""The true size of a compressed frame: its codestream against the header, before a decoder makes room for it.

A header may say 512 x 512 and the codestream 60,000 x 60,000. Processes that DICOM does not use, progressive JPEG
among them, are refused: their files can make a decoder work for hours on little data.
Source: ITU-T T.800 A.5.1 (JPEG 2000); of JPEG see `decode.jpeg`.
"""

import struct
from typing import TYPE_CHECKING

from wardround.errors import DataError
from wardround.images.decode.jpeg import size_of_jpeg
from wardround.images.dicom.values import num_frames, whole_number

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

RLE = "1.2.840.10008.1.2.5"
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 201, 202, 203))


def check_frames(found: "Dataset", syntax: str, frame: int | None) -> None:
    """Raises `DataError` unless each compressed frame, or the one named, has the size that the header gives.

    The pixels are encapsulated; `frame` is the one that will be decoded, None for all.
    """
    from pydicom.encaps import generate_frames, get_frame

    frames = num_frames(found)
    offsets = found.get("ExtendedOffsetTable"), found.get("ExtendedOffsetTableLengths")
    extended = offsets if all(offsets) else None
    data = found.PixelData
    if frame is None:
        streams = generate_frames(data, number_of_frames=frames, extended_offsets=extended)
    else:
        streams = iter([get_frame(data, frame, number_of_frames=frames, extended_offsets=extended)])
    said = tuple(whole_number(found, keyword, 1) for keyword in ("Rows", "Columns", "SamplesPerPixel"))
    for stream in streams:
        if syntax == RLE:
            # Run lengths may grow a frame; honest ones do not double it.
            if len(stream) > 1024 + 2 * said[0] * said[1] * said[2] * whole_number(found, "BitsAllocated", 8) // 8:
                raise DataError(_UNLIKE)
        elif (_size_2000(stream) if syntax in _JPEG_2000 else size_of_jpeg(stream)) != said:
            raise DataError(_UNLIKE)


def _size_2000(stream: bytes) -> tuple[int, int, int]:
    """Rows, columns, components of the first JPEG 2000 codestream."""
    start = stream.find(b"\xff\x4f\xff\x51")
    if start < 0 or stream.find(b"\xff\x4f\xff\x51", start + 4, start + 4096) >= 0:
        raise DataError(_UNLIKE)
    right, low, left, top = struct.unpack(">4I", stream[start + 8 : start + 24])
    (components,) = struct.unpack(">H", stream[start + 40 : start + 42])
    return low - top, right - left, components


_UNLIKE = "a compressed frame must have the size that its header gives, this one has not. Export the file again."
