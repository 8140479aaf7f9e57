"""Codecs of single values: to JSON and arrays, and back with every check that holds for all honest messages."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

from wardround.accounting.events import Event, canonical_json, from_json, leaves, to_json
from wardround.accounting.numbers import number_to_json
from wardround.errors import FederationError, PrivacyError
from wardround.federation.wire.frame import Arrays, Raw
from wardround.federation.wire.limits import Limits

MOST_INTEGER: Final = (1 << 63) - 1

Bound: TypeAlias = Callable[[Limits], int]

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
class Integer:
    """A whole number from `least` to `most`; a truth value is none."""

    least: int
    most: int = MOST_INTEGER

    def write(self, value: object, name: str, arrays: list[Raw]) -> int:
        """See `Codec`."""
        return whole(value, name, self.least, self.most)

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> int:
        """See `Codec`."""
        return self.write(data, name, [])


@dataclass(frozen=True)
class Number:
    """A real number in a range; NaN is in none.

    Attributes:
        wording: of the range.
        holds: whether a number is in it.
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
class Flag:
    """A truth value."""

    def write(self, value: object, name: str, arrays: list[Raw]) -> bool:
        """See `Codec`."""
        if not isinstance(value, bool):
            raise refused(name, "true or false", value)
        return value

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> bool:
        """See `Codec`."""
        return self.write(data, name, [])


@dataclass(frozen=True)
class Text:
    """Printable characters, 1 to `most`."""

    most: int = 100

    def write(self, value: object, name: str, arrays: list[Raw]) -> str:
        """See `Codec`."""
        if not isinstance(value, str) or not 1 <= len(value) <= self.most or not value.isprintable():
            raise refused(name, f"1 to {self.most} printable characters", value)
        return str(value)

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> str:
        """See `Codec`."""
        return self.write(data, name, [])


@dataclass(frozen=True)
class Sha256:
    """A hash as 64 lower-case hexadecimal digits."""

    def write(self, value: object, name: str, arrays: list[Raw]) -> str:
        """See `Codec`."""
        if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            raise refused(name, "64 lower-case hexadecimal digits", value)
        return value

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> str:
        """See `Codec`."""
        return self.write(data, name, [])


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
    """A tuple of values of one kind, `least` to `most` of them."""

    codec: Codec
    most: Bound
    least: int = 1

    def write(self, value: object, name: str, arrays: list[Raw]) -> object:
        """See `Codec`."""
        if not isinstance(value, tuple):
            raise refused(name, "a tuple", value)
        return [self.codec.write(item, name, arrays) for item in value]

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> object:
        """See `Codec`."""
        if not isinstance(data, list) or not self.least <= len(data) <= self.most(limits):
            got = len(data) if isinstance(data, list) else data
            raise refused(name, f"a list of {self.least} to {self.most(limits)} values", got)
        return tuple(self.codec.read(item, name, arrays, limits) for item in data)


def refused(name: str, expected: str, came: object) -> FederationError:
    """Returns that a field does not hold, with the first characters of what came."""
    shown = repr(came)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}…"
    return FederationError(
        f"`{name}` must be {expected}, got {shown}. Compare the versions of Wardround and the study files of both ends."
    )


def whole(value: object, name: str, least: int, most: int) -> int:
    """Returns a whole number in its range; refuses anything else as a `FederationError`."""
    if type(value) is not int or not least <= value <= most:  # not isinstance: True is an int
        raise refused(name, f"a whole number from {least} to {most}", value)
    return value
