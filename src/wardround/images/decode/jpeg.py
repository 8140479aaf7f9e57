"""The size that a JPEG or JPEG-LS codestream states, read without a decoder.

Source: ITU-T T.81 B.2.2 (JPEG), T.87 C.2.2 (JPEG-LS).
"""

import struct

_STARTS = (0xC0, 0xC1, 0xC3, 0xF7)
"""Baseline, extended, lossless, JPEG-LS."""

_OTHER_STARTS = (0xC2, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_END, _SCAN = 0xD9, 0xDA
_ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers without a length."""


def size_of_jpeg(stream: bytes) -> tuple[int, int, int] | None:
    """Returns rows, columns and components as the only start of frame before the first scan states them.

    Returns:
        None for another process, such as progressive JPEG, for several starts of frame and for none.
    """
    found: tuple[int, int, int] | None = None
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker in (_SCAN, _END):
            break
        if marker in _OTHER_STARTS or (marker in _STARTS and (found is not None or at + 10 > len(stream))):
            return None
        if marker in _STARTS:
            found = struct.unpack(">HHB", stream[at + 5 : at + 10])
        at += 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    return found
