"""The prose of docstrings: the first word says what a function does or a class is, and asks no question."""

import ast
import itertools
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "wardround"
REFUSED = {"how", "of", "what", "when", "where", "whether", "who", "whoever", "whose"}
"""A docstring that opens with one of these is a clause or a fragment, and an engineer who searches does not find it."""


def constants(node):
    """Docstrings of the names that a body assigns, with their first words."""
    body = node.body if isinstance(getattr(node, "body", None), list) else []
    for assigned, place in itertools.pairwise(body):
        if isinstance(assigned, ast.Assign | ast.AnnAssign) and isinstance(place, ast.Expr):
            text = place.value.value if isinstance(place.value, ast.Constant) else None
            found = re.match(r"\W*(\w+)", text) if isinstance(text, str) else None
            if found:
                yield place, found[1].lower()


def opening_words(text):
    """Line, name and first word of every docstring of a module, its classes, functions, properties and constants."""
    for node in ast.walk(ast.parse(text)):
        for place, said in constants(node):
            yield place.lineno, "a constant", said
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = re.match(r"\W*(\w+)", ast.get_docstring(node) or "")
            if found:
                yield getattr(node, "lineno", 1), getattr(node, "name", "the module"), found[1].lower()


def violations(text):
    return [
        f"line {line}: {name} opens with {word!r}" for line, name, word in opening_words(text) if word in REFUSED
    ]


def test_no_docstring_opens_with_a_clause_or_a_fragment():
    found = {
        path.relative_to(SOURCE).as_posix(): violations(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
    }
    assert len(found) > 100
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "docstring", ["What a hospital sends.", "Whether it fits.", "Of the parameters, the norm.", "`who` is it?"]
)
@pytest.mark.parametrize(
    "place",
    [
        '"""{}"""',
        'class A:\n    """{}"""',
        'class A:\n    @property\n    def a(self):\n        """{}"""',
        'A = 1\n"""{}"""',
        'class A:\n    a: int = 1\n    """{}"""',
    ],
)
def test_the_lint_sees_modules_classes_and_properties(place, docstring):
    assert len(violations(place.format(docstring))) == 1
    assert violations(place.format("Returns what a hospital sends.")) == []
