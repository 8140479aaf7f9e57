"""Codecs of values, arrays, dataclasses and closed sums: to JSON and arrays, and back with every check."""

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

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

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """Returns the value as JSON; appends its arrays."""
        ...

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> object:
        """Returns the value that `write` made JSON of; takes its arrays."""
        ...


@dataclass(frozen=True)
class Plain:
    """A value that is its own JSON.

    Attributes:
        wording: of the values that are accepted.
        holds: accepts a value.
    """

    wording: str
    holds: Callable[[Any], bool]

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        if not self.holds(value):
            raise refused(name, self.wording, value)
        return value

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> object:
        """See `Codec`."""
        return self.write(data, name, [])


def integer(least: int, most: int = MOST_INTEGER) -> Plain:
    """Returns the codec of a whole number in a range; a truth value is none."""
    # Not isinstance: True is an int.
    return Plain(f"a whole number from {least} to {most}", lambda x: type(x) is int and least <= x <= most)


FLAG = Plain("true or false", lambda x: isinstance(x, bool))
TEXT = Plain(
    "1 to 100 printable characters", lambda x: isinstance(x, str) and 1 <= len(x) <= 100 and x.isprintable()
)
SHA256 = Plain(
    "64 lower-case hexadecimal digits",
    lambda x: isinstance(x, str) and len(x) == 64 and set(x) <= set("0123456789abcdef"),
)


@dataclass(frozen=True)
class Number:
    """A real number in a range; NaN is in none.

    Attributes:
        wording: of the range.
        holds: accepts a number.
    """

    wording: str
    holds: Callable[[float], bool]

    def write(self, value: object, name: str, arrays: list[Raw]) -> float | str:
        """See `Codec`. Infinity is a word: JSON has no number for it."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not self.holds(float(value)):
            raise refused(name, f"a number {self.wording}", value)
        return number_to_json(float(value))

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> float:
        """See `Codec`."""
        number = math.inf if data == _INFINITY else data
        if type(number) is not float or not self.holds(number):
            raise refused(name, f"a number {self.wording}", data)
        return number


@dataclass(frozen=True)
class Choice:
    """A member of an enumeration of words."""

    words: type[StrEnum]

    def write(self, value: object, name: str, arrays: list[Raw]) -> str:
        """See `Codec`."""
        if not isinstance(value, self.words):
            raise refused(name, f"one of {', '.join(self.words)}", value)
        return value.value

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> StrEnum:
        """See `Codec`."""
        if not isinstance(data, str) or data not in set(self.words):
            raise refused(name, f"one of {', '.join(self.words)}", data)
        return self.words(data)


@dataclass(frozen=True)
class Charged:
    """An event, as the ledger was charged for it."""

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        if not isinstance(value, Event):
            raise refused(name, "an event", value)
        return to_json(value)

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> Event:
        """See `Codec`."""
        try:
            event = from_json(data)  # type: ignore[arg-type]  # from_json refuses what is no object
            # from_json overlooks keys that it does not know, and takes 1 for 1.0.
            same = canonical_json(to_json(event)) == canonical_json(data)  # type: ignore[arg-type]  # likewise
            same = same and all(count <= _MOST_RELEASES for _, count in leaves(event))
        except PrivacyError:
            same = False
        if not same:
            raise refused(name, "an event of the accountants' vocabulary", data)
        return event


@dataclass(frozen=True)
class Blob:
    """Bytes whose inside has a format of its own; a `range` of sizes holds for the sender as well."""

    sizes: Sizes | range

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        if not isinstance(value, bytes):
            raise refused(name, "bytes", value)
        if isinstance(self.sizes, range):
            _check_size(len(value), self.sizes, name)
        arrays.append(value)
        return {"bytes": len(value)}

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> bytes:
        """See `Codec`."""
        sizes = self.sizes if isinstance(self.sizes, range) else self.sizes(limits)
        return bytes(_taken(data, "bytes", name, arrays, sizes))


@dataclass(frozen=True)
class Array:
    """A vector of one type, (item,); read without a copy, and read-only.

    Attributes:
        kind: name of the type.
        sizes: lengths that a reader accepts.
        check: refuses values, as a `FederationError`; given the largest length, None at the sender.
    """

    kind: str
    sizes: Sizes
    check: Callable[[Any, str, int | None], None]

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        if not isinstance(value, np.ndarray) or value.dtype != self.kind or value.ndim != 1:
            raise refused(name, f"a vector of {self.kind}", getattr(value, "dtype", value))
        self.check(value, name, None)
        arrays.append(np.ascontiguousarray(value, dtype=np.dtype(self.kind).newbyteorder("<")).data)
        return {self.kind: value.size}

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> npt.NDArray[Any]:
        """See `Codec`."""
        sizes, own = self.sizes(limits), np.dtype(self.kind)
        taken = _taken(data, self.kind, name, arrays, sizes)
        vector = np.frombuffer(taken, dtype=own.newbyteorder("<")).astype(own, copy=False)
        self.check(vector, name, sizes[-1])
        return vector


def reals(sizes: Sizes) -> Array:
    """Returns the codec of a vector of finite float32, (coordinate,)."""
    return Array("float32", sizes, _check_finite)


@dataclass(frozen=True)
class Optional:
    """A value or None."""

    codec: Codec

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        return None if value is None else self.codec.write(value, name, arrays)

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> object:
        """See `Codec`."""
        return None if data is None else self.codec.read(data, name, arrays, limits)


@dataclass(frozen=True)
class Tuple:
    """A tuple of values of one kind."""

    codec: Codec
    sizes: Sizes

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        if not isinstance(value, tuple):
            raise refused(name, "a tuple", value)
        return [self.codec.write(item, name, arrays) for item in value]

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> object:
        """See `Codec`."""
        if not isinstance(data, list):
            raise refused(name, "a list", data)
        _check_size(len(data), self.sizes(limits), name)
        return tuple(self.codec.read(item, name, arrays, limits) for item in data)


@dataclass(frozen=True)
class Record(Generic[M]):
    """A dataclass as a JSON object with its kind and exactly its fields.

    Attributes:
        kind: word that means the class.
        make: the class.
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


def decode(codec: Codec, content: bytes, name: str, limits: Limits) -> Any:
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
    count = cast(int, integer(0).write(data[kind], name, []))
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


POSITIONS = Array("int64", Limits.some_parameters, _check_ascending)
"""Positions of parameters, ascending, each once."""
