"""Text on its way to a terminal: nothing in it steers or reorders, and nothing is lost."""

import ast
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wardround
from wardround.boundary.text import brief, say, shown, steers
from wardround.errors import StudyError

DIRECTIONS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
STEERING = [
    "\x1b[2J",
    "\r",
    "\n",
    "\x07",
    "\x7f",
    "\x9b31m",
    "\u202e",
    "\u2066",
    "\u200f",
    "\u2028",
    "\ud800",
    "\U000e0041",
]


@pytest.mark.parametrize("text", STEERING, ids=ascii)
def test_what_steers_a_terminal_is_shown_by_its_number(text):
    assert steers(f"a{text}b")
    assert shown(text).isprintable()
    assert not steers(shown(text))
    if text != "\U000e0041":
        assert json.loads(f'"{shown(text)}"') == text, "nothing is lost"


@given(st.text())
def test_no_control_or_direction_is_left_and_letters_stay(text):
    out = shown(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in out)
    assert not any(unicodedata.bidirectional(c) in DIRECTIONS for c in out)
    assert "".join(c for c in text if not steers(c)) == text or out != text


@pytest.mark.parametrize("text", ["Süd", "病院", "مستشفى", "a b", "ε = 8", "St. Anna"])
def test_names_of_hospitals_are_shown_as_they_are(text):
    assert shown(text) == text
    assert not steers(text)


def test_a_long_value_is_shortened():
    assert len(brief("x" * 10_000)) < 200
    assert brief("abc") == "'abc'"


def test_commands_print_through_one_function():
    folder = Path(wardround.__file__).parent
    for path in [*(folder / "cli").glob("*.py"), folder / "simulation" / "sweeps" / "child.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                assert "shown(" in ast.unparse(node), f"{path.name}: {ast.unparse(node)}"


def test_a_long_error_is_shortened_and_a_long_answer_is_not(capsys):
    say("x" * 10_000)
    say("x" * 10_000, error=True)
    streams = capsys.readouterr()
    assert len(streams.out) == 10_001
    assert len(streams.err) < 8100


@pytest.mark.parametrize("text", ["\x1b[31m", "\u202e"])
def test_no_command_lets_a_study_file_steer_the_terminal(wardround, tiny, tmp_path, study_file, text):
    escape = json.dumps(text)[1:-1]
    path = study_file()
    study = path.read_text()
    path.write_text(
        study.replace("[study]", f'[study]\ndescription = "{escape}"', 1).replace('description = ""\n', "")
    )
    said = wardround("check", path)
    assert said.code == 0, said.err
    assert text not in said.out + said.err
    assert escape in said.out.lower()
    for line in (f'"{escape}" = 1', f'name = "{escape}"'):
        path.write_text(
            study.replace("[study]", f"[study]\n{line}", 1).replace(
                'name = "tiny"\n', "" if "name" in line else 'name = "tiny"\n'
            )
        )
        ended = wardround("check", path)
        assert ended.code == 2
        assert isinstance(ended.error, StudyError)
        assert text not in ended.err


@pytest.mark.parametrize("section", ["hospitals", "data", "site"])
def test_no_name_in_a_study_has_a_control_character(tiny, section):
    from wardround.config import parse_study

    bad = "a\x1bb\u202e"
    given = {
        "hospitals": {"names": ["a", "b", bad]},
        "data": {"classes": ["clear", bad]},
        "site": {"class_names": {bad: "clear"}},
    }[section]
    raw = tiny()
    raw.setdefault(section, {}).update(given)
    with pytest.raises(StudyError, match="control characters"):
        parse_study(raw)


def test_markup_in_a_stage_is_text(capsys):
    from rich.console import Console

    from wardround.cli.terminal import Terminal

    console = Console(force_terminal=False, width=100)
    with console.capture() as capture, Terminal(console) as terminal:
        terminal.stage("[red]x[/red] [link=file:///etc]y[/link] \x1b[31m")
    assert "[red]x[/red]" in capture.get()
    assert "\x1b" not in capture.get()
