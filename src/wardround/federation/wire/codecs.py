"""Codecs of values, arrays, dataclasses and closed sums: to JSON and arrays, and back with every check."""

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import Event, canonical_json, from_json, leaves, to_json
from wardround.accounting.numbers import number_to_json
from wardround.errors import FederationError, PrivacyError
from wardround.federation.wire.frame import Arrays, Raw, pack, unpack
from wardround.federation.wire.limits import Limits
from wardround.types import Vector

MOST_INTEGER: Final = (1 << 63) - 1

Sizes: TypeAlias = Callable[[Limits], range]
"""Lengths that a reader accepts."""

Write: TypeAlias = Callable[[Any, str, list[Raw]], Any]
Read: TypeAlias = Callable[[Any, str, Arrays, Limits], Any]

M = TypeVar("M")
_KIND = "kind"
_INFINITY = number_to_json(math.inf)
_MOST_RELEASES = 1 << 40
_SHOWN_CHARACTERS = 60


class Codec(Protocol):
    """One value's way to bytes and back.

    Contract: `read` returns only what `write` takes, and writing what was read gives the same JSON and arrays. Both
    refuse other values with a `FederationError` that names the field.
    """

    @property
    def write(self) -> Write:
        """Function from a value, its name and the arrays so far to JSON; appends its arrays."""

    @property
    def read(self) -> Read:
        """Function from JSON, a name, the arrays and the limits to the value; takes its arrays."""


@dataclass(frozen=True)
class Pair:
    """A codec as two functions; see `Codec`."""

    write: Write
    read: Read


def plain(wording: str, holds: Callable[[Any], bool]) -> Pair:
    """Returns the codec of a value that is its own JSON."""

    def checked(value: Any, name: str, *_: object) -> Any:
        if not holds(value):
            raise refused(name, wording, value)
        return value

    return Pair(checked, checked)


def integer(least: int, most: int = MOST_INTEGER) -> Pair:
    """Returns the codec of a whole number in a range; a truth value is none."""
    # Not isinstance: True is an int.
    return plain(f"a whole number from {least} to {most}", lambda x: type(x) is int and least <= x <= most)


FLAG = plain("true or false", lambda x: isinstance(x, bool))
TEXT = plain(
    "1 to 100 printable characters", lambda x: isinstance(x, str) and 1 <= len(x) <= 100 and x.isprintable()
)
SHA256 = plain(
    "64 lower-case hexadecimal digits",
    lambda x: isinstance(x, str) and len(x) == 64 and set(x) <= set("0123456789abcdef"),
)


def number(wording: str, holds: Callable[[float], bool]) -> Pair:
    """Returns the codec of a real number in a range; NaN is in none, and infinity is a word in JSON."""

    def write(value: Any, name: str, arrays: list[Raw]) -> float | str:
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not holds(float(value)):
            raise refused(name, f"a number {wording}", value)
        return number_to_json(float(value))

    def read(data: Any, name: str, arrays: Arrays, limits: Limits) -> float:
        value = math.inf if data == _INFINITY else data
        if type(value) is not float or not holds(value):
            raise refused(name, f"a number {wording}", data)
        return value

    return Pair(write, read)


def choice(words: type[StrEnum]) -> Pair:
    """Returns the codec of a member of an enumeration of words."""
    wording = f"one of {', '.join(words)}"

    def read(data: Any, name: str, arrays: Arrays, limits: Limits) -> StrEnum:
        if not isinstance(data, str) or data not in set(words):
            raise refused(name, wording, data)
        return words(data)

    member = plain(wording, lambda x: isinstance(x, words))
    return Pair(lambda value, name, arrays: member.write(value, name, arrays).value, read)


def _read_event(data: Any, name: str, arrays: Arrays, limits: Limits) -> Event:
    try:
        event = from_json(data)
        # from_json overlooks keys that it does not know, and takes 1 for 1.0.
        same = canonical_json(to_json(event)) == canonical_json(data)
        same = same and all(count <= _MOST_RELEASES for _, count in leaves(event))
    except PrivacyError:
        same = False
    if not same:
        raise refused(name, "an event of the accountants' vocabulary", data)
    return event


