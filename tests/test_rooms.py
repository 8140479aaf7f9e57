"""Rooms and files of a size that can be read, and no room for odds and ends."""

import ast
from collections import Counter
from pathlib import Path

from tests.modules import FILES, SOURCE, room_of

MOST_LINES = 400
MOST_FILES = 20

PUBLISHED = {"sparse-vector", "top-k", "local-pictures", "selective"}
NAMES_OF_WORK = {"work.py": "selective"}
"""The kinds of work are a closed sum, and this one is asked for by a published strategy alone."""


def names_any(text):
    return any(name in text for name in (*PUBLISHED, "wardround.reproduce"))


def test_the_table_alone_names_what_only_published_systems_need():
    wrong = []
    for path in FILES:
        text = path.read_text()
        if room_of(path) in ("published", "reproduce", "reproduce.mechanisms") or not names_any(text):
            continue
        tree = ast.parse(text)
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        prose = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
        said = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        for text in said - prose - {NAMES_OF_WORK.get(path.name)}:
            if names_any(text):
                wrong.append(f"{path.relative_to(SOURCE)}: {text!r}")
    assert wrong == [], "only wardround.published names these, or leads to reproduce"


def test_no_file_and_no_room_is_too_large_to_read():
    files = (*FILES, *Path(__file__).parent.rglob("*.py"))
    assert not [path for path in files if len(path.read_text().splitlines()) > MOST_LINES]
    flat = Counter(path.parent for path in FILES)
    assert not [room for room, files in flat.items() if room != SOURCE and files > MOST_FILES]


def test_every_room_is_a_package():
    assert not {path.parent for path in FILES} - {path.parent for path in SOURCE.rglob("__init__.py")}


def test_there_is_no_drawer_for_odds_and_ends():
    names = {path.stem for path in SOURCE.rglob("*")}
    assert not names & {"utils", "util", "common", "core", "helpers", "misc"}
