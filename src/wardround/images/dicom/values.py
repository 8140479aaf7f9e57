"""Header elements as plain Python values: text, finite numbers, items of sequences."""

import math
from collections.abc import Callable, Iterable, MutableSequence
from functools import cache
from typing import TYPE_CHECKING, Any

from wardround.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

MAX_FRAMES = 20_000
"""A file with more frames is refused."""


def text(found: "Dataset", keyword: str) -> str:
    """Returns an element as text, without padding; empty where there is none. Several values are joined."""
    return "\\".join(texts(found, keyword))


def texts(found: "Dataset", keyword: str) -> list[str]:
    """Returns every value of an element as text."""
    return [str(value).strip(" \t\r\n\0") for value in _values(found, keyword)]


def numbers(found: "Dataset", keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Returns every value of an element as a finite number; None where there is none.

    Raises:
        DataError: another count, or something that is no number.
    """
    values = tuple(float(value) for value in _values(found, keyword))
    if not values:
        return None
    if not all(map(math.isfinite, values)) or (count is not None and len(values) != count):
        raise DataError("a header must hold finite numbers where numbers belong, this one does not.")
    return values


def whole_number(found: "Dataset", keyword: str, default: int) -> int:
    """Returns the first value of an element as an integer, or the default where there is none."""
    values = numbers(found, keyword)
    return int(values[0]) if values else default


def items(found: "Dataset | None", keyword: str) -> "list[Dataset]":
    """Returns the items of a sequence; none where there is no sequence."""
    from pydicom.dataset import Dataset

    value = None if found is None else value_of(found, keyword)
    if value is None:
        return []
    sequence = list(value)
    if not all(isinstance(item, Dataset) for item in sequence):
        raise DataError("a header must hold sequences where sequences belong, this one does not.")
    return sequence


def num_frames(found: "Dataset") -> int:
    """Returns the number of frames that a file says it has.

    Raises:
        DataError: fewer than one or more than `MAX_FRAMES`.
    """
    frames = whole_number(found, "NumberOfFrames", 1) or 1
    if not 1 <= frames <= MAX_FRAMES:
        raise DataError(f"a file must have 1 to {MAX_FRAMES:,} frames, this one says otherwise. Leave it out.")
    return frames


def grouped(found: "Dataset") -> "list[list[Dataset]]":
    """Returns the places of every frame's values, in order: its own functional groups, the shared ones, the file.

    Source: DICOM PS3.3 C.7.6.16. The macros of a group lie side by side in one list.

    Raises:
        DataError: another number of groups than of frames.
    """
    return _groups(found, range(num_frames(found)))


def groups_of(found: "Dataset", frame: int) -> "list[Dataset]":
    """Returns the places of one frame's values; see `grouped`."""
    return _groups(found, [frame])[0]


def _groups(found: "Dataset", frames: "Iterable[int]") -> "list[list[Dataset]]":
    own = items(found, "PerFrameFunctionalGroupsSequence")
    if own and len(own) != num_frames(found):
        raise DataError("a file must describe each of its frames, this one has another number of descriptions.")
    shared = [*_macros(items(found, "SharedFunctionalGroupsSequence")[:1]), found]
    return [[*_macros(own[frame : frame + 1]), *shared] for frame in frames]


def _macros(groups: "list[Dataset]") -> "list[Dataset]":
    return [item for group in groups for keyword in _MACROS for item in items(group, keyword)[:1]]


def is_grouped(found: "Dataset") -> bool:
    """Returns True if each frame of a file has functional groups of its own."""
    return bool(value_of(found, "PerFrameFunctionalGroupsSequence"))


def first_with(groups: "Iterable[Dataset]", *keywords: str) -> "Dataset | None":
    """Returns the first place that has every one of the elements."""
    return next((group for group in groups if all(value_of(group, k) not in (None, "") for k in keywords)), None)


_MACROS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "SegmentIdentificationSequence",
)


@cache
def tag_of(keyword: str) -> "BaseTag":
    """Returns the tag of an element; looking a keyword up costs as much as reading the element."""
    from pydicom.tag import Tag

    return Tag(keyword)


def value_of(found: "Dataset", keyword: str) -> Any:
    """Returns an element's value, or None.

    Plain values are converted as `Dataset.get` converts them, which takes four times as long to keep them too.
    """
    element: Any = found.get_item(tag_of(keyword))
    if element is None:
        return None
    if element.VR not in _PLAIN or not element.is_raw:
        return found[element.tag].value
    return _converter()(element.VR, element, found.original_character_set)


_PLAIN = frozenset({"CS", "IS", "LO", "SH", "UI", "US"})
"""Value representations whose meaning depends on no other element but the character set."""


@cache
def _converter() -> "Callable[[str, RawDataElement, str | MutableSequence[str]], Any]":
    from pydicom.values import convert_value

    return convert_value


def _values(found: "Dataset", keyword: str) -> list[Any]:
    value = value_of(found, keyword)
    if value is None or value == "":
        return []
    if isinstance(value, (str, bytes, int, float)):
        return [value]
    return list(value) if isinstance(value, Iterable) else [value]