_AN_EVENT = plain("an event", lambda x: isinstance(x, Event))
EVENT = Pair(lambda value, name, arrays: to_json(_AN_EVENT.write(value, name, arrays)), _read_event)
"""An event, as the ledger was charged for it."""


def blob(sizes: Sizes | range) -> Pair:
    """Returns the codec of bytes with a format of their own; a `range` of sizes holds for the sender as well."""

    def write(value: Any, name: str, arrays: list[Raw]) -> object:
        if not isinstance(value, bytes):
            raise refused(name, "bytes", value)
        if isinstance(sizes, range):
            _check_size(len(value), sizes, name)
        arrays.append(value)
        return {"bytes": len(value)}

    def read(data: Any, name: str, arrays: Arrays, limits: Limits) -> bytes:
        return bytes(_taken(data, "bytes", name, arrays, sizes if isinstance(sizes, range) else sizes(limits)))

    return Pair(write, read)


def vector(kind: str, sizes: Sizes, check: Callable[[Any, str, int | None], None]) -> Pair:
    """Returns the codec of a vector of one type, (item,); read without a copy where it is aligned, and read-only.

    Args:
        kind: name of the type.
        sizes: lengths that a reader accepts.
        check: refuses values, as a `FederationError`; given the largest length, None at the sender.
    """
    own, sent = np.dtype(kind), np.dtype(kind).newbyteorder("<")

    def write(value: Any, name: str, arrays: list[Raw]) -> object:
        if not isinstance(value, np.ndarray) or value.dtype != own or value.ndim != 1:
            raise refused(name, f"a vector of {kind}", getattr(value, "dtype", value))
        check(value, name, None)
        arrays.append(np.ascontiguousarray(value, dtype=sent).data)
        return {kind: value.size}

    def read(data: Any, name: str, arrays: Arrays, limits: Limits) -> npt.NDArray[Any]:
        lengths = sizes(limits)
        values = np.frombuffer(_taken(data, kind, name, arrays, lengths), dtype=sent).astype(own, copy=False)
        if not values.flags.aligned:  # some sums of NumPy would add it up in another order
            values = values.copy()
            values.flags.writeable = False
        check(values, name, lengths[-1])
        return values

    return Pair(write, read)


def reals(sizes: Sizes) -> Pair:
    """Returns the codec of a vector of finite float32, (coordinate,)."""
    return vector("float32", sizes, _check_finite)


def optional(codec: Codec) -> Pair:
    """Returns the codec of a value or None."""
    return Pair(
        lambda value, name, arrays: None if value is None else codec.write(value, name, arrays),
        lambda data, name, arrays, limits: None if data is None else codec.read(data, name, arrays, limits),
    )


def tuple_of(codec: Codec, sizes: Sizes) -> Pair:
    """Returns the codec of a tuple of values of one kind."""

    def write(value: Any, name: str, arrays: list[Raw]) -> object:
        if not isinstance(value, tuple):
            raise refused(name, "a tuple", value)
        return [codec.write(item, name, arrays) for item in value]

    def read(data: Any, name: str, arrays: Arrays, limits: Limits) -> tuple[Any, ...]:
        if not isinstance(data, list):
            raise refused(name, "a list", data)
        _check_size(len(data), sizes(limits), name)
        return tuple(codec.read(item, name, arrays, limits) for item in data)

    return Pair(write, read)


@dataclass(frozen=True)
class Record(Generic[M]):
    """A dataclass as a JSON object with its kind and exactly its fields.

    Attributes:
        fields: codec of each field, in the order of their arrays.
        check: refuses fields that do not fit each other with a `FederationError`.
    """

    kind: str
    make: type[M]
    fields: Mapping[str, Codec]
    check: Callable[[M, str], None] = lambda value, name: None

    def write(self, value: object, name: str, arrays: list[Raw]) -> dict[str, object]:
        """See `Codec`."""
        if type(value) is not self.make:
            raise refused(name, f"a {self.make.__name__}", type(value).__name__)
        fields = {
            key: codec.write(getattr(value, key), f"{name}.{key}", arrays) for key, codec in self.fields.items()
        }
        return {_KIND: self.kind, **fields}

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> M:
        """See `Codec`."""
        if not isinstance(data, dict) or data.keys() != {_KIND, *self.fields}:
            got = sorted(data) if isinstance(data, dict) else data
            raise refused(name, f"an object with exactly {', '.join([_KIND, *self.fields])}", got)
        if data[_KIND] != self.kind:
            raise refused(f"{name}.{_KIND}", self.kind, data[_KIND])
        values: dict[str, Any] = {
            key: codec.read(data[key], f"{name}.{key}", arrays, limits) for key, codec in self.fields.items()
        }
        made = self.make(**values)
        self.check(made, name)
        return made


