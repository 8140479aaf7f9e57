"""Writes the keys of all files, commands, public names, the arrows of the design, and what leaves without protection.

    docs/reference-study.md    docs/commands.md    docs/reference-python.md    docs/design.md    docs/released.md

python -m docs.make_reference
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.make_code_reference import COMMANDS, PYTHON, commands_page, python_page

from wardround.config import Study
from wardround.config.data import PhantomSection
from wardround.config.model import AugmentSection
from wardround.config.section import Section, kinds_of, tag_of, tags_of
from wardround.config.site import HospitalSection, PolicySection

PAGE = Path(__file__).with_name("reference-study.md")
DESIGN = Path(__file__).with_name("design.md")
RELEASED = Path(__file__).with_name("released.md")

_OPENING = """# Keys of a study file

Written by `python -m docs.make_reference` from the classes in `wardround.config`; a test holds this page to them.

A study file is TOML, one table a section. A key that a section does not have is refused with the nearest known one.
In `[privacy]` the `plan`, and in `[federation]` the `strategy`, decides which keys there are: a key of another kind is
refused, unless it is at its default, as in files from before each kind had keys of its own. Which plans and strategies
fit: [strategies](strategies.md#which-pairs-fit). In a simulation the keys of `[site]` may stand in `[data]` as well.
`wardround schema` prints the same as a JSON schema.
"""
_ARROWS = "<!-- arrows: written by docs.make_reference -->"
_LIST = "<!-- list: written by docs.make_reference -->"
_END = "<!-- end -->"
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_SINGULAR = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
_OWN_FILES = (
    ("hospital", "in `site.toml`, beside `[site]`", HospitalSection),
    ("policy", "in `policy.toml`", PolicySection),
)


def page() -> str:
    """Returns the whole page, as Markdown."""
    return "\n".join([_OPENING, *_sections(), "## A hospital's own files", "", *_own_files()]).rstrip() + "\n"


def _sections() -> Iterator[str]:
    for name, field in Study.model_fields.items():
        kinds = kinds_of(field.annotation) if not isinstance(field.annotation, type) else ()
        yield f"## `[{name}]`\n"
        if not kinds:
            assert isinstance(field.annotation, type)
            yield from _table(field.annotation)
        for kind in kinds:
            tag = tag_of(kind)
            values = " or ".join(f'`{tag} = "{value}"`' for value in tags_of(kind, tag))
            yield f"### {values}\n"
            yield from _table(kind)
        for nested, section in (("site", PhantomSection), ("training", AugmentSection)):
            if name == nested:
                key = "phantom" if name == "site" else "augment"
                yield f"### `[{name}.{key}]`\n"
                yield from _table(section)


def _own_files() -> Iterator[str]:
    for name, where, section in _OWN_FILES:
        yield f"### `[{name}]`, {where}\n"
        yield from _table(section)


def _table(section: type[Section]) -> Iterator[str]:
    """Yields one section's table: a row a key, with its values, default and description."""
    schema = section.model_json_schema(by_alias=False)
    known = schema.get("$defs", {})
    tags = ("plan", "strategy", "level")
    yield "| key | values | default | meaning |"
    yield "|---|---|---|---|"
    for key, found in schema["properties"].items():
        if key in tags and len(found.get("enum", ["one"])) == 1:
            continue  # stands in the heading
        if "$ref" in found or "properties" in found:
            continue  # a table of its own
        default = "required" if key in schema.get("required", ()) else _default(found.get("default"))
        yield f"| `{key}` | {_values(found, known)} | {default} | {_cell(found.get('description', ''))} |"
    yield ""


def _default(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f'`"{value}"`'
        case _:
            return f"`{value}`"


def _values(found: dict[str, Any], known: dict[str, Any]) -> str:
    """Returns the values that a key takes, in words."""
    if "$ref" in found:
        return _values(known[found["$ref"].rpartition("/")[2]], known)
    if "anyOf" in found:
        return " or ".join(_values(one, known) for one in found["anyOf"] if one.get("type") != "null")
    if "const" in found:
        return f'`"{found["const"]}"`'
    if "enum" in found:
        return ", ".join(f'`"{value}"`' for value in found["enum"])
    if "properties" in found:
        return f"`{{{', '.join(f'{key} = ...' for key in found['properties'])}}}`"
    if found.get("type") == "array":
        if "prefixItems" in found:
            return f"list of {len(found['prefixItems'])}: {_values(found['prefixItems'][0], known)}"
        return f"list of: {_values(found['items'], known)}"
    if found.get("format") == "path":
        return "path"
    if found.get("type") == "object":
        return f"table of: {_values(found['additionalProperties'], known)}"
    bounds = [f"{sign} {found[bound]:g}" for bound, sign in _BOUNDS.items() if bound in found]
    return " ".join([_SINGULAR[found["type"]], ", ".join(bounds)]).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def design_page() -> str:
    """Returns the page on the design, with its arrows as the dictionary in the tests has them."""
    from tests.test_architecture import ARROWS

    before, rest = DESIGN.read_text(encoding="utf-8").split(_ARROWS, 1)
    after = rest.partition(_END)[2]
    leaves = ", ".join(f"`{room}`" for room, targets in ARROWS.items() if not targets)
    rows = [
        f"| `{room}` | {', '.join(f'`{name}`' for name in sorted(targets))} |"
        for room, targets in ARROWS.items()
        if targets
    ]
    table = "\n".join(["| room | imports |", "|---|---|", f"| {leaves} | nothing here |", *rows])
    return f"{before}{_ARROWS}\n{table}\n{_END}{after}"


def released_page() -> str:
    """Returns the page on what leaves, with the list of `wardround.simulation.released`."""
    from wardround.simulation.released import UNPROTECTED

    before, rest = RELEASED.read_text(encoding="utf-8").split(_LIST, 1)
    after = rest.partition(_END)[2]
    rows = [
        f"| {one.what.format(one='patient')} | {one.to} | {one.protected_by.format(one='patient')} | "
        f"{', '.join(f'`{place}`' for place in one.where) or '–'} |"
        for one in UNPROTECTED
    ]
    table = "\n".join(["| what | to | protected by | in the record |", "|---|---|---|---|", *rows])
    return f"{before}{_LIST}\n{table}\n{_END}{after}"


if __name__ == "__main__":
    RELEASED.write_text(released_page(), encoding="utf-8")
    DESIGN.write_text(design_page(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    COMMANDS.write_text(commands_page(), encoding="utf-8")
    PYTHON.write_text(python_page(), encoding="utf-8")
