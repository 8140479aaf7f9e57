"""Entries to patients, and the same picture under two names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.images.entries import Entry
from wardround.images.group import digest_of, group_by_patient
from wardround.images.listing import Listing

NOBODY: frozenset[int] = frozenset()


def listing(*rows):
    """Entries from (patient, label) with file names in order."""
    entries = tuple(Entry(f"{i:03d}.png", label, patient) for i, (patient, label) in enumerate(rows))
    return Listing(entries, ("a", "b"))


def grouped(rows, digests, unreadable=NOBODY):
    return group_by_patient(listing(*rows), digests, unreadable)


def test_all_images_of_a_person_are_one_patient_and_patients_are_sorted():
    patients, findings = grouped([("z", 0), ("a", 0), ("z", 1)], ["1", "2", "3"])
    assert [(p.id, p.rows, p.labels, p.label) for p in patients] == [
        ("a", (1,), (0,), 0),
        ("z", (0, 2), (0, 1), 1),
    ]
    assert findings.two_labels == ("z",)


def test_the_same_picture_under_two_patients_joins_nobody():
    patients, findings = grouped([("x", 0), ("y", 0), ("y", 0), ("q", 0)], ["1", "1", "2", "3"])
    assert [(p.id, p.rows) for p in patients] == [("q", (3,)), ("x", (0,)), ("y", (1, 2))]
    assert findings.shared_pictures == (("000.png", "001.png"),)
    assert findings.repeated_pictures == 1


def test_one_picture_with_two_labels_is_a_finding():
    patients, findings = grouped([("x", 0), ("y", 1)], ["1", "1"])
    assert len(patients) == 2
    assert findings.conflicting_duplicates == findings.shared_pictures == (("000.png", "001.png"),)


def test_a_copy_within_one_patient_is_dropped_and_counted():
    patients, findings = grouped([("x", 0), ("x", 0), ("x", 1)], ["1", "1", "1"])
    assert [p.rows for p in patients] == [(0, 2)], "of two labels no one can say which is right"
    assert findings.summary()["repeated_pictures"] == 2
    assert findings.shared_pictures == ()


def test_a_copy_in_the_published_test_part_is_kept_and_straddles():
    entries = tuple(Entry(f"{part}/a.png", 0, "x", split=part) for part in ("test", "train", "val"))
    [patient], findings = group_by_patient(Listing(entries, ("a", "b")), ["1"] * 3, NOBODY)
    assert patient.rows == (0, 1)
    assert findings.straddling == ("x",)


def test_unreadable_rows_are_left_out_and_rows_keep_their_place():
    patients, findings = grouped([("x", 0), ("x", 0), ("y", 0)], ["1", "2", "3"], unreadable=frozenset({0}))
    assert [p.rows for p in patients] == [(1,), (2,)]
    assert findings.unreadable == ("000.png",)


def test_a_patient_with_two_sites_keeps_both_and_belongs_to_neither():
    entries = (
        Entry("0", 0, "x", site="north"),
        Entry("1", 0, "x", site="south"),
        Entry("2", 0, "y", site="north"),
    )
    patients, _ = group_by_patient(Listing(entries, ("a", "b")), ["1", "2", "3"], NOBODY)
    assert [(p.site, p.sites) for p in patients] == [(None, ("north", "south")), ("north", ("north",))]


@pytest.mark.parametrize(("digests", "unreadable"), [(["1", "1"], set()), (["1", "2"], {1})])
def test_a_picture_that_is_dropped_still_names_a_site(digests, unreadable):
    """A listing has no contents: check, which reads nothing else, must deal patients as run does."""
    entries = (Entry("0", 0, "x", site="north"), Entry("1", 0, "x", site="south"))
    [patient], findings = group_by_patient(Listing(entries, ("a", "b")), digests, frozenset(unreadable))
    assert (patient.rows, patient.sites, patient.site) == ((0,), ("north", "south"), None)
    assert findings.two_sites == ("x",)


def test_the_digest_knows_contents_labels_and_patients_and_ignores_order():
    def digest(rows, digests):
        return digest_of(grouped(rows, digests)[0])

    first = digest([("x", 0), ("y", 1)], ["1", "2"])
    assert first == digest([("y", 1), ("x", 0)], ["2", "1"])
    others = [
        digest([("x", 0), ("y", 0)], ["1", "2"]),
        digest([("x", 0), ("z", 1)], ["1", "2"]),
        digest([("x", 0), ("y", 1)], ["1", "3"]),
        digest([("x", 0)], ["1"]),
    ]
    assert len({first, *others}) == 5


def test_an_id_that_is_a_file_name_and_no_utf_8_has_a_digest():
    """Python keeps such bytes of a name as halves of surrogate pairs, which UTF-8 has no bytes for."""
    patients = [grouped([(name, 0)], ["1"])[0] for name in ("M\udcfcller", "M\udcfdller")]
    assert len(set(map(digest_of, patients))) == 2


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1), st.sampled_from("12345678"))),
    st.sampled_from("abcdef"),
)
def test_removing_a_patient_changes_no_other_patient(rows, gone):
    """Neighbours: the patients of a set without one person are those of the set, but for that person."""

    def facts(some):
        patients, _ = group_by_patient(
            Listing(tuple(Entry(f"{i:03d}.png", label, who) for i, (who, label, _) in some), ("a", "b")),
            [content for _, (_, _, content) in some],
            NOBODY,
        )
        return {p.id: [(image.file, image.label, image.digest) for image in p.images] for p in patients}

    numbered = list(enumerate(rows))
    everyone = facts(numbered)
    everyone.pop(gone, None)
    assert facts([(i, row) for i, row in numbered if row[0] != gone]) == everyone


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1), st.sampled_from("1234"))))
def test_every_content_of_a_patient_is_kept_once_a_label(rows):
    patients, _ = grouped([row[:2] for row in rows], [row[2] for row in rows])
    kept = [(p.id, image.label, image.digest) for p in patients for image in p.images]
    assert sorted(kept) == sorted({*rows} and {(who, label, content) for who, label, content in rows})