@dataclass(frozen=True)
class OneOf:
    """A value of a closed sum of dataclasses; a test compares the records with the sum."""

    records: tuple[Record[Any], ...]

    def record_of(self, value: object) -> Record[Any] | None:
        """Returns the codec of a value; None for one of another sum."""
        return next((record for record in self.records if record.make is type(value)), None)

    def write(self, value: object, name: str, arrays: list[Raw]) -> dict[str, object]:
        """See `Codec`."""
        record = self.record_of(value)
        if record is None:
            expected = ", ".join(record.make.__name__ for record in self.records)
            raise refused(name, f"one of {expected}", type(value).__name__)
        return record.write(value, name, arrays)

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> object:
        """See `Codec`."""
        kind = data.get(_KIND) if isinstance(data, dict) else None
        for record in self.records:
            if record.kind == kind:
                return record.read(data, name, arrays, limits)
        expected = ", ".join(record.kind for record in self.records)
        raise refused(f"{name}.{_KIND}", f"one of {expected}", kind)


def encode(codec: Record[Any] | OneOf, value: object, name: str) -> bytes:
    """Returns the bytes of a message; refuses a field that no receiver would take as a `FederationError`."""
    arrays: list[Raw] = []
    return pack(codec.write(value, name, arrays), arrays)


def decode(codec: Codec, content: Raw, name: str, limits: Limits) -> Any:
    """Returns the message that `encode` wrote; its vectors are read-only views of `content`.

    Guarantee:
        Any other bytes raise. Every vector is of float32, finite, and within `limits`; every length is compared with
        the bytes that came before anything is made of it.

    Raises:
        FederationError: the bytes are cut, of another version, not such a message, or outside `limits`.
    """
    header, arrays = unpack(content, limits.most_bytes)
    message = codec.read(header, name, arrays, limits)
    arrays.finish()
    return message


def refused(name: str, expected: str, came: object) -> FederationError:
    """Returns that a field does not hold, with the first characters of what came."""
    shown = repr(came)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}…"
    return FederationError(
        f"`{name}` must be {expected}, got {shown}. Compare the versions of Wardround and the study files of both ends."
    )


def _taken(data: object, kind: str, name: str, arrays: Arrays, sizes: range) -> memoryview:
    """Returns the bytes of the next array, whose length in the header is one of `sizes`."""
    if not isinstance(data, dict) or data.keys() != {kind}:
        raise refused(name, f"an array of {kind}", data)
    count: int = integer(0).write(data[kind], name, [])
    _check_size(count, sizes, name)
    return arrays.take(kind, count, name)


def _check_size(size: int, sizes: range, name: str) -> None:
    if size not in sizes:
        expected = f"{sizes[0]}" if len(sizes) == 1 else f"at least {sizes[0]} and at most {sizes[-1]}"
        raise FederationError(
            f"`{name}` must have {expected} items, got {size}. Compare the `[model]` and `[data]` sections of the "
            "study files."
        )


def _check_finite(vector: Vector, name: str, longest: int | None) -> None:
    if not np.isfinite(vector).all():
        raise FederationError(
            f"`{name}` must be finite everywhere, got NaN or infinity. Lower `[federation] learning_rate`."
        )


def _check_ascending(positions: npt.NDArray[np.int64], name: str, longest: int | None) -> None:
    if longest is None:
        return
    if positions[0] < 0 or positions[-1] >= longest or np.any(positions[1:] <= positions[:-1]):
        raise FederationError(
            f"`{name}` must be ascending, each once, from 0 to {longest - 1}, got others. Send the request again."
        )


POSITIONS = vector("int64", Limits.some_parameters, _check_ascending)
"""Positions of parameters, ascending, each once."""
