"""Typed reading of what a run left as JSON; a value of another shape is a damaged record, said in a sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from wardround.accounting.numbers import number_from_json
from wardround.errors import RecordError


@dataclass(frozen=True)
class JsonObject:
    """One JSON object of a record.

    Attributes:
        values: the object.
        where: its place, for error messages, such as "certificate.json".
    """

    values: Mapping[str, object]
    where: str

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self.values.get(key, default)
        return value if isinstance(value, str) else self._wrong(key, "a text", value)

    def flag(self, key: str) -> bool:
        """A truth value."""
        value = self.values.get(key)
        return value if isinstance(value, bool) else self._wrong(key, "true or false", value)

    def integer(self, key: str) -> int:
        """A whole number."""
        value = self.values.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and isinstance(value, int) else self._wrong(key, "a whole number", value)

    def number(self, key: str) -> float:
        """A number; 'infinity' in words is one."""
        value = self.values.get(key)
        try:
            return number_from_json(value)
        except (TypeError, ValueError):
            return self._wrong(key, "a number", value)

    def maybe_number(self, key: str) -> float | None:
        """A number, or None when it is absent or null."""
        return None if self.values.get(key) is None else self.number(key)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, int | float) for item in value):
            return self._wrong(key, "a list of numbers", value)
        return tuple(float(item) for item in value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when absent."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            return self._wrong(key, "a list of texts", value)
        return tuple(value)

    def section(self, key: str) -> "JsonObject":
        """An object inside this one; empty when absent."""
        return self._inside(key, self.values.get(key, {}))

    def maybe_section(self, key: str) -> "JsonObject | None":
        """An object inside this one, or None when it is absent or null."""
        return None if self.values.get(key) is None else self.section(key)

    def named_objects(self, key: str) -> "dict[str, JsonObject]":
        """An object of objects, in its order; empty when absent."""
        inner = self.section(key)
        return {name: inner.section(name) for name in inner.values}

    def objects(self, key: str) -> "tuple[JsonObject, ...]":
        """A list of objects; empty when absent."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            return self._wrong(key, "a list", value)
        return tuple(self._inside(key, item) for item in value)

    def _inside(self, key: str, value: object) -> "JsonObject":
        if not isinstance(value, dict):
            return self._wrong(key, "an object", value)
        return JsonObject(value, f"{self.where}, {key}")

    def _wrong(self, key: str, wanted: str, got: object) -> NoReturn:
        raise RecordError(
            f"{self.where} must hold {wanted} under {key!r}, got {got!r}; restore it, or read it with the version "
            "of Wardround that wrote it."
        )
