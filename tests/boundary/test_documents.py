"""Documents from outside: read within bounds or refused with a reason, and honest ones are read."""

import os
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.boundary.documents import (
    DEEPEST,
    MOST_KEY_PARTS,
    MOST_TOML_BYTES,
    Unfit,
    load_table,
    parse_json,
    parse_toml,
    read_regular,
)

HOSTILE_TOML = {
    "a dotted key": ".".join(["a"] * 50_000) + " = 1",
    "a dotted key in quotes": " . ".join(['"\\""'] * 20_000) + " = 1",
    "a dotted key in an inline table": 'x = {y = """a"""", ' + ".".join(["a"] * 5000) + " = 1}",
    "a dotted header": "[" + ".".join(["'a'"] * 5000) + "]",
    "nested arrays": "x = " + "[" * 100_000,
    "closed nested arrays": "x = " + "[" * 300 + "]" * 300,
    "nested inline tables": "x = " + "{a = " * 300 + "1" + "}" * 300,
    "a long number": "x = " + "9" * 6000,
    "a number of 65 bits": f"x = {2**64}",
    "too many characters": "#" * (MOST_TOML_BYTES + 1),
    "no day": "x = 2026-02-30",
    "not closed": 'x = "' + '\\"' * 100_000,
}
HOSTILE_JSON = {
    "nested": "[" * 100_000,
    "closed and nested": "[" * 300 + "]" * 300,
    "a long number": "9" * 6000,
    "a number of 65 bits": f"[{2**64}]",
    "NaN": "[NaN]",
    "infinite": "[1e999]",
    "half a surrogate": '["\\ud800"]',
    "half a surrogate in a key": '{"\\udfff": 1}',
    "no UTF-8": b'"\xff"',
}


@pytest.mark.parametrize("text", HOSTILE_TOML.values(), ids=HOSTILE_TOML)
def test_a_hostile_toml_document_is_refused(text):
    with pytest.raises(Unfit):
        parse_toml(text)


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_a_hostile_json_document_is_refused(text):
    with pytest.raises(Unfit):
        parse_json(text)


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", '{"x": 1}'), ("a.JSON", '{"x": 1}'), ("a.toml", "x = 1"), ("a", "x = 1")]
)
def test_a_table_is_read_by_the_end_of_its_name_and_within_its_bytes(name, text, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    assert load_table(path, len(text)) == {"x": 1}
    with pytest.raises(Unfit):
        load_table(path, len(text) - 1)
    path.write_text("x: 1")
    with pytest.raises(Unfit):
        load_table(path, len(text))


def test_neighbours_of_hostile_documents_are_read():
    dotted = ".".join(["a"] * MOST_KEY_PARTS) + " = 1"
    assert parse_toml(dotted) == tomllib.loads(dotted)
    uid = 'uid = "1.2.840.113619.2.55.3.2831183.1.1.1.1.1.1.1.1.1.1.1"\nx = [1.5, 2.5, 3.5]'
    assert parse_toml(uid) == tomllib.loads(uid)
    nested = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert parse_json(nested) == parse_toml(f"x = {nested}")["x"]
    assert parse_json(f"[{2**64 - 1}, 1e308]") == [2**64 - 1, 1e308]
    assert parse_json('["\\ud83d\\ude00"]') == ["\U0001f600"]
    assert parse_json(b"\xef\xbb\xbf{}") == {}


TEXTS = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(VALUES)
def test_an_honest_json_document_is_read_as_the_standard_library_does(value):
    import json

    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("kind", ["device", "pipe", "link to a device", "folder", "large", "missing", "null"])
def test_what_is_no_regular_file_of_its_size_is_not_read(tmp_path, kind):
    path = tmp_path / "file"
    match kind:
        case "device":
            path = tmp_path.__class__("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "large":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case "null":
            path = tmp_path / "a\0b"
    with pytest.raises((Unfit, OSError)):
        read_regular(path, 1000)


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "file", 3) == read_regular(tmp_path / "link", 1 << 60) == b"abc"
    with pytest.raises(Unfit, match="more than 2 bytes"):
        read_regular(tmp_path / "file", 2)
