"""The base of every section of a study file: frozen, and closed to unknown keys."""

from typing import Annotated, Any, LiteralString, Self, get_args, get_origin

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from wardround.published import published

TAGS = ("plan", "strategy", "level")
"""Keys that say of which kind a section is."""


class Section(BaseModel):
    """One table of a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def kinds(cls) -> "tuple[type[Section], ...]":
        """Returns the classes that a table of this class is read by: itself."""
        return (cls,)


class PublishedSection(Section):
    """A section whose tag names published plans or strategies: each has its keys in a class of its own.

    The classes right below are open: they stand for their kinds, which `wardround.published` finds by name.
    """

    @classmethod
    def kinds(cls) -> tuple[type[Section], ...]:
        """Returns the class of each name, imported when first asked for."""
        if PublishedSection not in cls.__bases__:
            return (cls,)
        names = tags_of(cls, tag_of(cls))
        return tuple(published(name, "section").SECTIONS[name] for name in names)

    @model_validator(mode="wrap")
    @classmethod
    def _by_its_own_class(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        if PublishedSection not in cls.__bases__ or not isinstance(given, dict):
            return handler(given)
        tag = tag_of(cls)
        return next(kind for kind in cls.kinds() if given[tag] in tags_of(kind, tag)).model_validate(given)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Returns the schema of every kind, one of which a table must hold to."""
        if PublishedSection not in cls.__bases__:
            return handler(schema)
        return {"oneOf": [handler(kind.__pydantic_core_schema__) for kind in cls.kinds()]}


def conflict(code: LiteralString, message: str) -> PydanticCustomError:
    """Returns the error of keys that do not fit together, with the code of the `StudyError` that it becomes."""
    return PydanticCustomError(code, "{message}", {"message": message})


def kinds_of(section: object) -> tuple[type[Section], ...]:
    """Returns the classes of a section that is a sum of kinds, such as `[privacy]`; empty for another."""
    options = get_args(section)[0] if get_origin(section) is Annotated else section
    classes = [kind for kind in get_args(options) if isinstance(kind, type) and issubclass(kind, Section)]
    return tuple(kind for each in classes for kind in each.kinds())


def tag_of(kind: type[Section]) -> str:
    """Returns the key that says which kind a section is."""
    return next(tag for tag in TAGS if tag in kind.model_fields)


def tags_of(kind: type[Section], tag: str) -> tuple[str, ...]:
    """Returns the values of a kind's own tag, such as its plan."""
    return get_args(kind.model_fields[tag].annotation)


def without_defaults_of_others(
    given: dict[str, Any], tag: str, kinds: tuple[type[Section], ...]
) -> dict[str, Any]:
    """Returns a table without keys that other kinds have and that are given as those kinds' defaults.

    Study files written before kinds had keys of their own name every key; a default asks for nothing.
    """
    own = next((kind for kind in kinds if given.get(tag) in tags_of(kind, tag)), None)
    if own is None:
        return given
    known = _names(own)

    def says_nothing(key: str, value: object) -> bool:
        if key in known:
            return False
        fields = [kind.model_fields[key] for kind in kinds if key in kind.model_fields]
        return bool(fields) and (value is None or any(field.default == value for field in fields))

    return {key: value for key, value in given.items() if not says_nothing(key, value)}


def _names(kind: type[Section]) -> set[str]:
    """Returns every name under which a kind's keys are read."""
    names = set(kind.model_fields)
    for field in kind.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            names |= {str(choice) for choice in field.validation_alias.choices}
    return names
