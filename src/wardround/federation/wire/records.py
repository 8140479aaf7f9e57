"""Codecs of whole dataclasses, each by a table of its fields, and of closed sums of dataclasses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from wardround.federation.wire.frame import Arrays, Raw
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.values import Codec, refused

M = TypeVar("M")
_KIND = "kind"


def _nothing(value: object, limits: Limits, name: str) -> None:
    """A record whose fields do not depend on each other."""


@dataclass(frozen=True)
class Record(Generic[M]):
    """A dataclass as a JSON object with its kind and exactly its fields.

    Attributes:
        kind: word that stands for the class.
        make: the class.
        fields: codec of each field, in the order of their arrays.
        check: refuses fields that do not fit each other, or the limits, with a `FederationError`.
    """

    kind: str
    make: type[M]
    fields: Mapping[str, Codec]
    check: Callable[[M, Limits, str], None] = _nothing

    def write(self, value: object, name: str, arrays: list[Raw]) -> dict[str, object]:
        """See `Codec`."""
        if type(value) is not self.make:
            raise refused(name, f"a {self.make.__name__}", type(value).__name__)
        return {
            _KIND: self.kind,
            **{
                key: codec.write(getattr(value, key), f"{name}.{key}", arrays)
                for key, codec in self.fields.items()
            },
        }

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
        self.check(made, limits, name)
        return made


@dataclass(frozen=True)
class OneOf(Generic[M]):
    """A value of a closed sum of dataclasses.

    Attributes:
        record_of: codec of a value, by a `match` over the whole sum.
        records: codec of each kind.
    """

    record_of: Callable[[M], Record[Any]]
    records: tuple[Record[Any], ...]

    def write(self, value: object, name: str, arrays: list[Raw]) -> dict[str, object]:
        """See `Codec`."""
        return self.record_of(cast(M, value)).write(value, name, arrays)

    def read(self, data: object, name: str, arrays: Arrays, limits: Limits) -> M:
        """See `Codec`."""
        kind = data.get(_KIND) if isinstance(data, dict) else None
        for record in self.records:
            if record.kind == kind:
                return cast(M, record.read(data, name, arrays, limits))
        expected = ", ".join(record.kind for record in self.records)
        raise refused(f"{name}.{_KIND}", f"one of {expected}", kind)
