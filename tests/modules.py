"""The modules of the package: files, rooms, and what each imports."""

import ast
import functools
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "wardround"


def room_of(path):
    parts = path.relative_to(SOURCE).parts
    return "reproduce.mechanisms" if parts[:2] == ("reproduce", "mechanisms") else parts[0].removesuffix(".py")


@functools.cache
def imports_in(path):
    """The import statements of one file; those under TYPE_CHECKING count as well."""
    return [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def imports_of(path):
    """All imported module names of one file, absolute."""
    for node in imports_in(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            if node.module == "wardround":
                yield from (f"wardround.{alias.name}" for alias in node.names)
            else:
                yield node.module


def within(module):
    """A module, and every package that it is in."""
    parts = module.split(".")
    return {".".join(parts[: length + 1]) for length in range(len(parts))}


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def module_of(path):
    parts = ("wardround", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_by(path, modules):
    """Modules of the package that one file imports; `from room import module` is an import of the module."""
    for node in imports_in(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in modules else node.module
