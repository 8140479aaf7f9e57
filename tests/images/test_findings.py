"""What is said to whom about a data set."""

from wardround.images.findings import Findings, LeftOut, not_used
from wardround.types import PatientId

SEEN = Findings(
    unreadable=("secret/a.png",),
    shared_pictures=(("secret/b.png", "secret/c.png"),),
    two_labels=(PatientId("secret"),) * 7,
    notes=("3 files that are no pictures were passed over",),
)


def test_the_summary_holds_numbers_and_no_name():
    assert SEEN.summary()["two_labels"] == 7
    assert "secret" not in repr(SEEN.summary())


def test_nothing_found_says_nothing():
    assert not any(Findings().summary().values())


def test_notes_and_omissions_are_said_once_each():
    gone = [LeftOut("Doe.png", "files: damaged"), LeftOut("Roe.png", "files: damaged")]
    notes = ("read as UTF-16", "passed over: files: damaged (2)")
    assert list(not_used(notes, gone)) == ["read as UTF-16", "left out: files: damaged (2)"]
    assert list(not_used(notes, gone, shown=1)) == [
        "read as UTF-16",
        "left out: files: damaged (2: Doe.png and 1 more)",
    ]
    assert list(not_used(notes, ())) == list(notes)
