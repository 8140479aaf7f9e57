"""The applier of diffs refuses what a reader could not apply, and then changes nothing."""

import pytest
from tests.patches import DoesNotApplyError, apply, parse

EDIT = "--- a/a.py\n+++ b/a.py\n@@ -9,3 +9,3 @@ def f():\n one\n-two\n+2\n\n"
NEW = "--- /dev/null\n+++ b/room/b.py\n@@ -0,0 +1,2 @@\n+first\n+\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a.py").write_text("zero\none\ntwo\n\nthree\n")
    return tmp_path


def test_a_file_is_changed_wherever_the_lines_are_and_another_made(root):
    apply(parse(EDIT + NEW), root)
    assert (root / "a.py").read_text() == "zero\none\n2\n\nthree\n"
    assert (root / "room/b.py").read_text() == "first\n\n"


@pytest.mark.parametrize("text", ["one\nTWO\n\n", "one\ntwo\n\none\ntwo\n\n", ""])
def test_lines_that_are_gone_or_there_twice_are_refused(root, text):
    (root / "a.py").write_text(text)
    with pytest.raises(DoesNotApplyError, match="not one"):
        apply(parse(NEW + EDIT), root)
    assert (root / "a.py").read_text() == text
    assert not (root / "room").exists(), "nothing is written"


@pytest.mark.parametrize(("path", "diff"), [("a.py", EDIT), ("room/b.py", NEW)])
def test_a_file_that_is_missing_or_not_new_is_refused(root, path, diff):
    if diff == EDIT:
        (root / path).unlink()
    else:
        apply(parse(NEW), root)
    with pytest.raises(DoesNotApplyError, match="must be"):
        apply(parse(diff), root)


@pytest.mark.parametrize(
    "diff",
    [
        EDIT.replace("9,3 +9,3", "9,4 +9,3"),
        EDIT.replace("9,3 +9,3", "9,2 +9,2"),
        EDIT.replace(" one", "one"),
        EDIT.replace("a/a.py", "a/c.py"),
        EDIT.replace("@@ ", "@ ", 1),
        NEW.replace("+first", " first"),
        "words\n" + EDIT,
    ],
)
def test_what_is_no_diff_is_refused(diff):
    with pytest.raises(DoesNotApplyError):
        parse(diff)
