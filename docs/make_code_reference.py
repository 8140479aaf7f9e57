"""The reference of commands and of the public Python names, from the command line's own help and from docstrings."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

COMMANDS = Path(__file__).with_name("commands.md")
PYTHON = Path(__file__).with_name("reference-python.md")

_OPTIONS = "<!-- options: written by docs.make_reference -->"
_END = "<!-- end -->"
_OPENING = """# The Python interface

Written by `python -m docs.make_reference` from the docstrings; a test holds this page to them.

All names are in `wardround`, and are imported when they are first used. [Use a trained model](predict.md#from-python)
has examples, [the gradient engine](engine.md) is `wardround.per_patient`. Every error is a `WardroundError` with one
sentence and a stable `code`.
"""


def commands_page() -> str:
    """Returns the page of commands, with the arguments and options of each."""
    from typer.main import get_command

    from wardround.cli.main import app

    before, rest = COMMANDS.read_text(encoding="utf-8").split(_OPTIONS, 1)
    after = rest.partition(_END)[2]
    return "\n".join([f"{before}{_OPTIONS}", *_commands("wardround", get_command(app)), f"{_END}{after}"])


def _commands(path: str, command: Any) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if not inner or (command.callback is not None and path != "wardround"):
        named = [one.make_metavar(None) for one in command.params if one.param_type_name == "argument"]
        yield f"\n### `{' '.join([path, *named])}`\n"
        yield inspect.cleandoc(command.help or "")
        if command.params:
            yield "\n| | default | meaning |\n|---|---|---|"
        yield from (_row(one) for one in command.params)
    for name in sorted(inner):
        yield from _commands(f"{path} {name}", inner[name])


def _row(one: Any) -> str:
    help_text = (one.help or "").replace("|", "\\|")
    names = ", ".join(f"`{name}`" for name in one.opts)
    if one.param_type_name == "argument":
        names = "`{}`".format(one.make_metavar(None).replace("|", "\\|"))
    return f"| {names} | {'required' if one.required else _default(one)} | {help_text} |"


def _default(one: Any) -> str:
    return "" if one.default in (None, False, (), []) or callable(one.default) else f"`{one.default}`"


def python_page() -> str:
    """Returns the page of the public names, in the order of the alphabet, functions first."""
    import wardround

    homes = {name: import_module(wardround._HOMES[name]) for name in wardround.__all__ if name != "__version__"}
    nodes = {name: _node(getattr(home, name), name, home) for name, home in homes.items()}
    ordered = sorted(nodes, key=lambda name: (isinstance(nodes[name], ast.ClassDef), name))
    blocks = [block for name in ordered for block in _entry(name, nodes[name], homes[name])]
    return "\n\n".join([_OPENING.rstrip(), *blocks]) + "\n"


def _node(value: Any, name: str, home: Any) -> ast.stmt:
    """Returns the definition of a name, in the module that has it."""
    source = inspect.getsourcefile(value if inspect.isclass(value) or inspect.isfunction(value) else home)
    assert source is not None
    for node in ast.parse(Path(source).read_text(encoding="utf-8")).body:
        targets = [getattr(node, "target", None), *getattr(node, "targets", ())]
        if name in (getattr(node, "name", None), *(ast.unparse(target) for target in targets if target)):
            return node
    raise AssertionError(name)


def _entry(name: str, node: ast.stmt, home: Any) -> Iterator[str]:
    match node:
        case ast.FunctionDef():
            yield f"## `{name}`"
            yield _signature(node)
            yield _text(ast.get_docstring(node) or "")
        case ast.ClassDef():
            yield f"## `{name}`"
            yield _text(ast.get_docstring(node) or "")
            inner = [one for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
            if rows := [_property_row(one) for one in inner if _is_property(one)]:
                yield "**Properties**"
                yield "\n".join(rows)
            for one in inner:
                if not _is_property(one):
                    yield f"### `{name}.{one.name}`"
                    yield _signature(one)
                    yield _text(ast.get_docstring(one) or "")
        case _:
            yield f"## `{name}`"
            yield f"```python\n{ast.unparse(node)}\n```"


def _is_property(node: ast.FunctionDef) -> bool:
    return not {"property", "cached_property"}.isdisjoint(map(ast.unparse, node.decorator_list))


def _property_row(node: ast.FunctionDef) -> str:
    text = " ".join((ast.get_docstring(node) or "").split())
    return f"- `{node.name}` (`{_returned(node)}`): {text}"


def _returned(node: ast.FunctionDef) -> str:
    return ast.unparse(node.returns).strip("'") if node.returns else "object"


def _signature(node: ast.FunctionDef) -> str:
    """Returns the signature as it is written, without `self`; a long one with an argument a line."""
    found = node.args
    plain = [*found.posonlyargs, *found.args]
    defaults: list[ast.expr | None] = [*[None] * (len(plain) - len(found.defaults)), *found.defaults]
    rows = [_argument(one, default) for one, default in zip(plain, defaults, strict=True)]
    rows = [row for row in rows if row not in ("self", "cls")]
    if found.kwonlyargs:
        pairs = zip(found.kwonlyargs, found.kw_defaults, strict=True)
        rows += ["*", *(_argument(one, default) for one, default in pairs)]
    line = f"def {node.name}({', '.join(rows)}) -> {_returned(node)}: ..."
    if len(line) > 100:
        line = ",\n    ".join([f"def {node.name}(\n    {rows[0]}", *rows[1:]]) + f",\n) -> {_returned(node)}: ..."
    return f"```python\n{line}\n```"


def _argument(one: ast.arg, default: ast.expr | None) -> str:
    typed = f"{one.arg}: {ast.unparse(one.annotation)}" if one.annotation else one.arg
    return typed if default is None else f"{typed} = {ast.unparse(default)}"


def _text(docstring: str) -> str:
    """Returns a docstring as Markdown: sections of the Google style as bold words and lists, doctests as code."""
    lines: list[str] = []
    code = False
    for line in docstring.splitlines():
        if code != (shown := line.lstrip().startswith(">>>") or (code and line.strip() != "")):
            lines.append("```" if code else "\n```pycon")
            code = shown
        if code:
            lines.append(line.strip())
        elif re.fullmatch(r"[A-Z][a-z ]+:", line):
            lines += [f"**{line.removesuffix(':')}**", ""]
        elif item := re.fullmatch(r"    ([\w*]+): (.*)", line):
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith("        ") else line.removeprefix("    "))
    return "\n".join([*lines, *(["```"] if code else [])])
