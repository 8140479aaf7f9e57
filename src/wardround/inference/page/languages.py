"""The languages of a page: its own words, and the advice that a study sets for each answer.

An advice file is TOML or JSON, one table a language:

    [en]
    always = "text under every answer"
    uncertain = "text under an uncertain answer, instead of the one of its class"
    [en.classes]
    PNEUMONIA = "text under this class"

Languages that the page knows are `en` and `de`; any other has a `name` and all of the page's `words`.
"""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from wardround.boundary.documents import Unfit, load_table
from wardround.boundary.text import brief
from wardround.errors import StudyError

_MOST_BYTES = 1 << 20


class Language(BaseModel):
    """One table of an advice file.

    Attributes:
        name: of the language, in itself.
        always: a text under every answer.
        uncertain: a text under an uncertain answer, instead of that of its class.
        classes: a text under an answer of each class by its name; none for masks.
        words: the page's own words that are said otherwise.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str | None = None
    always: str | None = None
    uncertain: str | None = None
    classes: dict[str, str] = {}
    words: dict[str, str] = {}


def languages_of(path: Path | None, classes: Sequence[str]) -> dict[str, Any]:
    """Returns each language as the page reads it: its name, its words and its advice.

    Args:
        path: of an advice file; None for the page's own languages without advice.
        classes: names that advice may be given for.

    Raises:
        StudyError: the file does not hold (code `study-advice`).
    """
    own = tomllib.loads((files("wardround.inference.page") / "assets" / "words.toml").read_text("utf-8"))
    if path is None:
        return {code: language | {"advice": {}} for code, language in own.items()}
    found = {}
    for code, given in _read(path).items():
        found[code] = _language(code, given, own, classes)
    if not found:
        raise _unfit("have a table for at least one language", "got none", "add [en]")
    return found


def _language(code: str, given: object, own: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    try:
        language = Language.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, (code, *fault["loc"])))
        raise _unfit(
            "hold texts by the names of its format", f"got `{place}`: {fault['msg']}", "correct it"
        ) from None
    if unknown := sorted(set(language.classes) - set(classes)):
        raise _unfit(
            f"name classes of the model ({', '.join(classes)})",
            f"got {brief(unknown[0])} in [{code}]",
            "correct it",
        )
    wanted = set(own["en"]["words"])
    if unknown := sorted(set(language.words) - wanted):
        raise _unfit("set words that the page has", f"got {brief(unknown[0])} in [{code}.words]", "leave it out")
    known = own.get(code, {"name": None, "words": {}})
    words = known["words"] | language.words
    name = language.name or known["name"]
    if name is None or (missing := sorted(wanted - set(words))):
        lacks = "name" if name is None else f"words.{missing[0]}"
        raise _unfit(
            f"give a language that the page does not know ({', '.join(own)} it does) a name and all words",
            f"got [{code}] without `{lacks}`", "add it",
        )  # fmt: skip
    advice = language.model_dump(include={"always", "uncertain", "classes"}, exclude_none=True)
    return {"name": name, "words": words, "advice": advice}


def _read(path: Path) -> dict[str, object]:
    try:
        found = load_table(path, _MOST_BYTES)
    except (OSError, Unfit) as error:
        raise _unfit("be a TOML or JSON file in UTF-8", f"got {path.name} ({error})", "correct it") from None
    if not isinstance(found, dict):
        raise _unfit("hold a table for each language", f"got {type(found).__name__}", "correct it")
    return found


def _unfit(must: str, came: str, do: str) -> StudyError:
    return StudyError(f"`--advice` must {must}, {came}; {do}.", code="study-advice")
